use super::elementwise;
use crate::{
    cuda::{device::Cuda, kernel::Kernel, params::AdamWParams},
    element::Float,
    error::Result,
    ops::AdamW,
};

const ADAMW: Kernel<AdamWParams> = Kernel::new("adamw", "adamw");

pub(in crate::cuda) fn adamw<T: Float>(cuda: &Cuda, mut op: AdamW<'_, Cuda, T>) -> Result<()> {
    let len = op.weights.len();
    // The scalars as PyTorch makes them: in f64, rounded once.
    let [lr, decay, beta1, beta2] = [op.lr, op.weight_decay, op.betas[0], op.betas[1]].map(f64::from);
    let bias = |beta: f64| 1.0 - beta.powf(f64::from(op.step));
    let params = AdamWParams {
        weights: op.weights.ptr() as _,
        grads: op.grads.ptr() as _,
        m: op.m.ptr() as _,
        v: op.v.ptr() as _,
        compute: op.compute.ptr() as _,
        len: len as u64,
        decay: (1.0 - lr * decay) as f32,
        one_minus_beta1: (1.0 - beta1) as f32,
        beta2: op.betas[1],
        one_minus_beta2: (1.0 - beta2) as f32,
        step_size: (lr / bias(beta1)) as f32,
        bias2_sqrt: bias(beta2).sqrt() as f32,
        eps: op.eps,
        norm: op.clip.norm.ptr() as _,
        loss: op.clip.loss.ptr() as _,
        halted: op.clip.halted.ptr() as _,
        max_norm: op.clip.max_norm,
        loss_scale: op.clip.loss_scale,
    };
    // SAFETY: `AdamW::verify` checked that every vector is as long as the weights, and that the three others are one number.
    unsafe { cuda.launch(&ADAMW, T::DTYPE.suffix(), params, elementwise("adamw", [1, len.max(1)])?) }
}
