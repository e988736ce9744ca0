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

/// Blocks whose scales are multiplied at once.
const RUN: usize = 16;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn some4<const R: usize, const N: usize>(rows: Rows4<'_>, x: &Inputs, out: &mut [[f32; N]; R]) {
    let (bytes, blocks, shift) = (x.cols / 2, x.cols / rows.block, (rows.block / BLOCK).trailing_zeros());
    let (codes, _) = rows.codes.as_chunks::<{ BLOCK / 2 }>();
    let parts = parts(rows.format);
    let tables = tables(rows.format.codes(), parts);
    for (j, out) in out.iter_mut().enumerate() {
        let codes = &codes[j * bytes / (BLOCK / 2)..][..x.cols / BLOCK];
        let scales = &rows.scales[j * blocks..];
        let mut sums = [_mm256_setzero_ps(); N];
        for (run, codes) in codes.chunks(RUN).enumerate() {
            let (mut numbers, mut factors) = ([x.blocks(0, 0, 0); N], [[0.0; RUN]; N]);
            for (n, (numbers, factors)) in numbers.iter_mut().zip(&mut factors).enumerate() {
                *numbers = x.blocks(n, run * RUN, codes.len());
                multiply([scales, x.scales(n)], shift, run * RUN, 1.0 / parts, factors);
            }
            for (i, codes) in codes.iter().enumerate() {
                // SAFETY: the type of `codes` says one vector. What is prefetched may lie anywhere.
                let codes = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(AHEAD).cast());
                    _mm256_loadu_si256(codes.as_ptr().cast())
                };
                let [even, odd] = [by_bytes(tables, _mm256_srli_epi16::<4>(codes)), by_bytes(tables, codes)];
                for ((sum, numbers), factors) in sums.iter_mut().zip(&numbers).zip(&factors) {
                    let (low, high) = numbers[i].split_at(BLOCK / 2);
                    let whole = _mm256_add_epi32(products(even, low), products(odd, high));
                    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), _mm256_broadcast_ss(&factors[i]), *sum);
                }
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = reduce_add(sum);
        }
    }
}

/// What the sums of blocks from `first` on are to be multiplied with: the scales of the weight, each of `2^shift` blocks, those of
/// the vector, and `part`. Behind the last block it is anything.
#[inline(always)]
fn multiply([weight, vector]: [&[f32]; 2], shift: u32, first: usize, part: f32, out: &mut [f32; RUN]) {
    let vector: &[f32; RUN] = vector[first..].first_chunk().expect("BEYOND more");
    let weight: &[f32; RUN] = weight[first >> shift..].first_chunk().expect("BEYOND more");
    if shift == 0 {
        out.iter_mut().zip(weight).zip(vector).for_each(|((out, w), x)| *out = w * x * part);
    } else {
        out.iter_mut().zip(vector).enumerate().for_each(|(i, (out, x))| *out = weight[i >> shift] * x * part);
    }
}

/// Sums of products of two vectors of integers, four in each lane.
#[target_feature(enable = "avx2")]
#[inline]
fn products(values: [__m256i; 2], numbers: &[i16]) -> __m256i {
    let numbers: &[i16; BLOCK / 2] = numbers.try_into().expect("half a block");
    // SAFETY: the type says two vectors.
    let (a, b) =
        unsafe { (_mm256_loadu_si256(numbers.as_ptr().cast()), _mm256_loadu_si256(numbers.as_ptr().add(16).cast())) };
    _mm256_add_epi32(_mm256_madd_epi16(values[0], a), _mm256_madd_epi16(values[1], b))
}
