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
    /// What is in fixed point.
    pub fixed: Fixed,
}

/// Which sides of a product are in fixed point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fixed {
    #[default]
    Neither,
    /// The vectors, in steps of a block's largest element over 16,383; codes of the weight are so too, which
    /// [`Exactness::rounding`] has room for.
    Vectors,
    Both,
}

impl Exactness {
    /// Of a product of `n` rows, or of its input gradient: CPUs with AVX-512 VNNI, and those with AVX2 and no AVX-512, multiply
    /// integers, where both sides are exact in bf16. One to four rows are multiplied as they are.
    pub fn of<B: Backend, T: Float>(backend: &B, n: usize, gradient: bool) -> Self {
        let integers = ["cpu (avx512-vnni", "cpu (avx2"].iter().any(|cpu| backend.name().starts_with(cpu));
        let fixed = T::DTYPE == DType::Bf16 && (n > 4 || gradient) && integers;
        Exactness { rounding: 0.0, fixed: if fixed { Fixed::Both } else { Fixed::Neither } }
    }

    /// Of a product with a 4-bit weight, one to four rows of which CPUs with AVX2 and no AVX-512 multiply in fixed point where they
    /// are whole blocks of 64 or more.
    pub fn of_quantized<B: Backend, T: Float>(backend: &B, n: usize, inputs: usize, block_size: usize) -> Self {
        let blocks = block_size >= BLOCK && inputs.is_multiple_of(block_size);
        if T::DTYPE == DType::Bf16 && n <= 4 && blocks && backend.name().starts_with("cpu (avx2") {
            return Exactness { rounding: 0.0, fixed: Fixed::Vectors };
        }
        Exactness::of::<B, T>(backend, n, false)
    }

    /// The sum of the products of `(vector, weight)`.
    pub fn dot<T: Float>(self, pairs: impl Iterator<Item = (f64, f64)> + Clone) -> Num {
        let mut sum = Num::dot(pairs.clone());
        if self.rounding > 0.0 {
            sum.err += self.rounding * unit::<T>() * pairs.clone().map(|(x, w)| (x * w).abs()).sum::<f64>();
        }
        if self.fixed != Fixed::Neither {
            sum.err += self.fixed.error(pairs);
        }
        sum
    }
}

impl Fixed {
    /// What rounding to steps does to a sum. Each number is off by half a step at most, in a direction of its own: by
    /// Hoeffding's inequality the sum is off by more than four times the norm of these errors with a probability below 1e-3,
    /// which is what [`Num::sum`] goes by as well.
    fn error(self, pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
        let pairs: Vec<_> = pairs.collect();
        let of_block = |block: &[(f64, f64)]| {
            let [of_x, of_w] = self.steps(block);
            block.iter().map(|(x, w)| (w * of_x / 2.0).powi(2) + (x * of_w / 2.0).powi(2)).sum::<f64>()
        };
        4.0 * pairs.chunks(BLOCK).map(of_block).sum::<f64>().sqrt()
    }

    /// The steps of the vector and of the weight in a block.
    fn steps(self, block: &[(f64, f64)]) -> [f64; 2] {
        let largest = |side: fn(&(f64, f64)) -> f64| block.iter().map(|pair| side(pair).abs()).fold(0.0, f64::max);
        let sum: f64 = block.iter().map(|(_, w)| w.abs()).sum();
        match self {
            Fixed::Neither => [0.0; 2],
            Fixed::Vectors => [largest(|(x, _)| *x) / 16_383.0, 0.0],
            Fixed::Both => [largest(|(x, _)| *x) / 32_767.0, (largest(|(_, w)| *w) / 32_767.0).max(sum / 65_500.0)],
        }
    }
}
