//! The values that 4-bit and 8-bit codes stand for, and the way from a value to its code.

use super::format::Format;
use std::sync::LazyLock;

/// What the 16 NF4 codes stand for (Dettmers et al., "QLoRA", 2023, appendix E; bitsandbytes' `get_4bit_type`).
pub const NF4_CODES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// What the 16 FP4 codes stand for: `[0, 1/16, 8, 12, 4, 6, 2, 3] / 12`, then the same, negative.
pub const FP4_CODES: [f32; 16] = [
    0.0,
    0.062_5 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    6.0 / 12.0,
    2.0 / 12.0,
    3.0 / 12.0,
    -0.0,
    -0.062_5 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -6.0 / 12.0,
    -2.0 / 12.0,
    -3.0 / 12.0,
];

/// A value above `i` of these has NF4 code `i` (bitsandbytes' `dQuantizeNF4`).
const NF4_THRESHOLDS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_42,
    -0.234_607_4,
    -0.137_911_74,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_76,
    0.389_312_54,
    0.501_663_45,
    0.642_786_9,
    0.861_478_45,
];

/// A magnitude above `i` of these has FP4 code `FP4_ORDER[i]` (bitsandbytes' `dQuantizeFP4`).
const FP4_THRESHOLDS: [f32; 7] =
    [0.002_604_17, 0.085_937_5, 0.208_333_33, 0.291_666_67, 0.416_666_7, 0.583_333, 0.833_333_3];

/// The FP4 codes of positive values by magnitude.
const FP4_ORDER: [u8; 8] = [0, 1, 6, 7, 4, 5, 2, 3];

impl Format {
    /// The values of the 16 codes.
    pub const fn codes(self) -> &'static [f32; 16] {
        match self {
            Format::Nf4 => &NF4_CODES,
            Format::Fp4 => &FP4_CODES,
        }
    }

    /// The code of 0.0, which pads an odd tail.
    pub const fn zero(self) -> u8 {
        match self {
            Format::Nf4 => 7,
            Format::Fp4 => 0,
        }
    }

    /// The code of `x`, a share of its block's absmax. A tie goes to the lower NF4 code and the smaller FP4 magnitude.
    #[inline(always)]
    pub fn nearest(self, x: f32) -> u8 {
        match self {
            Format::Nf4 => NF4_THRESHOLDS.iter().map(|&t| u8::from(x > t)).sum(),
            Format::Fp4 => {
                let above: u8 = FP4_THRESHOLDS.iter().map(|&t| u8::from(x.abs() > t)).sum();
                FP4_ORDER[usize::from(above)] | (u8::from(x < 0.0) << 3)
            }
        }
    }
}

/// The signed 8-bit dynamic map of bitsandbytes (`create_dynamic_map`), ascending: what the codes of nested absmax and of
/// an optimiser's first moment stand for.
///
/// Dettmers et al., "8-bit optimizers via block-wise quantization" (2022), section 1.3.
pub static DYNAMIC_MAP: LazyLock<[f32; 256]> = LazyLock::new(|| dynamic_map(true));

/// The unsigned one, of twice as many positive values: what the codes of an optimiser's second moment stand for.
pub static UNSIGNED_DYNAMIC_MAP: LazyLock<[f32; 256]> = LazyLock::new(|| dynamic_map(false));

fn dynamic_map(signed: bool) -> [f32; 256] {
    let mut map = vec![0.0, 1.0];
    for (exponent, scale) in [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0f32].into_iter().enumerate() {
        let means = if signed { 1 << exponent } else { 2 << exponent };
        // As torch.linspace(0.1, 1, means + 1) rounds: one fused operation from the nearer end.
        let step = 0.9 / means as f32;
        let low = |i: usize| step.mul_add(i as f32, 0.1);
        let high = |i: usize| step.mul_add(-((means - i) as f32), 1.0);
        let bound = |i| if 2 * i < means { low(i) } else { high(i) };
        for i in 0..means {
            let mean = scale * ((bound(i) + bound(i + 1)) / 2.0);
            map.push(mean);
            if signed {
                map.push(-mean);
            }
        }
    }
    map.sort_by(f32::total_cmp);
    std::array::from_fn(|i| map[i])
}

