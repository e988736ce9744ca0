//! Integers from -8 to 7 with a scale for each group of weights, as compressed-tensors packs them: eight to a word of 32
//! bits, the first of them lowest, each with 8 added.

use std::array::from_fn;

use half::bf16;

/// Bytes of a scale.
pub const SCALE_BYTES: usize = 2;

/// What rounding did to some weights: sums of squares.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rounding {
    /// Of the weights.
    pub weights: f64,
    /// Of what rounding changed.
    pub error: f64,
}

impl std::ops::AddAssign for Rounding {
    fn add_assign(&mut self, other: Self) {
        self.weights += other.weights;
        self.error += other.error;
    }
}

/// Stores groups of weights, half a byte for each, with a scale in bf16 for each group.
pub fn encode(row: &[f32], group_size: usize, packed: &mut [u8], scales: &mut [u8]) -> Rounding {
    let mut all = Rounding::default();
    let places = packed.chunks_exact_mut(group_size / 2).zip(scales.chunks_exact_mut(SCALE_BYTES));
    for (group, (packed, stored)) in row.chunks_exact(group_size).zip(places) {
        let scale = best_scale(group);
        stored.copy_from_slice(&bf16::from_f32(scale).to_le_bytes());
        for (byte, pair) in packed.iter_mut().zip(group.as_chunks::<2>().0) {
            let [low, high] = pair.map(|v| (integer(v, scale) as i8 + 8) as u8);
            *byte = low | high << 4;
        }
        let weights = group.iter().map(|&v| f64::from(v).powi(2)).sum();
        all += Rounding { weights, error: error(group, scale) };
    }
    all
}

/// The integer nearest to a weight, in units of a scale.
fn integer(v: f32, scale: f32) -> f32 {
    (v / scale).round_ties_even().clamp(-8.0, 7.0)
}

/// The sum of squares that a scale leaves.
fn error(group: &[f32], scale: f32) -> f64 {
    group.iter().map(|&v| f64::from(v - scale * integer(v, scale)).powi(2)).sum()
}

/// The scale by which the largest weight just fits, as compressed-tensors has it: 16 integers lie evenly around 0.
fn plain_scale(group: &[f32]) -> f32 {
    let most = group.iter().fold(0_f32, |most, v| most.max(v.abs()));
    // Any scale does for zeros.
    if most == 0.0 { 1.0 } else { stored(most / 7.5) }
}

/// The scale of least squares: of several that let the largest weights be cut off or leave room, each as it is and as it is
/// best for the integers that it gives.
fn best_scale(group: &[f32]) -> f32 {
    let plain = plain_scale(group);
    let tried = from_fn::<_, 13, _>(|i| stored(plain * 7.5 / (6.0 + 0.25 * i as f32)));
    let solved = tried.map(|scale| solved(group, scale));
    let usable = |scale: &f32| *scale > 0.0 && scale.is_finite();
    let all = [plain].into_iter().chain(tried).chain(solved).filter(usable).map(|scale| (error(group, scale), scale));
    all.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(plain, |(_, scale)| scale)
}

/// The best scale for the integers that a scale gives.
fn solved(group: &[f32], scale: f32) -> f32 {
    let integers = group.iter().map(|&v| (v, integer(v, scale)));
    let (products, squares) =
        integers.fold((0.0, 0.0), |(products, squares), (v, q)| (products + v * q, squares + q * q));
    stored(products / squares)
}

/// As it is in the file.
fn stored(scale: f32) -> f32 {
    bf16::from_f32(scale).to_f32()
}

#[cfg(test)]
mod tests {
    use halfbyte::rng::philox;

    use super::*;

    /// Integers and scales of what was stored.
    fn decode(packed: &[u8], scales: &[u8], group_size: usize) -> Vec<f32> {
        let words = packed.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word));
        let integers = words.flat_map(|word| (0..8).map(move |i| (word >> (4 * i) & 15) as i32 - 8));
        let scale = |i: usize| bf16::from_le_bytes([scales[2 * i], scales[2 * i + 1]]).to_f32();
        integers.enumerate().map(|(i, q)| scale(i / group_size) * q as f32).collect()
    }

    /// Weights that look like those of a model: sums of four even numbers.
    fn weights(n: u32, seed: u64) -> Vec<f32> {
        let sum = |i| philox([i, 0, 0, 0], seed).iter().map(|&v| v as f32 / 2_f32.powi(32) - 0.5).sum::<f32>();
        (0..n).map(|i| 0.05 * sum(i)).collect()
    }

    #[test]
    fn words_are_those_that_were_worked_out_by_hand() {
        // Of scale 0.5: -8, -7, -1, 0, 1, 2, 6, 7 are 0, 1, 7, 8, 9, a, e, f with 8 added; the first is lowest.
        let integers = [-8.0, -7.0, -1.0, 0.0, 1.0, 2.0, 6.0, 7.0];
        let row: Vec<f32> = integers.iter().cycle().take(32).map(|q| 0.5 * q).collect();
        let (mut packed, mut scales) = ([0; 16], [0; SCALE_BYTES]);
        let rounding = encode(&row, 32, &mut packed, &mut scales);
        assert_eq!(packed, [0xFEA9_8710_u32.to_le_bytes(); 4].concat()[..]);
        assert_eq!((scales, rounding.error), (bf16::from_f32(0.5).to_le_bytes(), 0.0));
        assert_eq!(rounding.weights, 0.25 * 4.0 * (64.0 + 49.0 + 1.0 + 1.0 + 4.0 + 36.0 + 49.0));
        assert_eq!(decode(&packed, &scales, 32), row);
    }

    #[test]
    fn each_group_has_a_scale_and_no_larger_error_than_the_plain_one_leaves() {
        for group_size in [32, 64, 128] {
            let row = weights(1024, group_size as u64);
            let (mut packed, mut scales) = (vec![0; 512], vec![0; 1024 / group_size * SCALE_BYTES]);
            let rounding = encode(&row, group_size, &mut packed, &mut scales);
            let read = decode(&packed, &scales, group_size);
            let squares = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            assert!((squares(&row, &read) / rounding.error - 1.0).abs() < 1e-6);
            let plain: f64 = row.chunks(group_size).map(|group| error(group, plain_scale(group))).sum();
            assert!(rounding.error < 0.95 * plain, "{group_size}: {} against {plain}", rounding.error);
            for (group, read) in row.chunks(group_size).zip(read.chunks(group_size)) {
                assert!(squares(group, read) <= error(group, plain_scale(group)) * (1.0 + 1e-6));
            }
        }
    }

    #[test]
    fn zeros_stay_and_what_is_not_finite_shows() {
        let (mut packed, mut scales) = ([0; 16], [0; SCALE_BYTES]);
        let rounding = encode(&[0.0; 32], 32, &mut packed, &mut scales);
        assert_eq!((decode(&packed, &scales, 32), rounding), (vec![0.0; 32], Rounding::default()));
        let mut row = [1.0; 32];
        for bad in [f32::NAN, f32::INFINITY] {
            row[3] = bad;
            assert!(!encode(&row, 32, &mut packed, &mut scales).weights.is_finite());
        }
    }
}
