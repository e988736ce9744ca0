//! One or two tokens and a 4-bit weight: `norm_linear4.rs`, without a norm. Up to [`SEPARATE_TOKENS`] a product and its
//! adapters are ops of their own. For more, with B beside the weight, or A below it, one product has all (`stack.rs`).

mod operands;
mod stack;

use super::{
    Gemm,
    linear::{linear, linear_grad},
    linear4::{linear4, linear4_grad},
    lora::{LoraGrads, lora_down, swiglu_down},
    norm_linear4::{Fused, adapters},
};
use crate::{
    buffer::{Mat, MatMut},
    cuda::{
        device::Cuda,
        launch::{dim, rms_norm, swiglu},
        params::{LoraLinearFactor, MatrixMut},
    },
    element::Float,
    error::Result,
    frozen::FrozenWeight,
    ops::{
        Linear, Linear4, Linear4Grad, LinearGrad, LoraInput, LoraLinear, LoraLinearGrad, LoraPart, RmsNormGrad, Swiglu,
        SwigluGrad,
    },
};
use core::ffi::c_void;
use stack::{Operands, Stack};

pub(super) use operands::rows_below;

/// Adapters of more tokens are part of the product, where there is a way.
const SEPARATE_TOKENS: usize = 16;
/// Up to so many, decoding first takes longer than adapters of their own.
const DECODED_TOKENS: usize = 1024;
/// The same of the gradient: at 512 tokens one product that decodes before took 2 % off a step.
const DECODED_GRAD_TOKENS: usize = 256;

impl LoraLinearFactor {
    pub(super) const NONE: Self = LoraLinearFactor { ptr: std::ptr::null(), row: 0, rows: 0, col: 0, r: 0, scale: 0.0 };

    /// A factor of an adapter, for kernels that count columns of xa from `first` on.
    pub(super) fn new<T: Float>(ptr: *const c_void, part: &LoraPart<'_, Cuda, T>, first: usize) -> Self {
        LoraLinearFactor {
            ptr,
            row: dim(part.out.start),
            rows: dim(part.out.len()),
            col: dim(part.xa.start - first),
            r: dim(part.xa.len()),
            scale: part.scale,
        }
    }
}

pub(in crate::cuda) fn lora_linear<T: Float>(cuda: &Cuda, mut op: LoraLinear<'_, Cuda, T>) -> Result<()> {
    let ([n, cols], [_, inputs]) = (op.x.shape(), op.weight.shape());
    let operands = Operands { x: op.x.matrix(), xa: op.xa.matrix(), room: cols - inputs, xa_columns: op.xa.shape()[1] };
    let gemm = Gemm::new("lora_linear", false, &op.x.mat(), &mut op.out, op.accumulate);
    let stack = Stack::new(op.weight, op.parts, operands).filter(|_| n > SEPARATE_TOKENS);
    let stack = stack.map(|stack| stack.with_way(cuda, &gemm, DECODED_TOKENS)).transpose()?.flatten();
    let Some(stack) = stack else { return separately(cuda, op) };
    let x = op.x.reborrow().columns(0..inputs);
    match op.gate_up {
        Some(gate_up) => swiglu_down(cuda, Swiglu { gate_up, out: x }, op.parts, &mut op.xa, &mut op.out)?,
        None => lora_down(cuda, x.mat(), op.parts, &mut op.xa, &mut op.out)?,
    }
    // SAFETY: `LoraLinear::verify` checked every shape, and `with_way` what is demanded beyond.
    unsafe { stack.forward(cuda, &gemm) }
}

fn separately<T: Float>(cuda: &Cuda, op: LoraLinear<'_, Cuda, T>) -> Result<()> {
    let LoraLinear { mut x, gate_up, weight, parts, mut xa, mut out, accumulate } = op;
    let [_, inputs] = weight.shape();
    if let Some(gate_up) = gate_up {
        swiglu::swiglu(cuda, Swiglu { gate_up, out: x.reborrow().columns(0..inputs) })?;
    }
    let x = x.mat().columns(0..inputs);
    if let FrozenWeight::Quantized(weight) = weight {
        let gemm = Gemm::new("lora_linear", false, &x, &mut out, accumulate);
        let mut few = Fused { gemm, weight, parts, xa: xa.matrix(), norm: None, gated: None };
        // SAFETY: `LoraLinear::verify` checked every shape.
        if unsafe { few.run(cuda)? } {
            return Ok(());
        }
    }
    match weight {
        FrozenWeight::Quantized(weight) => linear4(cuda, Linear4 { x, weight, out: out.reborrow(), accumulate })?,
        FrozenWeight::Dense(weight) => {
            let (weight, settled) = (weight.mat(), weight.is_settled());
            linear(cuda, Linear { x, weight, out: out.reborrow(), accumulate, settled })?;
        }
    }
    adapters(cuda, x, parts, xa, out)
}

