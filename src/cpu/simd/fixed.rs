//! Numbers in fixed point, for products of 16-bit integers: blocks of 64 elements along `k` with a scale each.
//!
//! A block takes [`WORDS`] places of 32 bits: its scale, then 32 words of two numbers, element `i` in the low half of word
//! `i`, element `i + 32` in the high one. 64 products must stay below 2^31 in sum, whatever the numbers are: the vectors have
//! 15 bits and a sign ([`Limit::Each`]), and the magnitudes in a block of a weight sum to what is then left
//! ([`Limit::Sum`]), which are 12 to 13 bits for an element that is as large as the block's largest usually are.

/// Elements of a block.
pub(in crate::cpu) const BLOCK: usize = 64;
/// Places that a block takes.
pub(in crate::cpu) const WORDS: usize = 1 + BLOCK / 2;

/// The largest number.
const LARGEST: f32 = 32767.0;
/// What magnitudes may sum to: `LARGEST * (SUM + BLOCK / 2)` is below 2^31, and each of them is rounded by a half at most.
const SUM: f32 = 65_500.0;
/// Added to a number below 2^22, it leaves its integer, rounded to nearest even, in the low bits.
const TO_INTEGER: f32 = 12_582_912.0;

/// What the numbers of a block must stay below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cpu) enum Limit {
    /// Each of them 2^15.
    Each,
    /// The sum of their magnitudes 2^16, and each of them 2^15.
    Sum,
}

impl Limit {
    /// What the elements are multiplied by, from the bits of the largest magnitude and the sum of all. NaN and infinity
    /// among them make this, or the scale, one that makes every product NaN.
    #[inline(always)]
    fn factor(self, largest: u32, sum: f32) -> f32 {
        let each = LARGEST / f32::from_bits(largest);
        let factor = match self {
            Limit::Each => each,
            Limit::Sum => each.min(SUM / sum),
        };
        // Also where all are zero. NaN stays.
        if factor > f32::MAX { f32::MAX } else { factor }
    }
}

/// Two numbers in one word.
#[inline(always)]
fn word(low: f32, high: f32) -> f32 {
    let integer = |x: f32| (x + TO_INTEGER).to_bits();
    f32::from_bits(integer(low) & 0xffff | integer(high) << 16)
}

/// The bits of a magnitude: as integers they are in the order of the numbers, with NaN last.
#[inline(always)]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Turns the first `len` elements of `x` to words, in place; `x` has room for all of them.
#[inline(always)]
pub(in crate::cpu) fn row(limit: Limit, x: &mut [f32], len: usize) {
    for first in (0..len).step_by(BLOCK) {
        let mut block = [0.0; BLOCK];
        let count = BLOCK.min(len - first);
        block[..count].copy_from_slice(&x[first..first + count]);
        let mut sums = [0.0; 16];
        for chunk in block.as_chunks::<16>().0 {
            (0..16).for_each(|i| sums[i] += chunk[i].abs());
        }
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|i| sums[i] += sums[i + half]);
        }
        let largest = block.iter().fold(0, |largest, &x| magnitude(x).max(largest));
        let factor = limit.factor(largest, sums[0]);
        let words = &mut x[first / BLOCK * WORDS..][..WORDS];
        words[0] = 1.0 / factor;
        let (low, high) = block.split_at(BLOCK / 2);
        for (i, out) in words[1..].iter_mut().enumerate() {
            *out = word(low[i] * factor, high[i] * factor);
        }
    }
}

