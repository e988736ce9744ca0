//! With integers of 16 bits, 16 products an instruction, for vectors in [`Order::Blocks`](super::Order::Blocks).
//!
//! What codes stand for is a whole number of parts of the scale, of 14 bits and a sign: it is looked up by bytes, its lower and
//! its upper one. A block of 64 codes and numbers makes sums of 32 bits, which are exact, and then times both scales f32.

use super::{AT_ONCE, BEYOND, From4, Inputs, Rows4, quantized};
use crate::{
    cpu::simd::{
        decode,
        fixed::{BLOCK, LARGEST_OF_LANE, avx2::tables},
        look_up::{unnest, x86::by_bytes},
        sum::x86::reduce_add,
    },
    quant::Format,
};
use std::arch::x86_64::*;

quantized!("avx2,fma,f16c", [4, 4]);

/// Bytes ahead of the loads at which memory is asked for.
const AHEAD: usize = 4096;

/// Parts of the scale. The codes of FP4 are multiples of 1/192, so that they are whole numbers.
fn parts(format: Format) -> f32 {
    match format {
        Format::Nf4 => LARGEST_OF_LANE,
        Format::Fp4 => 85.0 * 192.0,
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn some4<const R: usize, const N: usize>(rows: Rows4<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    let (bytes, blocks, shift) = (x.cols / 2, x.cols / rows.block, (rows.block / BLOCK).trailing_zeros());
    let vectors: [_; N] = std::array::from_fn(|i| x.blocks(i));
    debug_assert!(rows.codes.len() >= R * bytes && rows.scales.len() >= R * blocks);
    debug_assert!(vectors.iter().all(|(numbers, scales)| numbers.len().min(scales.len()) >= x.cols / BLOCK));
    let parts = parts(rows.format);
    let tables = tables(rows.format.codes(), parts);
    for (j, out) in out.iter_mut().enumerate() {
        let mut sums = [_mm256_setzero_ps(); N];
        for i in 0..x.cols / BLOCK {
            // SAFETY: `all4`, the only caller, has `R` rows of `cols` codes left with their scales, and `x` has `N` vectors of as
            // many elements; rows are whole blocks of 64 (`order4`). What is prefetched may lie anywhere.
            unsafe {
                let codes = rows.codes.as_ptr().add(j * bytes + i * (BLOCK / 2));
                _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD).cast());
                let codes = _mm256_loadu_si256(codes.cast());
                let [even, odd] = [by_bytes(tables, _mm256_srli_epi16::<4>(codes)), by_bytes(tables, codes)];
                let scale = _mm256_broadcast_ss(rows.scales.get_unchecked(j * blocks + (i >> shift)));
                for (sum, (numbers, scales)) in sums.iter_mut().zip(vectors) {
                    let numbers = numbers.as_ptr().add(i).cast::<__m256i>();
                    let whole = _mm256_add_epi32(products(even, numbers), products(odd, numbers.add(2)));
                    let scale = _mm256_mul_ps(scale, _mm256_broadcast_ss(scales.get_unchecked(i)));
                    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scale, *sum);
                }
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = reduce_add(sum) / parts;
        }
    }
}

/// Sums of products of two vectors of integers, four in each lane.
///
/// # Safety
/// There are two vectors of numbers.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn products(values: [__m256i; 2], numbers: *const __m256i) -> __m256i {
    // SAFETY: the caller vouches for two vectors, in whole lines of the cache.
    let (a, b) = unsafe { (_mm256_load_si256(numbers), _mm256_load_si256(numbers.add(1))) };
    _mm256_add_epi32(_mm256_madd_epi16(values[0], a), _mm256_madd_epi16(values[1], b))
}
