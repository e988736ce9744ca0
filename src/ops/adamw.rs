use super::check::{Check, Op};
use crate::{
    buffer::{Storage, View, ViewMut},
    element::Float,
    error::Result,
};

/// One AdamW step over a flat vector (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019), as PyTorch computes it.
///
/// With `g = grad_scale · grads[i]` and step `t` counted from 1: `w -= lr · weight_decay · w`;
/// `m = beta1 · m + (1 - beta1) · g`; `v = beta2 · v + (1 - beta2) · g²`;
/// `w -= lr / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`; `compute[i] = w` rounded to `T`.
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
    /// Clipping coefficient over loss scale.
    pub grad_scale: f32,
}

impl<B: Storage, T: Float> Op<B> for AdamW<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let n = self.weights.len();
        check.view_mut("weights", &self.weights)?;
        check.len("grads", &self.grads, n)?;
        check.len_mut("m", &self.m, n)?;
        check.len_mut("v", &self.v, n)?;
        check.len_mut("compute", &self.compute, n)?;
        check.value(self.step > 0, "step", 0, "steps are counted from 1")
    }
}