/// Points of the grid over `[-1, 1]` to which bitsandbytes' CPU `quantize_blockwise` rounds what it looks up.
const GRID: u32 = 65536;

/// `first[i]` is the first point of the grid that is nearer to entry `i + 1` of a map than to entry `i`.
type First = [u32; 255];

static FIRST: LazyLock<First> = LazyLock::new(|| first(&DYNAMIC_MAP));
static UNSIGNED_FIRST: LazyLock<First> = LazyLock::new(|| first(&UNSIGNED_DYNAMIC_MAP));

/// In f32, as bitsandbytes computes it: a point may lie on a middle.
fn first(map: &[f32; 256]) -> First {
    let points: Vec<f32> = (0..GRID).map(|point| -1.0 + (2 * point) as f32 / (GRID - 1) as f32).collect();
    std::array::from_fn(|i| {
        let middle = 0.5 * (map[i] + map[i + 1]);
        points.partition_point(|&point| point <= middle) as u32
    })
}

/// The code of `x` in `[-1, 1]`, as bitsandbytes' CPU `quantize_blockwise` finds it: `x` is rounded to a grid of
/// 65536 points over `[-1, 1]`, then to the nearest entry of the map. NaN has code 0.
pub fn nearest8(x: f32) -> u8 {
    nearest(&FIRST, x)
}

/// The same of the unsigned map.
pub fn nearest8_unsigned(x: f32) -> u8 {
    nearest(&UNSIGNED_FIRST, x)
}

#[inline(always)]
fn nearest(first: &First, x: f32) -> u8 {
    if x.is_nan() {
        return 0;
    }
    let point = ((x + 1.0) * 32767.5 + 0.5) as u32;
    first.partition_point(|&first| first <= point) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_lie_between_codes() {
        for (i, t) in NF4_THRESHOLDS.iter().enumerate() {
            let middle = (NF4_CODES[i] + NF4_CODES[i + 1]) / 2.0;
            assert_eq!(*t, middle, "threshold {i}");
        }
        for (i, t) in FP4_THRESHOLDS.iter().enumerate() {
            let [low, high] = [FP4_ORDER[i], FP4_ORDER[i + 1]].map(|c| FP4_CODES[usize::from(c)]);
            assert!(low < *t && *t < high, "threshold {i}");
        }
    }

    #[test]
    fn every_code_is_nearest_to_its_value() {
        for format in [Format::Nf4, Format::Fp4] {
            for (code, &value) in format.codes().iter().enumerate() {
                let nearest = format.nearest(value);
                assert_eq!(format.codes()[usize::from(nearest)], value, "{format} code {code}");
            }
            assert_eq!(format.nearest(0.0), format.zero());
        }
    }

    #[test]
    fn dynamic_map_ascends_and_finds_its_entries() {
        let map = &*DYNAMIC_MAP;
        assert!(map.windows(2).all(|w| w[0] < w[1]));
        assert_eq!((map[0], map[127], map[128], map[255]), (-0.992_968_74, 0.0, 5.500_000_4e-7, 1.0));
        for (i, &x) in map.iter().enumerate().filter(|(_, x)| x.abs() > 1e-4) {
            assert_eq!(usize::from(nearest8(x)), i, "{x}");
        }
        assert_eq!((nearest8(f32::NAN), nearest8_unsigned(f32::NAN)), (0, 0));
    }

    #[test]
    fn unsigned_map_ascends_and_finds_its_entries() {
        let map = &*UNSIGNED_DYNAMIC_MAP;
        assert!(map.windows(2).all(|w| w[0] < w[1]));
        assert_eq!((map[0], map[255]), (0.0, 1.0));
        for (i, &x) in map.iter().enumerate().filter(|(_, x)| **x > 1e-3) {
            assert_eq!(usize::from(nearest8_unsigned(x)), i, "{x}");
        }
    }
}
