//! Products of rows of a 4-bit weight with one to four vectors: codes are decoded in registers, where they are used.
#![allow(unsafe_code)]

use super::{Level, level};
use crate::{
    cpu::device::Cpu,
    element::{DType, Float},
    quant::Weight4,
};

/// The most vectors that there are kernels for.
pub(in crate::cpu) const MAX_ROWS: usize = 4;

/// The vectors, in f32 and in bf16.
pub(in crate::cpu) struct Inputs {
    /// `[n, cols]`.
    pub(in crate::cpu) wide: Vec<f32>,
    /// `[n, cols]`, the upper halves of `wide`.
    halves: Vec<u16>,
    /// Is nothing lost in `halves`?
    exact: bool,
    /// Elements of a vector.
    pub(in crate::cpu) cols: usize,
}

impl Inputs {
    /// Vectors of `cols` elements, one after the other.
    pub(in crate::cpu) fn new(wide: Vec<f32>, cols: usize) -> Self {
        let halves = wide.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
        let exact = wide.iter().all(|x| x.to_bits() & 0xffff == 0);
        Inputs { wide, halves, exact, cols }
    }
}

/// `out[i] = x[i] · weight[row]` with the weight rounded to `T`. False, and nothing done, where this machine or this
/// shape has no kernel.
#[inline]
pub(in crate::cpu) fn dots<T: Float>(weight: &Weight4<'_, Cpu>, row: usize, x: &Inputs, out: &mut [f32]) -> bool {
    if !weight.cols.is_multiple_of(weight.block_size) || x.cols != weight.cols || !(1..=MAX_ROWS).contains(&out.len()) {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: `level` found AVX-512 BF16 and all below it.
        Level::Avx512Bf16 if T::DTYPE == DType::Bf16 && x.exact => unsafe { x86::bf16_any::<T>(weight, row, x, out) },
        // SAFETY: `level` found AVX-512 F, BW, DQ and VL, besides AVX2, FMA and F16C.
        Level::Avx512 | Level::Avx512Bf16 => unsafe { x86::avx512_any::<T>(weight, row, x, out) },
        // SAFETY: `level` found AVX2, FMA and F16C.
        Level::Avx2 => unsafe { x86::avx2_any::<T>(weight, row, x, out) },
        Level::Portable => return false,
    }
    cfg!(target_arch = "x86_64")
}

