//! How exactly kernels may multiply a matrix by a weight, beside sums in f32.

use super::num::{Num, unit};
use halfbyte::{Backend, DType, Float};

/// Terms of a sum that share a scale where they are in fixed point.
const BLOCK: usize = 64;

/// What may be off besides the sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exactness {
    /// By how many half ulps of the compute type a weight may be off.
    pub rounding: f64,
    /// Whether both sides are in fixed point.
    pub fixed: bool,
}

impl Exactness {
    /// Of a product of `n` rows, or of its input gradient: CPUs with AVX-512 VNNI multiply integers, where both sides are
    /// exact in bf16. One to four rows are multiplied as they are.
    pub fn of<B: Backend, T: Float>(backend: &B, n: usize, gradient: bool) -> Self {
        let fixed = T::DTYPE == DType::Bf16 && (n > 4 || gradient) && backend.name().starts_with("cpu (avx512-vnni");
        Exactness { rounding: 0.0, fixed }
    }

    /// The sum of the products of `(vector, weight)`.
    pub fn dot<T: Float>(self, pairs: impl Iterator<Item = (f64, f64)> + Clone) -> Num {
        let mut sum = Num::dot(pairs.clone());
        if self.rounding > 0.0 {
            sum.err += self.rounding * unit::<T>() * pairs.clone().map(|(x, w)| (x * w).abs()).sum::<f64>();
        }
        if self.fixed {
            sum.err += fixed_error(pairs);
        }
        sum
    }
}

/// What rounding both sides to their steps does to a sum. Each number is off by half a step at most, in a direction of its
/// own: by Hoeffding's inequality the sum is off by more than four times the norm of these errors with a probability below
/// 1e-3, which is what [`Num::sum`] goes by as well.
fn fixed_error(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let pairs: Vec<_> = pairs.collect();
    let of_block = |block: &[(f64, f64)]| {
        let largest = |side: fn(&(f64, f64)) -> f64| block.iter().map(|pair| side(pair).abs()).fold(0.0, f64::max);
        let sum: f64 = block.iter().map(|(_, w)| w.abs()).sum();
        let steps = [largest(|(x, _)| *x) / 32767.0, (largest(|(_, w)| *w) / 32767.0).max(sum / 65_500.0)];
        block.iter().map(|(x, w)| (w * steps[0] / 2.0).powi(2) + (x * steps[1] / 2.0).powi(2)).sum::<f64>()
    };
    4.0 * pairs.chunks(BLOCK).map(of_block).sum::<f64>().sqrt()
}
