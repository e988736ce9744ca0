//! With vectors of 16 f32. What codes stand for is not rounded to the compute type.
//!
//! Of a 4-bit weight one row after the other, and their scales for four: what is read is then one stream, and arithmetic leaves
//! time enough to load the vectors for each row again. Of a dense one four at once, which memory gives faster.

use super::{AT_ONCE, BEYOND, From4, Inputs, Rows4, Rows16, dense, quantized};
use crate::cpu::simd::{decode, look_up::x86::unnest};
use std::arch::x86_64::*;

quantized!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl", [4, 4]);
dense!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl", [4, 2]);

/// Bytes ahead of the loads at which memory is asked for, and of a dense weight, whose rows are read four at a time.
const AHEAD: usize = 4096;
const DENSE_AHEAD: usize = 16_384;

/// Codes that are loaded at once: eight in each 32 bits.
const RUN: usize = 128;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn some4<const R: usize, const N: usize>(rows: Rows4<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    let (bytes, blocks, shift) = (x.cols / 2, x.cols / rows.block, rows.block.trailing_zeros());
    debug_assert!(rows.codes.len() >= R * bytes && rows.scales.len() >= R * blocks + BEYOND);
    debug_assert!(x.wide().len() >= N * x.stride);
    // SAFETY: the type of the array says sixteen elements: one vector.
    let table = unsafe { _mm512_loadu_ps(rows.format.codes().as_ptr()) };
    // The block, counted from the first of a run, of eight codes each.
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let block_of = _mm512_srl_epi32(lanes, _mm_cvtsi32_si128(shift as i32 - 3));
    let whole = x.cols / RUN * RUN;
    for (j, out) in out.iter_mut().enumerate() {
        let mut sums = [_mm512_setzero_ps(); N];
        // SAFETY: `all4`, the only caller, has `R` rows of `cols` codes and as many scales left, behind which `BEYOND` more
        // may be read. `x` has `N` vectors, which go on with zeros to the end of a run. What is prefetched may lie anywhere.
        unsafe {
            let (codes, scales) = (rows.codes.as_ptr().add(j * bytes), rows.scales.as_ptr().add(j * blocks));
            let mut add = |run: usize, words: __m512i, mask: u16| {
                let parts = products::<N>(words, table, x, run);
                let scales = _mm512_loadu_ps(scales.add(run >> shift));
                let scales = _mm512_maskz_permutexvar_ps(mask, block_of, scales);
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = _mm512_fmadd_ps(part, scales, *sum);
                }
            };
            for run in (0..whole).step_by(RUN) {
                let codes = codes.add(run / 2);
                _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD).cast());
                add(run, _mm512_loadu_si512(codes.cast()), u16::MAX);
            }
            if whole < x.cols {
                // Rows are whole words (`order4`).
                let mask = u16::MAX >> (16 - (x.cols - whole) / 8);
                add(whole, _mm512_maskz_loadu_epi32(mask, codes.add(whole / 2).cast()), mask);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = _mm512_reduce_add_ps(sum);
        }
    }
}

/// Each lane's eight codes times what `x` has for them, summed, without their scale.
///
/// # Safety
/// `x` has `N` vectors with a run from `run` on.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn products<const N: usize>(codes: __m512i, table: __m512, x: &Inputs, run: usize) -> [__m512; N] {
    // The look-up ignores what is above four bits. The high half of a byte comes first.
    let shifted = [
        _mm512_srli_epi32::<4>(codes),
        codes,
        _mm512_srli_epi32::<12>(codes),
        _mm512_srli_epi32::<8>(codes),
        _mm512_srli_epi32::<20>(codes),
        _mm512_srli_epi32::<16>(codes),
        _mm512_srli_epi32::<28>(codes),
        _mm512_srli_epi32::<24>(codes),
    ];
    let mut parts = [[_mm512_setzero_ps(); 2]; N];
    for (i, codes) in shifted.into_iter().enumerate() {
        let values = _mm512_permutexvar_ps(codes, table);
        for (n, parts) in parts.iter_mut().enumerate() {
            // SAFETY: `some4`, the only caller, vouches for a run of eight vectors.
            let x = unsafe { _mm512_loadu_ps(x.wide().as_ptr().add(n * x.stride + run + i * 16)) };
            parts[i % 2] = _mm512_fmadd_ps(values, x, parts[i % 2]);
        }
    }
    parts.map(|[a, b]| _mm512_add_ps(a, b))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
fn some16<const R: usize, const N: usize>(rows: Rows16<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    debug_assert!(rows.elements.len() >= (R - 1) * rows.stride + x.cols && x.wide().len() >= N * x.stride);
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let whole = x.cols / 32 * 32;
    let mut sums = [[[_mm512_setzero_ps(); 2]; N]; R];
    // SAFETY: `all16`, the only caller, has `R` rows left; the mask ends with the row, and the vectors of `x` go on with zeros
    // to the end of a run. What is prefetched may lie anywhere.
    unsafe {
        let row = |j: usize| rows.elements.as_ptr().add(j * rows.stride);
        let mut add = |run: usize, mask: u32| {
            let vectors: [_; N] = std::array::from_fn(|i| {
                let x = x.wide().as_ptr().add(i * x.stride + run);
                [_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16))]
            });
            for (j, sums) in sums.iter_mut().enumerate() {
                let w = row(j).add(run);
                _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(DENSE_AHEAD / 2).cast());
                let w = if mask == u32::MAX {
                    _mm512_loadu_si512(w.cast())
                } else {
                    _mm512_maskz_loadu_epi16(mask, w.cast())
                };
                let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(w));
                let odd = _mm512_castsi512_ps(_mm512_and_si512(w, upper));
                for ([a, b], vector) in sums.iter_mut().zip(vectors) {
                    *a = _mm512_fmadd_ps(even, vector[0], *a);
                    *b = _mm512_fmadd_ps(odd, vector[1], *b);
                }
            }
        };
        for run in (0..whole).step_by(32) {
            add(run, u32::MAX);
        }
        if whole < x.cols {
            add(whole, u32::MAX >> (32 - (x.cols - whole)));
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, [a, b]) in out.iter_mut().zip(sums) {
            *out = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
        }
    }
}
