use super::elementwise;
use crate::{
    buffer::{View, ViewMut},
    cuda::{
        device::Cuda,
        kernel::Kernel,
        params::{ADAMW8BIT_BLOCK, AdamW8bitParams, AdamWParams, AdamWStepParams},
    },
    element::Float,
    error::Result,
    ops::{AdamW, AdamW8bit, AdamWStep, Clip},
    quant::BLOCK8,
};

const ADAMW: Kernel<AdamWParams> = Kernel::new("adamw", "adamw");
const ADAMW8BIT: Kernel<AdamW8bitParams> = Kernel::new("adamw", "adamw8bit");
const _: () = assert!(BLOCK8 == ADAMW8BIT_BLOCK as usize, "kernels/params.h and quant::BLOCK8 disagree");

/// Weights, gradients and what is computed with.
type Vectors<'a, T> = (ViewMut<'a, Cuda, f32>, View<'a, Cuda, f32>, ViewMut<'a, Cuda, T>);

fn step_params<T: Float>(vectors: Vectors<'_, T>, step: AdamWStep, mut clip: Clip<'_, Cuda>) -> AdamWStepParams {
    let (mut weights, grads, mut compute) = vectors;
    let factors = step.factors();
    AdamWStepParams {
        weights: weights.ptr() as _,
        grads: grads.ptr() as _,
        compute: compute.ptr() as _,
        len: grads.len() as u64,
        decay: factors.decay,
        beta1: factors.betas[0],
        one_minus_beta1: factors.new[0],
        beta2: factors.betas[1],
        one_minus_beta2: factors.new[1],
        step_size: factors.rate,
        bias2_sqrt: factors.root,
        eps: factors.eps,
        norm: clip.norm.ptr() as _,
        loss: clip.loss.ptr() as _,
        halted: clip.halted.ptr() as _,
        max_norm: clip.max_norm,
        loss_scale: clip.loss_scale,
    }
}

pub(in crate::cuda) fn adamw<T: Float>(cuda: &Cuda, op: AdamW<'_, Cuda, T>) -> Result<()> {
    let AdamW { weights, grads, mut m, mut v, compute, step, clip } = op;
    let grid = elementwise("adamw", [1, grads.len().max(1)])?;
    let step = step_params((weights, grads, compute), step, clip);
    let params = AdamWParams { step, m: m.ptr() as _, v: v.ptr() as _ };
    // SAFETY: `AdamW::verify` checked that every vector is as long as the weights, and that the three others are one number.
    unsafe { cuda.launch(&ADAMW, T::DTYPE.suffix(), params, grid) }
}

pub(in crate::cuda) fn adamw8bit<T: Float>(cuda: &Cuda, op: AdamW8bit<'_, Cuda, T>) -> Result<()> {
    let AdamW8bit { weights, grads, mut m, mut v, compute, step, clip } = op;
    let grid = elementwise("adamw8bit", [1, grads.len().max(1)])?;
    let params = AdamW8bitParams {
        step: step_params((weights, grads, compute), step, clip),
        m_codes: m.codes.ptr() as _,
        v_codes: v.codes.ptr() as _,
        m_absmax: m.absmax.ptr() as _,
        v_absmax: v.absmax.ptr() as _,
    };
    // SAFETY: as for `adamw`; `AdamW8bit::verify` checked that there is an absmax for each block.
    unsafe { cuda.launch(&ADAMW8BIT, T::DTYPE.suffix(), params, grid) }
}
