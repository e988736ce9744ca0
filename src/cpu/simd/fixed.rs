//! Numbers in fixed point, for products of 16-bit integers: blocks of 64 elements along `k` with a scale each.
//!
//! A block takes [`WORDS`] places of 32 bits: its scale, then 32 words of two numbers, 32 elements apart, the first in the low
//! half. First come the elements of even number, then those of odd number, which is how the two codes of a byte are decoded.
//!
//! 64 products must stay below 2^31 in sum, whatever the numbers are: the vectors have 15 bits and a sign ([`Limit::Each`]),
//! and the magnitudes in a block of a weight sum to what is then left ([`Limit::Sum`]), which are 12 to 13 bits for an element
//! that is as large as the block's largest usually are.
#![allow(unsafe_code)]

use super::{Level, level};

/// Elements of a block.
pub(in crate::cpu) const BLOCK: usize = 64;
/// Places that a block takes.
pub(in crate::cpu) const WORDS: usize = 1 + BLOCK / 2;

/// The largest number.
const LARGEST: f32 = 32767.0;
/// What magnitudes may sum to: `LARGEST * (SUM + BLOCK / 2)` is below 2^31, and each of them is rounded by a half at most.
const SUM: f32 = 65_500.0;
/// The least scale, whose reciprocal is finite.
const LEAST: f32 = f32::MIN_POSITIVE;

/// What the numbers of a block must stay below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cpu) enum Limit {
    /// Each of them 2^15.
    Each,
    /// The sum of their magnitudes 2^16, and each of them 2^15.
    Sum,
}

impl Limit {
    /// What the largest magnitude and the sum of all make of a step.
    fn steps(self) -> [f32; 2] {
        match self {
            Limit::Each => [1.0 / LARGEST, 0.0],
            Limit::Sum => [1.0 / LARGEST, 1.0 / SUM],
        }
    }

    /// The scale of a block. NaN and infinity among the elements make it so, and then every product NaN.
    fn scale(self, largest: f32, sum: f32) -> f32 {
        let [each, all] = self.steps();
        let scale = (largest * each).max(sum * all);
        // NaN stays, of which `max` knows nothing.
        if sum.is_nan() || sum.is_infinite() { sum } else { scale.max(LEAST) }
    }
}

/// The first element of word `i`; the second one is 32 elements behind.
#[inline(always)]
fn element(i: usize) -> usize {
    2 * (i % 16) + i / 16
}

/// Two numbers in one word.
fn word(low: f32, high: f32) -> f32 {
    let integer = |x: f32| if x.is_nan() { 0 } else { x.round_ties_even() as i32 as u32 };
    f32::from_bits(integer(low) & 0xffff | integer(high) << 16)
}

/// Turns the first `len` elements of `x` to words, in place; `x` has room for all of them.
pub(in crate::cpu) fn row(limit: Limit, x: &mut [f32], len: usize) {
    for first in (0..len).step_by(BLOCK) {
        let mut block = [0.0; BLOCK];
        let count = BLOCK.min(len - first);
        block[..count].copy_from_slice(&x[first..first + count]);
        let words = x[first / BLOCK * WORDS..].first_chunk_mut().expect("room for all words");
        match level() {
            // SAFETY: `level` found AVX-512 F, BW, DQ and VL.
            #[cfg(target_arch = "x86_64")]
            level if level >= Level::Avx512 => unsafe { x86::row(limit, &block, words) },
            _ => portable_row(limit, &block, words),
        }
    }
}

fn portable_row(limit: Limit, block: &[f32; BLOCK], words: &mut [f32; WORDS]) {
    let largest = block.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    let scale = limit.scale(largest, block.iter().map(|x| x.abs()).sum());
    words[0] = scale;
    for (i, out) in words[1..].iter_mut().enumerate() {
        let of = |k: usize| block[element(i) + k] / scale;
        *out = word(of(0), of(BLOCK / 2));
    }
}

