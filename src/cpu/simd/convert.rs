//! Runs of elements to f32 and back.
#![allow(unsafe_code)]

use super::{Level, level};
use crate::element::{DType, Float};

/// `out[i] = x[i]`, exactly.
#[inline(always)]
pub(in crate::cpu) fn widen<T: Float>(x: &[T], out: &mut [f32]) {
    debug_assert_eq!(x.len(), out.len());
    match T::DTYPE {
        DType::F32 => out.copy_from_slice(bytemuck::cast_slice(x)),
        DType::Bf16 => {
            for (out, &x) in out.iter_mut().zip(bytemuck::cast_slice::<T, u16>(x)) {
                *out = f32::from_bits(u32::from(x) << 16);
            }
        }
        DType::F16 => widen_f16(bytemuck::cast_slice(x), out),
    }
}

/// `out[i] = x[i]`, rounded to nearest even.
#[inline(always)]
pub(in crate::cpu) fn narrow<T: Float>(x: &[f32], out: &mut [T]) {
    debug_assert_eq!(x.len(), out.len());
    match T::DTYPE {
        DType::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(x),
        DType::Bf16 => {
            for (out, &x) in bytemuck::cast_slice_mut::<T, u16>(out).iter_mut().zip(x) {
                *out = bf16_bits(x);
            }
        }
        DType::F16 => narrow_f16(x, bytemuck::cast_slice_mut(out)),
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
pub(in crate::cpu) fn round<T: Float>(x: &mut [f32]) {
    match T::DTYPE {
        DType::F32 => {}
        DType::Bf16 => x.iter_mut().for_each(|x| *x = f32::from_bits(u32::from(bf16_bits(*x)) << 16)),
        DType::F16 => round_f16(x),
    }
}

/// Two elements that are exact in bf16, in the place of one; the first in the lower half.
#[inline(always)]
pub(in crate::cpu) fn word(even: f32, odd: f32) -> f32 {
    f32::from_bits(even.to_bits() >> 16 | odd.to_bits() & 0xffff_0000)
}

/// Puts the elements of `x`, which are exact in bf16, two by two at its beginning; the last of an odd number beside zero.
#[inline(always)]
pub(in crate::cpu) fn pair(x: &mut [f32]) {
    let mut done = 0;
    while done + 32 <= x.len() {
        let mut words = [0.0; 16];
        for (i, out) in words.iter_mut().enumerate() {
            *out = word(x[done + 2 * i], x[done + 2 * i + 1]);
        }
        x[done / 2..done / 2 + 16].copy_from_slice(&words);
        done += 32;
    }
    for i in (done..x.len()).step_by(2) {
        x[i / 2] = word(x[i], x.get(i + 1).copied().unwrap_or(0.0));
    }
}

/// Widens bits of f16.
fn widen_f16(x: &[u16], out: &mut [f32]) {
    let done = vectors(x.len());
    #[cfg(target_arch = "x86_64")]
    if done > 0 {
        // SAFETY: `vectors` is above zero only from `Level::Avx2` on, for which `detect` found F16C.
        unsafe { f16c::widen(x.as_chunks().0, out.as_chunks_mut().0) }
    }
    for (out, &x) in out[done..].iter_mut().zip(&x[done..]) {
        *out = half::f16::from_bits(x).to_f32();
    }
}

/// Rounds to bits of f16.
fn narrow_f16(x: &[f32], out: &mut [u16]) {
    let done = vectors(x.len());
    #[cfg(target_arch = "x86_64")]
    if done > 0 {
        // SAFETY: `vectors` is above zero only from `Level::Avx2` on, for which `detect` found F16C.
        unsafe { f16c::narrow(x.as_chunks().0, out.as_chunks_mut().0) }
    }
    for (out, &x) in out[done..].iter_mut().zip(&x[done..]) {
        *out = half::f16::from_f32(x).to_bits();
    }
}

/// Rounds each element to f16.
fn round_f16(x: &mut [f32]) {
    for chunk in x.chunks_mut(64) {
        let mut bits = [0; 64];
        narrow_f16(chunk, &mut bits[..chunk.len()]);
        widen_f16(&bits[..chunk.len()], chunk);
    }
}

/// How many of `n` elements F16C converts here.
fn vectors(n: usize) -> usize {
    if level() >= Level::Avx2 { n / 8 * 8 } else { 0 }
}

#[cfg(target_arch = "x86_64")]
mod f16c {
    use std::arch::x86_64::*;

    /// Eight at a time; the caller does the tail.
    #[target_feature(enable = "avx,f16c")]
    pub(super) fn widen(x: &[[u16; 8]], out: &mut [[f32; 8]]) {
        for (x, out) in x.iter().zip(out) {
            // SAFETY: the types of the arrays say eight elements, which is what the vectors hold.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast()))) }
        }
    }

    /// Eight at a time; the caller does the tail.
    #[target_feature(enable = "avx,f16c")]
    pub(super) fn narrow(x: &[[f32; 8]], out: &mut [[u16; 8]]) {
        for (x, out) in x.iter().zip(out) {
            // SAFETY: the types of the arrays say eight elements, which is what the vectors hold.
            unsafe {
                let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
                _mm_storeu_si128(out.as_mut_ptr().cast(), half);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    fn check<T: Float>() {
        let x: Vec<f32> = (0..1 << 17).map(|i: u32| f32::from_bits((i << 15) | ((i & 1) * 0x1234) | i >> 9)).collect();
        let (mut narrowed, mut widened, mut rounded) = (vec![T::default(); x.len()], vec![0.0; x.len()], x.clone());
        super::super::vectorize(
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
    fn pairs_are_in_order() {
        for n in 0..150_usize {
            let all: Vec<f32> = (0..n).map(|i| bf16::from_f32(i as f32 - 20.0).to_f32()).collect();
            let mut x = all.clone();
            pair(&mut x);
            for (i, word) in x[..n.div_ceil(2)].iter().enumerate() {
                let half = |bits: u32| f32::from_bits(bits << 16);
                assert_eq!(half(word.to_bits()), all[2 * i]);
                assert_eq!(half(word.to_bits() >> 16), all.get(2 * i + 1).copied().unwrap_or(0.0));
            }
        }
    }

    #[test]
    fn conversions_round_to_nearest_even() {
        check::<bf16>();
        check::<f16>();
        check::<f32>();
    }
}
