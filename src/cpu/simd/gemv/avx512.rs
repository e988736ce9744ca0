//! With vectors of 16 f32. What codes stand for is not rounded to the compute type.

use super::{Inputs, Rows4, Rows16, kernels};
use std::arch::x86_64::*;

kernels!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl", 4, 2);

/// Bytes ahead of the loads at which memory is asked for.
const AHEAD: usize = 2048;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn some4<const R: usize, const N: usize>(rows: Rows4<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    let (bytes, blocks, runs) = (x.cols / 2, x.cols / rows.block, rows.block / 32);
    debug_assert!(rows.codes.len() >= R * bytes && rows.scales.len() >= R * blocks && x.wide.len() >= N * x.stride);
    // SAFETY: the type of the array says sixteen elements: one vector.
    let table = unsafe { _mm512_loadu_ps(rows.values.as_ptr()) };
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    for block in 0..blocks {
        let mut part = [[_mm512_setzero_ps(); N]; R];
        for run in block * runs..(block + 1) * runs {
            // SAFETY: `all4`, the only caller, has `R` rows of `cols` codes left, and `x` has `N` vectors of as many
            // elements; a block is whole runs of 32, and rows are whole blocks. What is prefetched may lie anywhere.
            unsafe {
                let mut vectors = [[_mm512_setzero_ps(); 2]; N];
                for (i, vector) in vectors.iter_mut().enumerate() {
                    let x = x.wide.as_ptr().add(i * x.stride + run * 32);
                    *vector = [_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16))];
                }
                for (j, part) in part.iter_mut().enumerate() {
                    let codes = rows.codes.as_ptr().add(j * bytes + run * 16);
                    _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD).cast());
                    // A byte in each 32 bits. The look-up ignores what is above four bits.
                    let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.cast()));
                    let even = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(codes), table);
                    let odd = _mm512_permutexvar_ps(codes, table);
                    for (part, x) in part.iter_mut().zip(vectors) {
                        *part = _mm512_fmadd_ps(odd, x[1], _mm512_fmadd_ps(even, x[0], *part));
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

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn some16<const R: usize, const N: usize>(rows: Rows16<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    debug_assert!(rows.elements.len() >= (R - 1) * rows.stride + x.cols && x.wide.len() >= N * x.stride);
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut sums = [[[_mm512_setzero_ps(); 2]; N]; R];
    for run in (0..x.cols).step_by(32) {
        let mask = u32::MAX >> 32_usize.saturating_sub(x.cols - run);
        // SAFETY: `all16`, the only caller, has `R` rows left; the mask ends with the row, and the vectors of `x` go on
        // with zeros to the end of a run. What is prefetched may lie anywhere.
        unsafe {
            let mut vectors = [[_mm512_setzero_ps(); 2]; N];
            for (i, vector) in vectors.iter_mut().enumerate() {
                let x = x.wide.as_ptr().add(i * x.stride + run);
                *vector = [_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16))];
            }
            for (j, sums) in sums.iter_mut().enumerate() {
                let w = rows.elements.as_ptr().add(j * rows.stride + run);
                _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD / 2).cast());
                let w = _mm512_maskz_loadu_epi16(mask, w.cast());
                let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(w));
                let odd = _mm512_castsi512_ps(_mm512_and_si512(w, upper));
                for ([a, b], x) in sums.iter_mut().zip(vectors) {
                    *a = _mm512_fmadd_ps(even, x[0], *a);
                    *b = _mm512_fmadd_ps(odd, x[1], *b);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, [a, b]) in out.iter_mut().zip(sums) {
            *out = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
        }
    }
}