/// Turns the columns of `block`, of `[BLOCK, columns]`, to words in panels of `width` columns, a multiple of 16: place `i` of
/// column `c` goes to `out[c / width][i * width + c % width]`, where panels begin every `panel` places.
pub(in crate::cpu) fn columns(limit: Limit, block: &[f32], width: usize, panel: usize, out: &mut [f32]) {
    let columns = block.len() / BLOCK;
    assert!(width.is_multiple_of(16) && columns.is_multiple_of(width) && block.len() == BLOCK * columns);
    for (first, out) in (0..columns).step_by(width).zip(out.chunks_mut(panel)) {
        assert!(out.len() >= WORDS * width);
        for lane in (0..width).step_by(16) {
            match level() {
                // SAFETY: `level` found AVX-512 F, BW, DQ and VL; sixteen columns lie from there on in each of the `BLOCK` rows
                // of `block` and in each of the `WORDS` of `out`, as was just asserted.
                #[cfg(target_arch = "x86_64")]
                level if level >= Level::Avx512 => unsafe {
                    x86::columns(limit, &block[first + lane..], columns, &mut out[lane..], width);
                },
                _ => portable_columns(limit, &block[first + lane..], columns, &mut out[lane..], width),
            }
        }
    }
}

fn portable_columns(limit: Limit, block: &[f32], columns: usize, out: &mut [f32], width: usize) {
    for c in 0..16 {
        let (column, mut words) = (std::array::from_fn(|k| block[k * columns + c]), [0.0; WORDS]);
        portable_row(limit, &column, &mut words);
        words.iter().enumerate().for_each(|(i, word)| out[i * width + c] = *word);
    }
}

/// What 4-bit codes stand for, for blocks of a weight.
pub(super) struct Codes<'a> {
    /// Two for each byte, the first in its high half; whole blocks.
    pub(super) bytes: &'a [u8],
    /// The magnitudes that the sixteen stand for in 255ths of the scale, not less than they are.
    pub(super) sizes: &'a [u8; 16],
}

/// Bytes of a block.
const BYTES: usize = BLOCK / 2;

