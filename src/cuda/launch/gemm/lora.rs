//! The adapter: `lora_down` and `lora_up`, or both at once where tokens are few. `plan.rs` chooses kernels and grids,
//! `grad.rs` is the backward pass.

mod dropout;
mod grad;
mod plan;

use crate::{
    cuda::{
        device::Cuda,
        launch::dim,
        params::{LoraDownParams, LoraSkinnyParams, LoraUpParams, MatrixMut},
    },
    element::Float,
    error::Result,
    ops::Lora,
};
use dropout::dropout_params;
use plan::Launch;

pub(in crate::cuda) use grad::lora_grad;

fn forward_params<T: Float>(op: &mut Lora<'_, Cuda, T>) -> LoraSkinnyParams {
    let ([n, k], [_, r], [_, out]) = (op.x.shape(), op.xa.shape(), op.out.shape());
    let (dropout, keep_scale) = dropout_params(op.dropout);
    let down = LoraDownParams {
        x: op.x.matrix(),
        a: op.a.ptr() as _,
        out: op.xa.matrix(),
        out_t: MatrixMut::NONE,
        n: dim(n),
        cols: dim(k),
        r: dim(r),
        scale: keep_scale,
        dropout,
    };
    let up = LoraUpParams {
        xa: op.xa.matrix().as_const(),
        b: op.b.ptr() as _,
        out: op.out.matrix(),
        n: dim(n),
        cols: dim(out),
        r: dim(r),
        scale: op.scale,
        dropout: dropout_params(None).0,
    };
    LoraSkinnyParams { down, up }
}

/// Only `xa`.
pub(super) fn lora_down<T: Float>(cuda: &Cuda, mut op: Lora<'_, Cuda, T>) -> Result<()> {
    if op.xa.shape()[1] == 0 {
        return Ok(());
    }
    let LoraSkinnyParams { down, .. } = forward_params(&mut op);
    let Launch { kernel, config } = plan::down(cuda, T::DTYPE, &down)?;
    // SAFETY: `Lora::verify` checked every shape; `plan::down`, what the kernel demands beyond.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), down, config) }
}

pub(in crate::cuda) fn lora<T: Float>(cuda: &Cuda, mut op: Lora<'_, Cuda, T>) -> Result<()> {
    if op.xa.shape()[1] == 0 {
        return Ok(());
    }
    let params = forward_params(&mut op);
    let suffix = T::DTYPE.suffix();
    if let Some(Launch { kernel, config }) = plan::skinny(cuda, T::DTYPE, &params)? {
        // SAFETY: `Lora::verify` checked every shape; `plan::skinny`, what the kernel demands beyond.
        return unsafe { cuda.launch(kernel, suffix, params, config) };
    }
    let LoraSkinnyParams { down, up } = params;
    let (first, second) = (plan::down(cuda, T::DTYPE, &down)?, plan::up(T::DTYPE, &up)?);
    // SAFETY: `Lora::verify` checked every shape; `plan::down` and `plan::up`, what the kernels demand beyond.
    unsafe {
        cuda.launch(first.kernel, suffix, down, first.config)?;
        cuda.launch(second.kernel, suffix, up, second.config)
    }
}
