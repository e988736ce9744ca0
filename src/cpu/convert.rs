//! Runs of elements to f32 and back.

use super::simd;
use crate::{DType, Float};

/// `out[i] = x[i]`, exactly.
#[inline(always)]
pub(super) fn widen<T: Float>(x: &[T], out: &mut [f32]) {
    debug_assert_eq!(x.len(), out.len());
    match T::DTYPE {
        DType::F32 => out.copy_from_slice(bytemuck::cast_slice(x)),
        DType::Bf16 => {
            for (out, &x) in out.iter_mut().zip(bytemuck::cast_slice::<T, u16>(x)) {
                *out = f32::from_bits(u32::from(x) << 16);
            }
        }
        DType::F16 => simd::widen_f16(bytemuck::cast_slice(x), out),
    }
}

/// `out[i] = x[i]`, rounded to nearest even.
#[inline(always)]
pub(super) fn narrow<T: Float>(x: &[f32], out: &mut [T]) {
    debug_assert_eq!(x.len(), out.len());
    match T::DTYPE {
        DType::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(x),
        DType::Bf16 => {
            for (out, &x) in bytemuck::cast_slice_mut::<T, u16>(out).iter_mut().zip(x) {
                *out = bf16_bits(x);
            }
        }
        DType::F16 => simd::narrow_f16(x, bytemuck::cast_slice_mut(out)),
    }
}

/// The bits of the nearest bf16, ties to even.
#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if x.is_nan() { quiet } else { rounded }) as u16
}

/// Rounds each element to `T`.
#[inline(always)]
pub(super) fn round<T: Float>(x: &mut [f32]) {
    match T::DTYPE {
        DType::F32 => {}
        DType::Bf16 => x.iter_mut().for_each(|x| *x = f32::from_bits(u32::from(bf16_bits(*x)) << 16)),
        DType::F16 => simd::round_f16(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    fn check<T: Float>() {
        let x: Vec<f32> =
            (0..1 << 17).map(|i: u32| f32::from_bits((i << 15) | ((i & 1) * 0x1234) | (i >> 9))).collect();
        let (mut narrowed, mut widened, mut rounded) = (vec![T::default(); x.len()], vec![0.0; x.len()], x.clone());
        simd::vectorize(
            #[inline(always)]
            || {
                narrow(&x, &mut narrowed);
                widen(&narrowed, &mut widened);
                round::<T>(&mut rounded);
            },
        );
        for (i, &x) in x.iter().enumerate() {
            let want = T::from_f32(x).to_f32();
            let same = |got: f32| got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            assert!(same(narrowed[i].to_f32()) && same(widened[i]) && same(rounded[i]), "{x:e}: {}", widened[i]);
        }
    }

    #[test]
    fn conversions_round_to_nearest_even() {
        check::<bf16>();
        check::<f16>();
        check::<f32>();
    }
}
