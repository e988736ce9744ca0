//! Numbers in fixed point, for products of 16-bit integers: blocks of 64 elements along `k` with a scale each.
//!
//! A block takes [`WORDS`] places of 32 bits: its scale, then 32 words of two numbers, 32 elements apart, the first in the low
//! half. First come the elements of even number, then those of odd number, which is how the two codes of a byte are decoded.
//!
//! 64 products must stay below 2^31 in sum, whatever the numbers are: the vectors have 15 bits and a sign ([`Limit::Each`]),
//! and the magnitudes in a block of a weight sum to what is then left ([`Limit::Sum`]), which are 12 to 13 bits for an element
//! that is as large as the block's largest usually are.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
pub(super) mod tile;

use super::{Level, level, vectorize};

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
    /// Each of them 2^14: eight products of two such numbers, which are what of a block meets in a lane of 32 bits, are below
    /// 2^31.
    Lane,
}

/// The largest number under [`Limit::Lane`].
pub(in crate::cpu) const LARGEST_OF_LANE: f32 = 16_383.0;

impl Limit {
    /// What the largest magnitude and the sum of all make of a step.
    fn steps(self) -> [f32; 2] {
        match self {
            Limit::Each => [1.0 / LARGEST, 0.0],
            Limit::Sum => [1.0 / LARGEST, 1.0 / SUM],
            Limit::Lane => [1.0 / LARGEST_OF_LANE, 0.0],
        }
    }

    /// The scale of a block, by sums in the order that AVX-512 has.
    #[inline(always)]
    pub(super) fn scale_of(self, block: &[f32; BLOCK]) -> f32 {
        let both = |f: fn(f32, f32) -> f32| {
            let of = |i: usize, lane: usize| block[16 * i + lane].abs();
            let mut lanes: [f32; 16] =
                std::array::from_fn(|lane| f(f(of(0, lane), of(1, lane)), f(of(2, lane), of(3, lane))));
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    lanes[i] = f(lanes[i], lanes[i + half]);
                }
            }
            lanes[0]
        };
        self.scale(both(larger), both(|a, b| a + b))
    }

    /// The same by the largest magnitude and the sum of all. NaN and infinity among the elements make it so, and then every
    /// product NaN.
    #[inline(always)]
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

/// Beside 1.5 times 2^23 an f32 has no place for less than one, and its lower half is the whole number that was added.
const WHOLE: f32 = 12_582_912.0;

/// The number next to `x`, of even ones where two are. That of a NaN that a product makes is zero.
#[inline(always)]
pub(super) fn number(x: f32) -> i16 {
    (x + WHOLE).to_bits() as i16
}

/// Two numbers in one word.
#[inline(always)]
fn word(low: f32, high: f32) -> f32 {
    f32::from_bits(u32::from(number(low).cast_unsigned()) | u32::from(number(high).cast_unsigned()) << 16)
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
            level if level >= Level::Avx512 => unsafe { avx512::row(limit, &block, words) },
            _ => vectorize(
                #[inline(always)]
                || lesser_row(limit, &block, words),
            ),
        }
    }
}

/// [`row`] for a block, as the compiler vectorises it.
#[inline(always)]
fn lesser_row(limit: Limit, block: &[f32; BLOCK], words: &mut [f32; WORDS]) {
    let scale = limit.scale_of(block);
    words[0] = scale;
    let factor = 1.0 / scale;
    let (low, high) = block.split_at(BLOCK / 2);
    for (half, out) in words[1..].as_chunks_mut::<16>().0.iter_mut().enumerate() {
        for ((out, low), high) in out.iter_mut().zip(low.as_chunks::<2>().0).zip(high.as_chunks::<2>().0) {
            *out = word(low[half] * factor, high[half] * factor);
        }
    }
}

/// The larger one; where one of them is NaN, the second.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
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
                    avx512::columns(limit, &block[first + lane..], columns, &mut out[lane..], width);
                },
                // SAFETY: `level` found AVX2, FMA and F16C; for the columns as before.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe {
                    avx2::columns(limit, &block[first + lane..], columns, &mut out[lane..], width);
                },
                _ => lesser_columns(limit, &block[first + lane..], columns, &mut out[lane..], width),
            }
        }
    }
}

fn lesser_columns(limit: Limit, block: &[f32], columns: usize, out: &mut [f32], width: usize) {
    for c in 0..16 {
        let (column, mut words) = (std::array::from_fn(|k| block[k * columns + c]), [0.0; WORDS]);
        lesser_row(limit, &column, &mut words);
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
        match level() {
            // SAFETY: `level` found AVX2.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::codes(self, values, out) },
            // SAFETY: `level` found AVX-512 F, BW, DQ and VL.
            #[cfg(target_arch = "x86_64")]
            level if level >= Level::Avx512 => unsafe { avx512::codes(self, values, out) },
            _ => {
                _ = (values, out);
                return false;
            }
        }
        true
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
        lesser_row(limit, block, &mut words[0]);
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
