//! Arithmetic that the compiler can vectorise: no branches.

pub(super) use super::simd::sum::{add_rows, dot, dots, max, sum};

/// `e^x` to about one unit in the last place; NaN, infinities and subnormal results included.
///
/// `2^n e^r` with `|r| <= ln(2) / 2`; the polynomial is that of Moshier's Cephes (`expf`).
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-104.0, 89.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_375 + n * 2.121_944_40e-4;
    let p = 1.987_569_15e-4;
    let p = p * r + 1.398_199_95e-3;
    let p = p * r + 8.333_451_91e-3;
    let p = p * r + 4.166_579_59e-2;
    let p = p * r + 1.666_666_55e-1;
    let p = p * r + 5.000_000_12e-1;
    let y = p * r * r + r + 1.0;
    // Two factors, because 2^n itself may overflow or be subnormal.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    y * power_of_two(n >> 1) * power_of_two(n - (n >> 1))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -110_000..90_000 {
            let x = i as f32 * 1e-3;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            // Two units in the last place, or one subnormal step.
            let tolerance = (want * 2.4e-7).max(2e-45);
            assert!(
                (got - want).abs() <= tolerance || (got.is_infinite() && want > 3.4e38),
                "exp({x}) = {got}, not {want}"
            );
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