impl Codes<'_> {
    /// Turns them to words, [`Limit::Sum`]. For each block `values` gives what its codes stand for and its scale. False, and
    /// nothing done, where there are no instructions for it.
    #[inline(always)]
    pub(super) fn words(&self, values: impl Fn(usize) -> ([f32; 16], f32), out: &mut [f32]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if level() >= Level::Avx512 {
            // SAFETY: `level` found AVX-512 F, BW, DQ and VL.
            unsafe { x86::codes(self, values, out) };
            return true;
        }
        _ = (values, out);
        false
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, BYTES, Codes, LEAST, Limit, WORDS, element};
    use std::arch::x86_64::*;

    /// Numbers of the low vector in the low halves, of the high one in the high halves.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn words(low: __m512, high: __m512, factor: __m512) -> __m512i {
        // Rounds to nearest even. NaN becomes a number whose low half is zero.
        let integers = |x: __m512| _mm512_cvtps_epi32(_mm512_mul_ps(x, factor));
        _mm512_mask_mov_epi16(integers(low), 0xaaaa_aaaa, _mm512_slli_epi32::<16>(integers(high)))
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn row(limit: Limit, block: &[f32; BLOCK], out: &mut [f32; WORDS]) {
        // SAFETY: the type of `block` says four vectors.
        let x: [__m512; 4] = std::array::from_fn(|i| unsafe { _mm512_loadu_ps(block.as_ptr().add(16 * i)) });
        let size = x.map(|x| _mm512_abs_ps(x));
        let both = |f: fn(__m512, __m512) -> __m512| f(f(size[0], size[1]), f(size[2], size[3]));
        let largest = _mm512_reduce_max_ps(both(|a, b| _mm512_max_ps(a, b)));
        let scale = limit.scale(largest, _mm512_reduce_add_ps(both(|a, b| _mm512_add_ps(a, b))));
        out[0] = scale;
        let factor = _mm512_set1_ps(1.0 / scale);
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        for (i, out) in out[1..].as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let of = _mm512_add_epi32(even, _mm512_set1_epi32(i as i32));
            let [low, high] = [0, 2].map(|at| _mm512_permutex2var_ps(x[at], of, x[at + 1]));
            // SAFETY: the type of `out` says sixteen words: one vector.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), words(low, high, factor)) }
        }
    }

    /// Two vectors for a block: its words lie as the codes do.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn codes(codes: &Codes<'_>, values: impl Fn(usize) -> ([f32; 16], f32), out: &mut [f32]) {
        // SAFETY: the type of `sizes` says sixteen bytes.
        let sizes = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(codes.sizes.as_ptr().cast()) });
        let blocks = codes.bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<WORDS>().0);
        for (i, (bytes, out)) in blocks.enumerate() {
            let (values, absmax) = values(i);
            // Values are rounded once, to bf16 at the least.
            let most = absmax.abs() * (1.0 + 1.0 / 256.0);
            let scale = Limit::Sum.scale(most, most / 255.0 * sum(bytes, sizes));
            out[0] = scale;
            // SAFETY: the types of the arrays say sixteen elements, and two times sixteen bytes.
            let (values, halves) = unsafe {
                let half = |i: usize| _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().add(16 * i).cast()));
                (_mm512_loadu_ps(values.as_ptr()), [half(0), half(1)])
            };
            let values = _mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(1.0 / scale)));
            // Twice, since the look-up heeds five bits.
            let table = _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(values));
            let both = _mm512_or_si512(halves[0], _mm512_slli_epi32::<16>(halves[1]));
            for (codes, out) in [_mm512_srli_epi16::<4>(both), both].into_iter().zip(out[1..].as_chunks_mut::<16>().0) {
                // SAFETY: the type of `out` says sixteen words: one vector.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi16(codes, table)) }
            }
        }
    }

    /// The sum of the sizes of a block's codes.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn sum(bytes: &[u8; BYTES], sizes: __m256i) -> f32 {
        // SAFETY: the type of `bytes` says one vector.
        let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let (low, zero) = (_mm256_set1_epi8(15), _mm256_setzero_si256());
        let of = |codes| _mm256_sad_epu8(_mm256_shuffle_epi8(sizes, _mm256_and_si256(codes, low)), zero);
        let sums = _mm256_add_epi64(of(bytes), of(_mm256_srli_epi16::<4>(bytes)));
        let sums = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        (_mm_extract_epi64::<0>(sums) + _mm_extract_epi64::<1>(sums)) as f32
    }

    /// # Safety
    /// `BLOCK` rows of `block`, which begin every `columns` elements, have sixteen; so have `WORDS` rows of `out`, every
    /// `width`.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn columns(limit: Limit, block: &[f32], columns: usize, out: &mut [f32], width: usize) {
        // SAFETY: the caller vouches for sixteen elements in each row.
        let at = |k: usize| unsafe { _mm512_loadu_ps(block.as_ptr().add(k * columns)) };
        let (mut largest, mut sum) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
        for k in (0..BLOCK).step_by(2) {
            for i in 0..2 {
                let size = _mm512_abs_ps(at(k + i));
                largest[i] = _mm512_max_ps(size, largest[i]);
                sum[i] = _mm512_add_ps(size, sum[i]);
            }
        }
        let (largest, sum) = (_mm512_max_ps(largest[0], largest[1]), _mm512_add_ps(sum[0], sum[1]));
        let [each, all] = limit.steps().map(|step| _mm512_set1_ps(step));
        let scale = _mm512_max_ps(_mm512_mul_ps(largest, each), _mm512_mul_ps(sum, all));
        let scale = _mm512_max_ps(scale, _mm512_set1_ps(LEAST));
        // As `Limit::scale`: NaN and infinity are not below infinity.
        let finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(sum, _mm512_set1_ps(f32::INFINITY));
        let scale = _mm512_mask_mov_ps(sum, finite, scale);
        let factor = _mm512_div_ps(_mm512_set1_ps(1.0), scale);
        // SAFETY: the caller vouches for sixteen elements in each row.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), scale) };
        for i in 0..BLOCK / 2 {
            let words = words(at(element(i)), at(element(i) + BLOCK / 2), factor);
            // SAFETY: the caller vouches for sixteen elements in each row.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().add((1 + i) * width).cast(), words) }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The integers of a block's words, in the order of the elements.
    pub(in crate::cpu::simd) fn integers(words: &[f32]) -> Vec<i32> {
        let mut all = vec![0; BLOCK];
        for (i, word) in words[1..WORDS].iter().enumerate() {
            for (half, shift) in [(0, 0), (BLOCK / 2, 16)] {
                all[element(i) + half] = i32::from((word.to_bits() >> shift) as i16);
            }
        }
        all
    }

    fn blocks() -> Vec<[f32; BLOCK]> {
        let wave = std::array::from_fn(|i| ((i * 37 + 11) % 101) as f32 * 0.37 - 17.0);
        let single = std::array::from_fn(|i| if i == 40 { -3e30 } else { 0.0 });
        let small = std::array::from_fn(|i| if i % 2 == 0 { 1e-38 } else { -3e-39 });
        vec![wave, single, small, [1.0; BLOCK], [-1e-3; BLOCK], [0.0; BLOCK]]
    }

    /// Every way to make the words of a block.
    fn all_ways(limit: Limit, block: &[f32; BLOCK]) -> [[f32; WORDS]; 4] {
        let mut words = [[0.0; WORDS]; 4];
        portable_row(limit, block, &mut words[0]);
        let mut x = *block;
        row(limit, &mut x, BLOCK);
        words[1].copy_from_slice(&x[..WORDS]);
        let copies: Vec<f32> = block.iter().flat_map(|x| [*x; 64]).collect();
        let mut out = vec![0.0; 2 * (WORDS * 32 + 5)];
        columns(limit, &copies, 32, WORDS * 32 + 5, &mut out);
        for i in 0..WORDS {
            words[2][i] = out[i * 32 + 17];
            words[3][i] = out[WORDS * 32 + 5 + i * 32 + 31];
        }
        words
    }

    #[test]
    fn numbers_are_within_half_a_step_and_their_limits() {
        for block in blocks() {
            for (limit, words) in [Limit::Each, Limit::Sum].map(|limit| (limit, all_ways(limit, &block))) {
                for words in words {
                    let (scale, numbers) = (f64::from(words[0]), integers(&words));
                    for (number, x) in numbers.iter().zip(block) {
                        let off = (f64::from(*number) * scale - f64::from(x)).abs();
                        // A factor that is off by an ulp moves the largest numbers.
                        assert!(off <= (0.5 + 32767.0 * 2f64.powi(-22)) * scale, "{x:e}: {number} of {scale:e}");
                        assert!(number.abs() <= 32767);
                    }
                    let sum: i64 = numbers.iter().map(|x| i64::from(x.abs())).sum();
                    assert!(limit == Limit::Each || sum * 32767 < 1 << 31, "{sum}");
                    // Where scales are not clamped.
                    let tiny = block.iter().all(|x| x.abs() < 1e-33);
                    assert!(tiny || sum >= 32_700, "most bits are used: {sum} {block:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_makes_no_number() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for limit in [Limit::Each, Limit::Sum] {
                let mut block = [0.5; BLOCK];
                block[50] = bad;
                for words in all_ways(limit, &block) {
                    let product: i32 = integers(&words).iter().sum();
                    assert!((product as f32 * words[0]).is_nan(), "{bad} {limit:?}: {product} {}", words[0]);
                }
            }
        }
    }

    #[test]
    fn a_tail_is_as_a_block_with_zeros() {
        let (mut tail, mut whole) = ([7.0; 2 * BLOCK], [0.0; 2 * BLOCK]);
        for i in 0..70 {
            tail[i] = i as f32;
            whole[i] = i as f32;
        }
        row(Limit::Sum, &mut tail, 70);
        row(Limit::Sum, &mut whole, 2 * BLOCK);
        assert_eq!(tail[..2 * WORDS], whole[..2 * WORDS]);
    }
}
