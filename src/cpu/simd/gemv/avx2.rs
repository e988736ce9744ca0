//! With vectors of 8 f32. What codes stand for is not rounded to the compute type.

use super::{AT_ONCE, BEYOND, From4, Inputs, Rows4, Rows16, dense, quantized};
use crate::cpu::simd::{decode, look_up::unnest, sum::x86::reduce_add};
use std::arch::x86_64::*;

quantized!("avx2,fma,f16c", [4, 1]);
dense!("avx2,fma,f16c", [4, 1]);

/// Bytes ahead of the loads at which memory is asked for.
const AHEAD: usize = 2048;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn some4<const R: usize, const N: usize>(rows: Rows4<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    let (bytes, blocks, runs) = (x.cols / 2, x.cols / rows.block, rows.block / 16);
    debug_assert!(rows.codes.len() >= R * bytes && rows.scales.len() >= R * blocks && x.wide().len() >= N * x.stride);
    // SAFETY: the type of the array says sixteen elements: two vectors.
    let table = unsafe {
        [_mm256_loadu_ps(rows.format.codes().as_ptr()), _mm256_loadu_ps(rows.format.codes().as_ptr().add(8))]
    };
    let mut sums = [[_mm256_setzero_ps(); N]; R];
    for block in 0..blocks {
        let mut part = [[_mm256_setzero_ps(); N]; R];
        for run in block * runs..(block + 1) * runs {
            // SAFETY: `all4`, the only caller, has `R` rows of `cols` codes left, and `x` has `N` vectors of as many
            // elements; a block is whole runs of 16, and rows are whole blocks. What is prefetched may lie anywhere.
            unsafe {
                for (j, part) in part.iter_mut().enumerate() {
                    let codes = rows.codes.as_ptr().add(j * bytes + run * 8);
                    _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD).cast());
                    // A byte in each 32 bits.
                    let codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(codes.cast()));
                    let (even, odd) = (look_up(table, _mm256_srli_epi32::<4>(codes)), look_up(table, codes));
                    for (i, part) in part.iter_mut().enumerate() {
                        let x = x.wide().as_ptr().add(i * x.stride + run * 16);
                        *part = _mm256_fmadd_ps(even, _mm256_loadu_ps(x), *part);
                        *part = _mm256_fmadd_ps(odd, _mm256_loadu_ps(x.add(8)), *part);
                    }
                }
            }
        }
        for (j, (sums, part)) in sums.iter_mut().zip(part).enumerate() {
            let scale = _mm256_set1_ps(rows.scales[j * blocks + block]);
            for (sum, part) in sums.iter_mut().zip(part) {
                *sum = _mm256_fmadd_ps(part, scale, *sum);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = reduce_add(sum);
        }
    }
}

/// What the lower four bits of each index stand for; the fourth says in which half of the table.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn look_up(table: [__m256; 2], codes: __m256i) -> __m256 {
    let [low, high] = table;
    let found = (_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes));
    _mm256_blendv_ps(found.0, found.1, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn some16<const R: usize, const N: usize>(rows: Rows16<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    debug_assert!(rows.elements.len() >= (R - 1) * rows.stride + x.cols && x.wide().len() >= N * x.stride);
    let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    let mut sums = [[[_mm256_setzero_ps(); 2]; N]; R];
    for run in (0..x.cols).step_by(16) {
        for (j, sums) in sums.iter_mut().enumerate() {
            let row = &rows.elements[j * rows.stride + run..];
            let mut last = [0; 16];
            let left = x.cols - run;
            let w = if left < 16 {
                last[..left].copy_from_slice(&row[..left]);
                &last
            } else {
                row.first_chunk().unwrap()
            };
            // SAFETY: the type of `w` says sixteen elements, and the vectors of `x` go on with zeros to the end of a run.
            // What is prefetched may lie anywhere.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(AHEAD / 2).cast());
                let w = _mm256_loadu_si256(w.as_ptr().cast());
                let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w));
                let odd = _mm256_castsi256_ps(_mm256_and_si256(w, upper));
                for (i, [a, b]) in sums.iter_mut().enumerate() {
                    let x = x.wide().as_ptr().add(i * x.stride + run);
                    *a = _mm256_fmadd_ps(even, _mm256_loadu_ps(x), *a);
                    *b = _mm256_fmadd_ps(odd, _mm256_loadu_ps(x.add(8)), *b);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, [a, b]) in out.iter_mut().zip(sums) {
            *out = reduce_add(_mm256_add_ps(a, b));
        }
    }
}