/// `d_x = d_out W`.
fn product_grad<T: Float>(
    cuda: &Cuda,
    d_out: Mat<'_, Cuda, T>,
    weight: FrozenWeight<'_, Cuda, T>,
    d_x: MatMut<'_, Cuda, T>,
) -> Result<()> {
    match weight {
        FrozenWeight::Quantized(weight) => linear4_grad(cuda, Linear4Grad { d_out, weight, d_x, accumulate: false }),
        FrozenWeight::Dense(weight) => {
            linear_grad(cuda, LinearGrad { d_out, weight: weight.mat(), d_x, accumulate: false })
        }
    }
}

pub(in crate::cuda) fn lora_linear_grad<T: Float>(cuda: &Cuda, op: LoraLinearGrad<'_, Cuda, T>) -> Result<()> {
    let LoraLinearGrad { input, xa, weight, parts, factors, mut d_out, mut d_xa, mut d_x } = op;
    let ([n, cols], [outputs, _]) = (d_out.shape(), weight.shape());
    let dropout = parts.iter().any(|part| part.dropout.is_some());
    let room = cols - outputs;
    let operands = Operands { x: d_out.matrix(), xa: d_xa.matrix(), room, xa_columns: xa.shape()[1] };
    let Some(x) = input.place(d_x.as_ref()) else { return Ok(()) };
    let own = d_out.mat().columns(0..outputs);
    let mut grads = LoraGrads::new(cuda, [x, xa, own], parts, factors, &mut d_xa)?;
    let gemm = d_x.as_mut().map(|d_x| Gemm::new("lora_linear_grad", true, &d_out.mat(), d_x, false));
    let stack = if dropout { Stack::alone(weight) } else { Stack::new(weight, parts, operands) };
    let whole = match (stack.filter(|_| n > SEPARATE_TOKENS), gemm) {
        (Some(stack), Some(gemm)) => stack.with_way(cuda, &gemm, DECODED_GRAD_TOKENS)?.map(|stack| (stack, gemm)),
        _ => None,
    };
    if let (None, Some(d_x)) = (&whole, &mut d_x) {
        product_grad(cuda, own, weight, d_x.reborrow())?;
    }
    if let (true, Some(d_x)) = (dropout || whole.is_none(), &mut d_x) {
        grads.add_to(parts, &d_xa.mat(), d_x);
    }
    let kept = matches!(input, LoraInput::Kept(_));
    // SAFETY: `LoraLinearGrad::verify` checked every shape, and `with_way` what is demanded beyond; an input that was not
    // kept is there once `through` has made it.
    unsafe {
        match (whole, grads.d_xa::<T>(cuda)?) {
            (Some((stack, gemm)), sums) => stack.backward(cuda, &gemm, sums)?,
            (None, Some(sums)) => sums.launch::<T>(cuda)?,
            (None, None) => {}
        }
        if kept {
            grads.factors::<T>(cuda)?;
        }
        match d_x {
            Some(d_x) if !kept => through(cuda, &grads, input, d_x),
            _ => grads.d_x::<T>(cuda),
        }
    }
}

/// What the adapters add to the input's gradient, the gradient of what made the input, which is made again in the place of its
/// gradient, and then those of A and B.
///
/// # Safety
/// As for [`LoraGrads::factors`]; `d_x`, which was verified, is where `grads` look for the input.
unsafe fn through<T: Float>(
    cuda: &Cuda,
    grads: &LoraGrads,
    input: LoraInput<'_, Cuda, T>,
    mut d_x: MatMut<'_, Cuda, T>,
) -> Result<()> {
    let (out, d_out) = (d_x.matrix(), d_x.mat());
    // SAFETY: `LoraLinearGrad::verify` checked every shape; the rest is this function's contract.
    unsafe {
        match input {
            LoraInput::Kept(_) => {}
            LoraInput::Swiglu { mut gate_up } => {
                let op = SwigluGrad { gate_up: gate_up.reborrow(), d_out };
                if grads.all_through::<T>(cuda, swiglu::grad_params(op, MatrixMut::NONE))? {
                    return Ok(());
                }
                grads.d_x::<T>(cuda)?;
                swiglu::swiglu_grad_and_out(cuda, SwigluGrad { gate_up, d_out }, out)?;
            }
            LoraInput::RmsNorm { x, weight, eps, d_x } => {
                grads.d_x::<T>(cuda)?;
                let op = RmsNormGrad { x, weight, eps, d_out, d_x, accumulate: true };
                rms_norm::rms_norm_grad_and_out(cuda, op, out)?;
            }
        }
        grads.factors::<T>(cuda)
    }
}
