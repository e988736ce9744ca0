//! With vectors of 32 bf16: products of pairs, added in f32. What codes stand for is rounded to bf16, and the scales are
//! not.

use super::{AT_ONCE, BEYOND, From4, Inputs, Rows4, Rows16, dense, quantized};
use crate::cpu::simd::{decode, look_up::x86::unnest};
use std::{arch::x86_64::*, mem::transmute};

quantized!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", [4, 2]);
dense!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", [4, 2]);

/// Bytes ahead of the loads at which memory is asked for.
const AHEAD: usize = 2048;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
#[allow(clippy::missing_transmute_annotations)] // From and to vectors of 512 bits, as the intrinsics say.
fn some4<const R: usize, const N: usize>(rows: Rows4<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    let (bytes, blocks, runs) = (x.cols / 2, x.cols / rows.block, rows.block / 64);
    debug_assert!(rows.codes.len() >= R * bytes && rows.scales.len() >= R * blocks && x.halves().len() >= N * x.stride);
    // SAFETY: the type of the array says sixteen elements: one vector of f32. Bits are bits.
    let values: __m256i = unsafe { transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(rows.format.codes().as_ptr()))) };
    // Twice, because the look-up takes five bits, and the fifth is of the byte's other code.
    let table = _mm512_broadcast_i64x4(values);
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    for block in 0..blocks {
        let mut part = [[_mm512_setzero_ps(); N]; R];
        for run in block * runs..(block + 1) * runs {
            // SAFETY: `all4`, the only caller, has `R` rows of `cols` codes left, and `x` has `N` vectors of as many
            // elements; a block is whole runs of 64 (`order4`), and rows are whole blocks. What is prefetched may lie
            // anywhere. Bits are bits.
            unsafe {
                let mut vectors = [[_mm512_setzero_si512(); 2]; N];
                for (i, vector) in vectors.iter_mut().enumerate() {
                    let x = x.halves().as_ptr().add(i * x.stride + run * 64);
                    *vector = [_mm512_loadu_si512(x.cast()), _mm512_loadu_si512(x.add(32).cast())];
                }
                for (j, part) in part.iter_mut().enumerate() {
                    let codes = rows.codes.as_ptr().add(j * bytes + run * 32);
                    _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD).cast());
                    // A byte in each 16 bits.
                    let codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(codes.cast()));
                    let even: __m512bh = transmute(_mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(codes), table));
                    let odd: __m512bh = transmute(_mm512_permutexvar_epi16(codes, table));
                    for (part, x) in part.iter_mut().zip(vectors) {
                        *part = _mm512_dpbf16_ps(*part, even, transmute(x[0]));
                        *part = _mm512_dpbf16_ps(*part, odd, transmute(x[1]));
                    }
                }
            }
        }
        for (j, (sums, part)) in sums.iter_mut().zip(part).enumerate() {
            let scale = _mm512_set1_ps(rows.scales[j * blocks + block]);
            for (sum, part) in sums.iter_mut().zip(part) {
                *sum = _mm512_fmadd_ps(part, scale, *sum);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = _mm512_reduce_add_ps(sum);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
#[allow(clippy::missing_transmute_annotations)] // From and to vectors of 512 bits, as the intrinsics say.
fn some16<const R: usize, const N: usize>(rows: Rows16<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    debug_assert!(rows.elements.len() >= (R - 1) * rows.stride + x.cols && x.halves().len() >= N * x.stride);
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    for run in (0..x.cols).step_by(32) {
        let mask = u32::MAX >> 32_usize.saturating_sub(x.cols - run);
        // SAFETY: `all16`, the only caller, has `R` rows left; the mask ends with the row, and the vectors of `x` go on
        // with zeros to the end of a run. What is prefetched may lie anywhere. Bits are bits.
        unsafe {
            let mut vectors = [_mm512_setzero_si512(); N];
            for (i, vector) in vectors.iter_mut().enumerate() {
                *vector = _mm512_loadu_si512(x.halves().as_ptr().add(i * x.stride + run).cast());
            }
            for (j, sums) in sums.iter_mut().enumerate() {
                let w = rows.elements.as_ptr().add(j * rows.stride + run);
                _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD / 2).cast());
                let w: __m512bh = transmute(_mm512_maskz_loadu_epi16(mask, w.cast()));
                for (sum, x) in sums.iter_mut().zip(vectors) {
                    *sum = _mm512_dpbf16_ps(*sum, w, transmute(x));
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = _mm512_reduce_add_ps(sum);
        }
    }
}
