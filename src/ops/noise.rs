use super::check::{Check, Op};
use crate::{
    buffer::{MatMut, Storage},
    element::Float,
    error::Result,
    rng::{philox, uniform},
};

/// `x[i, j] += bound · (2u - 1)` with `u` uniform in `[0, 1)`: the noise that NEFTune adds to embeddings (Jain et al. 2023,
/// arXiv:2310.05914).
///
/// `u` is word `j % 4` of `philox([j / 4, i, stream, stream >> 32], seed)`: a pure function of the position.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let mut x = cpu.upload(&[1_f32; 8])?;
/// Noise { x: x.mat_mut(2, 4), bound: 0.1, seed: 7, stream: 0 }.run(&cpu)?;
/// let noised = x.to_vec(&cpu)?;
/// assert!(noised.iter().all(|x| (x - 1.0).abs() <= 0.1001) && noised[0] != noised[4]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Noise<'a, B: Storage, T: Float> {
    /// `[n, d]`, added to.
    pub x: MatMut<'a, B, T>,
    /// The largest size of what is added.
    pub bound: f32,
    /// The run's seed.
    pub seed: u64,
    /// Which noise: differs for each micro-batch.
    pub stream: u64,
}

impl<B: Storage, T: Float> Noise<'_, B, T> {
    /// What is added to columns `4 · quad ..` of `row`.
    pub fn of(row: u32, quad: u32, bound: f32, seed: u64, stream: u64) -> [f32; 4] {
        philox([quad, row, stream as u32, (stream >> 32) as u32], seed).map(|word| bound * (2.0 * uniform(word) - 1.0))
    }
}

impl<B: Storage, T: Float> Op<B> for Noise<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.mat_mut("x", &self.x, self.x.shape())?;
        let ok = self.bound >= 0.0 && self.bound.is_finite();
        check.value(ok, "the bound", self.bound, "it must be finite and not negative")
    }
}
