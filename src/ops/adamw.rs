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
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// // The first step moves each weight by the learning rate, whatever its gradient is.
/// let (mut weights, grads, mut compute) = (cpu.upload(&[1_f32, 1.0])?, cpu.upload(&[0.3, -0.4])?, cpu.zeros(2)?);
/// let (mut m, mut v, mut halted) = (cpu.zeros(2)?, cpu.zeros(2)?, cpu.zeros(1)?);
/// let (norm, loss) = (cpu.upload(&[0.5])?, cpu.upload(&[2.0])?);
/// let (norm, loss, halted) = (norm.view(), loss.view(), halted.view_mut());
/// AdamW::<_, f32> {
///     weights: weights.view_mut(),
///     grads: grads.view(),
///     m: m.view_mut(),
///     v: v.view_mut(),
///     compute: compute.view_mut(),
///     lr: 0.25,
///     betas: [0.9, 0.999],
///     eps: 1e-8,
///     weight_decay: 0.0,
///     step: 1,
///     clip: Clip { norm, loss, max_norm: 1.0, loss_scale: 1.0, halted },
/// }
/// .run(&cpu)?;
/// assert!(compute.to_vec(&cpu)?.iter().zip([0.75, 1.25]).all(|(w, want)| (w - want).abs() < 1e-5));
/// # Ok::<(), halfbyte::Error>(())
/// ```
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
