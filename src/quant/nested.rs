//! Double quantisation: absmax values in 8 bits.

use super::{
    block::max_or_nan,
    code::{DYNAMIC_MAP, nearest8},
};
use crate::element::Element;

/// Blocks that share one nested absmax.
pub const GROUP: usize = 256;

/// One nested group: `absmax[i] = MAP[code[i]] * absmax + offset`, multiplied and then added, each rounded to f32.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Group {
    /// Largest magnitude of `absmax - offset` in the group.
    pub absmax: f32,
    /// Mean absmax of the weight that the group belongs to.
    pub offset: f32,
}

impl Element for Group {}

/// Values in one vector of PyTorch's CPU sum kernel (AVX2), which fixes the order of [`mean`].
const LANES: usize = 8;
/// Accumulators that it fills in turn.
const ILP: usize = 4;
/// Levels of its cascade.
const LEVELS: usize = 4;

type Vector = [f32; LANES];

fn add(a: &mut Vector, b: Vector) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
}

/// `ceil(log2(n))`, at least 1.
fn ceil_log2(n: usize) -> u32 {
    if n <= 2 { 1 } else { usize::BITS - (n - 1).leading_zeros() }
}

/// The cascade sum of one accumulator: `n` vectors, each a sum of runs of runs, so that the rounding error stays small.
fn cascade(n: usize, vector: impl Fn(usize) -> Vector) -> Vector {
    let power = (ceil_log2(n) / LEVELS as u32).max(4);
    let step = 1 << power;
    let mut acc = [[0.0; LANES]; LEVELS];
    let mut i = 0;
    while i + step <= n {
        (i..i + step).for_each(|i| add(&mut acc[0], vector(i)));
        i += step;
        for level in 1..LEVELS {
            let below = std::mem::take(&mut acc[level - 1]);
            add(&mut acc[level], below);
            if i & ((step - 1) << (level as u32 * power)) != 0 {
                break;
            }
        }
    }
    (i..n).for_each(|i| add(&mut acc[0], vector(i)));
    let [mut sum, rest @ ..] = acc;
    rest.into_iter().for_each(|level| add(&mut sum, level));
    sum
}

/// The mean of `x`, to the bit what `torch.mean` gives for a contiguous f32 vector on the CPU with one thread.
pub fn mean(x: &[f32]) -> f32 {
    let (vectors, tail) = x.as_chunks::<LANES>();
    let runs = vectors.len() / ILP;
    let mut lanes: [Vector; ILP] = std::array::from_fn(|k| cascade(runs, |i| vectors[i * ILP + k]));
    vectors[runs * ILP..].iter().for_each(|&v| add(&mut lanes[0], v));
    let [mut sum, rest @ ..] = lanes;
    rest.into_iter().for_each(|lane| add(&mut sum, lane));
    let tail = tail.iter().fold(0.0, |a: f32, b| a + b);
    sum.iter().fold(tail, |a, b| a + b) / x.len() as f32
}

/// Rounds the absmax of one weight to 8 bits, as [`crate::ops::NestAbsmax`] does.
pub fn nest(absmax: &[f32], codes: &mut [u8], groups: &mut [Group]) {
    let offset = mean(absmax);
    let chunks = absmax.chunks(GROUP).zip(codes.chunks_mut(GROUP));
    for ((absmax, codes), group) in chunks.zip(groups) {
        let largest = absmax.iter().fold(0.0, |m: f32, a| max_or_nan(m, (a - offset).abs()));
        let inverse = 1.0 / largest;
        for (code, a) in codes.iter_mut().zip(absmax) {
            *code = nearest8((a - offset) * inverse);
        }
        *group = Group { absmax: largest, offset };
    }
}

/// The absmax of each block from its 8-bit code and its group.
///
/// Panics when a code has no group (`codes.len() > 256 · groups.len()`).
pub fn unnest(codes: &[u8], groups: &[Group]) -> Vec<f32> {
    codes.iter().enumerate().map(|(i, &code)| groups[i / GROUP].absmax_of(code)).collect()
}

impl Group {
    /// The absmax that `code` stands for in this group.
    #[inline(always)]
    pub fn absmax_of(&self, code: u8) -> f32 {
        DYNAMIC_MAP[usize::from(code)] * self.absmax + self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reproducible vector: multiples of 2^-24 in [0, 1).
    fn numbers(n: usize) -> Vec<f32> {
        let word = |i: usize| crate::rng::philox([i as u32, 0, 0, 0], 7)[0];
        (0..n).map(|i| crate::rng::uniform(word(i))).collect()
    }

    #[test]
    fn mean_has_the_bits_of_torch() {
        // torch.tensor(numbers(n)).mean() with torch.set_num_threads(1), PyTorch 2.15.
        let means = [
            (1, 0x3f74_607a),
            (7, 0x3ee9_4220),
            (8, 0x3edd_6c23),
            (31, 0x3eec_0075),
            (33, 0x3eed_9730),
            (100, 0x3eff_0a20),
            (255, 0x3ef9_fb72),
            (1000, 0x3ef4_fbad),
            (4097, 0x3ef8_4180),
            (16385, 0x3efd_79ce),
            (32768, 0x3efe_b8f4),
            (32769, 0x3efe_b8bd),
            (65536, 0x3eff_34ef),
            (100003, 0x3eff_46a9),
        ];
        for (n, bits) in means {
            assert_eq!(mean(&numbers(n)).to_bits(), bits, "{n} elements");
        }
    }

    #[test]
    fn unnest_undoes_nest_to_half_a_step() {
        let absmax = numbers(700);
        let (mut codes, mut groups) = (vec![0; 700], vec![Group { absmax: 0.0, offset: 0.0 }; 3]);
        nest(&absmax, &mut codes, &mut groups);
        for (i, (a, b)) in absmax.iter().zip(unnest(&codes, &groups)).enumerate() {
            // The widest gap of the map is 0.9 / 64 and the grid adds 2 / 65535.
            let tolerance = groups[i / GROUP].absmax * (0.45 / 64.0 + 2.0 / 65535.0);
            assert!((a - b).abs() <= tolerance, "{i}: {a} {b}");
        }
    }

    #[test]
    fn equal_absmax_survive_nesting() {
        let (mut codes, mut groups) = ([9; 3], [Group { absmax: 1.0, offset: 0.0 }]);
        nest(&[0.25; 3], &mut codes, &mut groups);
        assert_eq!((codes, groups[0]), ([0; 3], Group { absmax: 0.0, offset: 0.25 }));
        assert_eq!(unnest(&codes, &groups), [0.25; 3]);
    }
}
