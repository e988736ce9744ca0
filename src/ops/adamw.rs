use super::check::{Check, Op};
use crate::{
    buffer::{Storage, View, ViewMut},
    element::Float,
    error::Result,
};

/// What a step does to gradients before it, known on the device alone: so nobody has to wait for a norm.
#[derive(Debug)]
pub struct Clip<'a, B: Storage> {
    /// `[1]`: the norm of the gradients.
    pub norm: View<'a, B, f32>,
    /// `[1]`: their loss.
    pub loss: View<'a, B, f32>,
    /// Gradients are scaled down to this norm; 0 turns it off.
    pub max_norm: f32,
    /// They are those of the loss times this.
    pub loss_scale: f32,
    /// `[1]`: not 0 once loss or norm were not finite; no step does anything from then on.
    pub halted: ViewMut<'a, B, u32>,
}

/// One AdamW step over a flat vector (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019), as PyTorch computes it.
///
/// With `g = min(1, max_norm / (norm / loss_scale + 1e-6)) / loss_scale · grads[i]` and step `t` counted from 1, unless it
/// is halted: `w -= lr · weight_decay · w`;
/// `m = beta1 · m + (1 - beta1) · g`; `v = beta2 · v + (1 - beta2) · g²`;
/// `w -= lr / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`; `compute[i] = w` rounded to `T`.
#[derive(Debug)]
pub struct AdamW<'a, B: Storage, T: Float> {
    /// `[n]`, the master weights.
    pub weights: ViewMut<'a, B, f32>,
    /// `[n]`.
    pub grads: View<'a, B, f32>,
    /// `[n]`, the first moment.
    pub m: ViewMut<'a, B, f32>,
    /// `[n]`, the second moment.
    pub v: ViewMut<'a, B, f32>,
    /// `[n]`, what forward and backward read.
    pub compute: ViewMut<'a, B, T>,
    /// Learning rate.
    pub lr: f32,
    /// Decay of the moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Counted from 1.
    pub step: u32,
    /// What becomes of the gradients before.
    pub clip: Clip<'a, B>,
}

impl<B: Storage, T: Float> Op<B> for AdamW<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let n = self.weights.len();
        check.view_mut("weights", &self.weights)?;
        check.len("grads", &self.grads, n)?;
        check.len_mut("m", &self.m, n)?;
        check.len_mut("v", &self.v, n)?;
        check.len_mut("compute", &self.compute, n)?;
        check.len("norm", &self.clip.norm, 1)?;
        check.len("loss", &self.clip.loss, 1)?;
        check.len_mut("halted", &self.clip.halted, 1)?;
        check.value(self.step > 0, "step", 0, "steps are counted from 1")
    }
}