/// Turns the columns of `block`, of `[BLOCK, width]`, to words and hands the rows of these, of `[WORDS, width]`, to `put`.
#[inline(always)]
pub(in crate::cpu) fn columns(limit: Limit, block: &[f32], width: usize, mut put: impl FnMut(usize, &[f32])) {
    /// Columns that are summed at once.
    const MOST: usize = 256;
    assert!(width <= MOST && block.len() == BLOCK * width);
    let (mut largest, mut factors, mut line) = ([0; MOST], [0.0; MOST], [0.0; MOST]);
    let (largest, factors, line) = (&mut largest[..width], &mut factors[..width], &mut line[..width]);
    for row in block.chunks_exact(width) {
        for i in 0..width {
            largest[i] = magnitude(row[i]).max(largest[i]);
            factors[i] += row[i].abs();
        }
    }
    for i in 0..width {
        factors[i] = limit.factor(largest[i], factors[i]);
        line[i] = 1.0 / factors[i];
    }
    put(0, line);
    let (low, high) = block.split_at(BLOCK / 2 * width);
    for (k, (low, high)) in low.chunks_exact(width).zip(high.chunks_exact(width)).enumerate() {
        for i in 0..width {
            line[i] = word(low[i] * factors[i], high[i] * factors[i]);
        }
        put(1 + k, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The integers of a block's words.
    fn integers(words: &[f32]) -> Vec<i32> {
        let half = |shift: u32| words[1..WORDS].iter().map(move |word| i32::from((word.to_bits() >> shift) as i16));
        half(0).chain(half(16)).collect()
    }

    fn blocks() -> Vec<[f32; BLOCK]> {
        let wave = std::array::from_fn(|i| ((i * 37 + 11) % 101) as f32 * 0.37 - 17.0);
        let single = std::array::from_fn(|i| if i == 40 { -3e30 } else { 0.0 });
        let small = std::array::from_fn(|i| if i % 2 == 0 { 1e-38 } else { -3e-39 });
        vec![wave, single, small, [1.0; BLOCK], [-1e-3; BLOCK], [0.0; BLOCK]]
    }

    #[test]
    fn numbers_are_within_half_a_step_and_their_limits() {
        for block in blocks() {
            for limit in [Limit::Each, Limit::Sum] {
                let mut words = block;
                row(limit, &mut words, BLOCK);
                let (scale, numbers) = (f64::from(words[0]), integers(&words));
                for (number, x) in numbers.iter().zip(block) {
                    let off = (f64::from(*number) * scale - f64::from(x)).abs();
                    assert!(off <= 0.5 * scale * 1.001 + 32767.0 * scale * 1e-6, "{x:e}: {number} of {scale:e}");
                    assert!(number.abs() <= 32767);
                }
                let sum: i64 = numbers.iter().map(|x| i64::from(x.abs())).sum();
                assert!(limit == Limit::Each || sum * 32767 < 1 << 31, "{sum}");
                // Where a factor below 2^128 does.
                assert!(block.iter().all(|x| x.abs() < 1e-33) || sum > 16_000, "most bits are used: {sum} {block:?}");
            }
        }
    }

    #[test]
    fn columns_are_as_rows() {
        let all = blocks();
        let block: Vec<f32> = (0..BLOCK).flat_map(|k| all.iter().map(move |block| block[k])).collect();
        for limit in [Limit::Each, Limit::Sum] {
            let mut found = vec![[0.0; WORDS]; all.len()];
            columns(limit, &block, all.len(), |k, line| (0..all.len()).for_each(|i| found[i][k] = line[i]));
            for (found, block) in found.iter().zip(&all) {
                let mut words = *block;
                row(limit, &mut words, BLOCK);
                let scales = [found[0], words[0]].map(f64::from);
                assert!((scales[0] - scales[1]).abs() <= 1e-5 * scales[1], "sums in another order: {scales:?}");
                let numbers = [integers(found), integers(&words)];
                assert!(numbers[0].iter().zip(&numbers[1]).all(|(a, b)| (a - b).abs() <= 1), "{numbers:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_makes_no_number() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for limit in [Limit::Each, Limit::Sum] {
                let mut block = [0.5; BLOCK];
                block[50] = bad;
                row(limit, &mut block, BLOCK);
                let product: i32 = integers(&block).iter().sum();
                assert!((product as f32 * block[0]).is_nan(), "{bad} {limit:?}: {product} {}", block[0]);
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
