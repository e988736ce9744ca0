use super::check::{Check, Op};
use crate::{
    buffer::{Storage, View, ViewMut},
    element::Float,
    error::Result,
    quant::{BLOCK8, n_blocks},
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

/// How a step moves: PyTorch's options, in f64 as Python has them, and which step it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Counted from 1.
    pub count: u32,
}

/// The numbers that a step computes with, each made in f64 and rounded once, as PyTorch does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    /// `1 - lr · weight_decay`
    pub decay: f32,
    pub betas: [f32; 2],
    /// `1 - beta`
    pub new: [f32; 2],
    /// `lr / (1 - beta1^t)`
    pub rate: f32,
    /// `sqrt(1 - beta2^t)`
    pub root: f32,
    pub eps: f32,
}

impl AdamWStep {
    pub(crate) fn factors(&self) -> Factors {
        let AdamWStep { lr, betas, eps, weight_decay, count } = *self;
        let corrections = betas.map(|beta| 1.0 - beta.powf(f64::from(count)));
        Factors {
            decay: (1.0 - lr * weight_decay) as f32,
            betas: betas.map(|beta| beta as f32),
            new: betas.map(|beta| (1.0 - beta) as f32),
            rate: (lr / corrections[0]) as f32,
            root: corrections[1].sqrt() as f32,
            eps: eps as f32,
        }
    }
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
///     step: AdamWStep { lr: 0.25, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, count: 1 },
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
    /// How it moves.
    pub step: AdamWStep,
    /// What becomes of the gradients before.
    pub clip: Clip<'a, B>,
}

/// A moment in 8 bits: codes of a dynamic map, as shares of the largest magnitude of their block of [`BLOCK8`].
#[derive(Debug)]
pub struct Moment8<'a, B: Storage> {
    /// `[n]`; the first moment's are of [`crate::quant::DYNAMIC_MAP`], the second's of
    /// [`crate::quant::UNSIGNED_DYNAMIC_MAP`].
    pub codes: ViewMut<'a, B, u8>,
    /// `[n / 256]`, rounded up.
    pub absmax: ViewMut<'a, B, f32>,
}

/// [`AdamW`] whose moments are kept in 8 bits, as bitsandbytes' `AdamW8bit` does (Dettmers et al., "8-bit optimizers via
/// block-wise quantization", 2022): the moments have the bits that its CPU backend gives them, on every backend.
///
/// Moments are decoded, `map[code] · absmax`, and moved by [`AdamW`]'s formula; weights are moved by them as they are in
/// f32, before they are rounded to 8 bits again. A code is the one nearest to the moment's share of its block's largest
/// magnitude, the share rounded first to a grid of 65536 points over `[-1, 1]`; a block of zeros has codes 0.
/// Rounding, of one operation after the other: `m = fma(1 - beta1, g, beta1 · m)`,
/// `v = fma((1 - beta2) · g, g, beta2 · v)`, and the share is a product with the rounded reciprocal.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// // The first step moves each weight by the learning rate, whatever its gradient is.
/// let (mut weights, grads, mut compute) = (cpu.upload(&[1_f32, 1.0])?, cpu.upload(&[0.3, -0.4])?, cpu.zeros(2)?);
/// let (mut codes, mut absmax) = ([cpu.zeros(2)?, cpu.zeros(2)?], [cpu.zeros(1)?, cpu.zeros(1)?]);
/// let ([m, v], [m_absmax, v_absmax]) = (&mut codes, &mut absmax);
/// let (norm, loss, mut halted) = (cpu.upload(&[0.5])?, cpu.upload(&[2.0])?, cpu.zeros(1)?);
/// let (norm, loss, halted) = (norm.view(), loss.view(), halted.view_mut());
/// AdamW8bit::<_, f32> {
///     weights: weights.view_mut(),
///     grads: grads.view(),
///     m: Moment8 { codes: m.view_mut(), absmax: m_absmax.view_mut() },
///     v: Moment8 { codes: v.view_mut(), absmax: v_absmax.view_mut() },
///     compute: compute.view_mut(),
///     step: AdamWStep { lr: 0.25, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, count: 1 },
///     clip: Clip { norm, loss, max_norm: 1.0, loss_scale: 1.0, halted },
/// }
/// .run(&cpu)?;
/// assert!(compute.to_vec(&cpu)?.iter().zip([0.75, 1.25]).all(|(w, want)| (w - want).abs() < 1e-5));
/// assert!((absmax[0].to_vec(&cpu)?[0] - 0.04).abs() < 1e-6);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct AdamW8bit<'a, B: Storage, T: Float> {
    /// `[n]`, the master weights.
    pub weights: ViewMut<'a, B, f32>,
    /// `[n]`.
    pub grads: View<'a, B, f32>,
    /// The first moment.
    pub m: Moment8<'a, B>,
    /// The second moment.
    pub v: Moment8<'a, B>,
    /// `[n]`, what forward and backward read.
    pub compute: ViewMut<'a, B, T>,
    /// How it moves.
    pub step: AdamWStep,
    /// What becomes of the gradients before.
    pub clip: Clip<'a, B>,
}

impl<B: Storage> Clip<'_, B> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.len("norm", &self.norm, 1)?;
        check.len("loss", &self.loss, 1)?;
        check.len_mut("halted", &self.halted, 1)
    }
}

impl AdamWStep {
    fn verify<B: Storage>(&self, check: &Check<'_, B>) -> Result<()> {
        check.value(self.count > 0, "step", 0, "steps are counted from 1")
    }
}

impl<B: Storage, T: Float> Op<B> for AdamW<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let n = self.weights.len();
        check.view_mut("weights", &self.weights)?;
        check.len("grads", &self.grads, n)?;
        check.len_mut("m", &self.m, n)?;
        check.len_mut("v", &self.v, n)?;
        check.len_mut("compute", &self.compute, n)?;
        self.clip.verify(check)?;
        self.step.verify(check)
    }
}

impl<B: Storage, T: Float> Op<B> for AdamW8bit<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let n = self.weights.len();
        check.view_mut("weights", &self.weights)?;
        check.len("grads", &self.grads, n)?;
        check.len_mut("m", &self.m.codes, n)?;
        check.len_mut("absmax of m", &self.m.absmax, n_blocks(n, BLOCK8))?;
        check.len_mut("v", &self.v.codes, n)?;
        check.len_mut("absmax of v", &self.v.absmax, n_blocks(n, BLOCK8))?;
        check.len_mut("compute", &self.compute, n)?;
        self.clip.verify(check)?;
        self.step.verify(check)
    }
}