/// What the SAFETY comments rest on: [`dots`] lets in only weights whose rows are whole blocks and as long as the
/// vectors, and a block, whose size `Weight4::verify` has checked, has 16 bytes or a multiple of 32.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{
        super::decode::{each_block, values},
        *,
    };
    use std::arch::x86_64::*;

    /// A kernel for each number of vectors.
    macro_rules! any {
        ($any:ident, $kernel:ident, $features:literal) => {
            #[target_feature(enable = $features)]
            pub(super) fn $any<T: Float>(weight: &Weight4<'_, Cpu>, row: usize, x: &Inputs, out: &mut [f32]) {
                match out.len() {
                    1 => out.copy_from_slice(&$kernel::<T, 1>(weight, row, x)),
                    2 => out.copy_from_slice(&$kernel::<T, 2>(weight, row, x)),
                    3 => out.copy_from_slice(&$kernel::<T, 3>(weight, row, x)),
                    _ => out.copy_from_slice(&$kernel::<T, 4>(weight, row, x)),
                }
            }
        };
    }

    any!(bf16_any, bf16, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16");
    any!(avx512_any, avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl");
    any!(avx2_any, avx2, "avx2,fma,f16c");

    /// Multiplies 32 elements of each vector, from `at` on, with the codes of 16 bytes.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn step<const N: usize>(
        table: __m512i,
        bytes: &[u8],
        x: &[&[u16]; N],
        at: usize,
        acc: &mut [[__m512; 2]; N],
        half: usize,
    ) {
        debug_assert!(bytes.len() >= 16 && x.iter().all(|x| x.len() >= at + 32));
        // The index of each code in a 16-bit word; the look-up ignores what is above five bits.
        // SAFETY: `bf16` cuts a block into pieces of 16 bytes.
        let byte = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
        let words = _mm512_or_si512(_mm512_srli_epi32::<4>(byte), _mm512_slli_epi32::<16>(byte));
        let w = _mm512_permutexvar_epi16(words, table);
        for (acc, x) in acc.iter_mut().zip(x) {
            // SAFETY: `each_block` stays in the row, which `dots` found as long as `x`. All types are 512 bits.
            unsafe {
                let x = _mm512_loadu_si512(x.as_ptr().add(at).cast());
                let (w, x) = (std::mem::transmute::<__m512i, __m512bh>(w), std::mem::transmute::<__m512i, __m512bh>(x));
                acc[half] = _mm512_dpbf16_ps(acc[half], w, x);
            }
        }
    }

    /// Weights and inputs as bf16, products in pairs, sums in f32. `x` must be exact in bf16.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    fn bf16<T: Float, const N: usize>(weight: &Weight4<'_, Cpu>, row: usize, x: &Inputs) -> [f32; N] {
        let mut acc = [[_mm512_setzero_ps(); 2]; N];
        let inputs: [&[u16]; N] = std::array::from_fn(|i| &x.halves[i * x.cols..][..x.cols]);
        // SAFETY: the type of the array says sixteen elements: one vector.
        let codes = unsafe { _mm512_loadu_ps(weight.format.codes().as_ptr()) };
        each_block(
            weight,
            row,
            #[inline(always)]
            |at, bytes, absmax| {
                let values = _mm512_cvtneps_pbh(_mm512_mul_ps(codes, _mm512_set1_ps(absmax)));
                // SAFETY: both types are 256 bits.
                let values = unsafe { std::mem::transmute::<__m256bh, __m256i>(values) };
                // Both halves of the table, because the look-up takes five bits and the fifth is the next code's.
                let table = _mm512_broadcast_i64x4(values);
                let (pairs, rest) = bytes.as_chunks::<32>();
                for (j, bytes) in pairs.iter().enumerate() {
                    for half in 0..2 {
                        step(table, &bytes[half * 16..], &inputs, at + j * 64 + half * 32, &mut acc, half);
                    }
                }
                if !rest.is_empty() {
                    step(table, rest, &inputs, at + pairs.len() * 64, &mut acc, 0);
                }
            },
        );
        acc.map(|[a, b]| _mm512_reduce_add_ps(_mm512_add_ps(a, b)))
    }

    /// Weights as f32.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn avx512<T: Float, const N: usize>(weight: &Weight4<'_, Cpu>, row: usize, x: &Inputs) -> [f32; N] {
        let mut acc = [[_mm512_setzero_ps(); 2]; N];
        let inputs: [&[f32]; N] = std::array::from_fn(|i| &x.wide[i * x.cols..][..x.cols]);
        // SAFETY: the type of the array says sixteen elements: one vector.
        let codes = unsafe { _mm512_loadu_ps(weight.format.codes().as_ptr()) };
        each_block(
            weight,
            row,
            #[inline(always)]
            |at, bytes, absmax| {
                let table = match T::DTYPE {
                    DType::F32 => _mm512_mul_ps(codes, _mm512_set1_ps(absmax)),
                    // SAFETY: the type of the array says sixteen elements: one vector.
                    _ => unsafe { _mm512_loadu_ps(values::<T>(weight.format.codes(), absmax).as_ptr()) },
                };
                let bytes = bytes.as_chunks::<16>().0;
                for (j, bytes) in bytes.iter().enumerate() {
                    for half in 0..2 {
                        let eight = i64::from_le_bytes(std::array::from_fn(|i| bytes[half * 8 + i]));
                        // As in `look_up`.
                        let byte = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(eight));
                        let code = _mm512_or_si512(_mm512_srli_epi64::<4>(byte), _mm512_slli_epi64::<32>(byte));
                        let w = _mm512_permutexvar_ps(code, table);
                        for (acc, x) in acc.iter_mut().zip(inputs) {
                            // SAFETY: `each_block` stays in the row, which `dots` found as long as `x`.
                            let x = unsafe { _mm512_loadu_ps(x.as_ptr().add(at + j * 32 + half * 16)) };
                            acc[half] = _mm512_fmadd_ps(w, x, acc[half]);
                        }
                    }
                }
            },
        );
        acc.map(|[a, b]| _mm512_reduce_add_ps(_mm512_add_ps(a, b)))
    }

    /// Weights as f32, the table in two halves.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn avx2<T: Float, const N: usize>(weight: &Weight4<'_, Cpu>, row: usize, x: &Inputs) -> [f32; N] {
        let mut acc = [[_mm256_setzero_ps(); 2]; N];
        let inputs: [&[f32]; N] = std::array::from_fn(|i| &x.wide[i * x.cols..][..x.cols]);
        each_block(
            weight,
            row,
            #[inline(always)]
            |at, bytes, absmax| {
                let values = values::<T>(weight.format.codes(), absmax);
                // SAFETY: the type of `values` says sixteen elements: two vectors.
                let (low, high) =
                    unsafe { (_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))) };
                let bytes = bytes.as_chunks::<8>().0;
                for (j, bytes) in bytes.iter().enumerate() {
                    for half in 0..2 {
                        let four = i32::from_le_bytes(std::array::from_fn(|i| bytes[half * 4 + i]));
                        let byte = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
                        let code = _mm256_or_si256(_mm256_srli_epi64::<4>(byte), _mm256_slli_epi64::<32>(byte));
                        let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(code));
                        let found = [low, high].map(|half| _mm256_permutevar8x32_ps(half, code));
                        let w = _mm256_blendv_ps(found[0], found[1], upper);
                        for (acc, x) in acc.iter_mut().zip(inputs) {
                            // SAFETY: `each_block` stays in the row, which `dots` found as long as `x`.
                            let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(at + j * 16 + half * 8)) };
                            acc[half] = _mm256_fmadd_ps(w, x, acc[half]);
                        }
                    }
                }
            },
        );
        acc.map(|[a, b]| {
            let mut lanes = [0.0; 8];
            // SAFETY: the type of `lanes` says eight elements: one vector.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(a, b)) };
            lanes.iter().sum()
        })
    }
}
