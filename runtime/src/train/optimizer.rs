//! What AdamW keeps of an adapter.

use crate::error::Result;
use halfbyte::{Backend, Buf};

/// How the optimiser moves; the defaults are those of transformers' `TrainingArguments`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerOptions {
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Decay of the moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Gradients are scaled down to this norm; 0 turns it off.
    pub max_grad_norm: f32,
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        OptimizerOptions { weight_decay: 0.0, betas: [0.9, 0.999], eps: 1e-8, max_grad_norm: 1.0 }
    }
}

/// The adapter's master weights and the optimiser's moments, each `[layout.len]`.
pub(super) struct Optimizer<B: Backend> {
    pub weights: Buf<B, f32>,
    pub m: Buf<B, f32>,
    pub v: Buf<B, f32>,
    /// `[2]`: the summed loss of a step, and the norm of its gradient.
    pub outcome: Buf<B, f32>,
    /// `[1]`: not 0 once one of them was not finite.
    pub halted: Buf<B, u32>,
    /// `outcome` of the step before the last, and of the last, in turn, in the host's memory.
    pub outcomes: [Buf<B, f32>; 2],
    /// Steps taken.
    pub steps: u32,
}

impl<B: Backend> Optimizer<B> {
    pub fn new(backend: &B, weights: &[f32]) -> Result<Self> {
        let zeros = || backend.zeros(weights.len());
        Ok(Optimizer {
            weights: backend.upload(weights)?,
            m: zeros()?,
            v: zeros()?,
            outcome: backend.zeros(2)?,
            halted: backend.zeros(1)?,
            outcomes: [backend.zeros_on_host(2)?, backend.zeros_on_host(2)?],
            steps: 0,
        })
    }
}
