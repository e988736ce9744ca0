use super::{
    linear::{linear, linear_grad},
    linear4::{linear4, linear4_grad},
    lora::{input_grad, lora, lora_grad},
    source::Dense,
};
use crate::{
    buffer::{Mat, MatMut},
    cpu::{
        device::Cpu,
        rms_norm::{rms_norm, rms_norm_grad},
        swiglu::{swiglu, swiglu_grad},
    },
    element::Float,
    frozen::FrozenWeight,
    ops::{
        Linear, Linear4, Linear4Grad, LinearGrad, LoraInput, LoraLinear, LoraLinearGrad, LoraPart, RmsNorm,
        RmsNormGrad, Swiglu, SwigluGrad,
    },
};

pub(in crate::cpu) fn lora_linear<T: Float>(op: LoraLinear<'_, Cpu, T>) {
    let LoraLinear { mut x, gate_up, weight, parts, xa, mut out, accumulate } = op;
    let [_, inputs] = weight.shape();
    if let Some(gate_up) = gate_up {
        swiglu(Swiglu { gate_up, out: x.reborrow().columns(0..inputs) });
    }
    let x = x.mat().columns(0..inputs);
    product(x, weight, out.reborrow(), accumulate);
    adapters(x, parts, xa, out);
}

/// `out (+)= x Wᵀ`.
fn product<T: Float>(x: Mat<'_, Cpu, T>, weight: FrozenWeight<'_, Cpu, T>, out: MatMut<'_, Cpu, T>, accumulate: bool) {
    match weight {
        FrozenWeight::Quantized(weight) => linear4(Linear4 { x, weight, out, accumulate }),
        FrozenWeight::Dense(weight) => {
            linear(Linear { x, weight: weight.mat(), out, accumulate, settled: false });
        }
    }
}

/// `d_x = d_out W`.
fn product_grad<T: Float>(d_out: Mat<'_, Cpu, T>, weight: FrozenWeight<'_, Cpu, T>, d_x: MatMut<'_, Cpu, T>) {
    match weight {
        FrozenWeight::Quantized(weight) => linear4_grad(Linear4Grad { d_out, weight, d_x, accumulate: false }),
        FrozenWeight::Dense(weight) => {
            linear_grad(LinearGrad { d_out, weight: weight.mat(), d_x, accumulate: false });
        }
    }
}

/// Adds what adapters make of `x` to `out`.
pub(super) fn adapters<T: Float>(
    x: Mat<'_, Cpu, T>,
    parts: &[LoraPart<'_, Cpu, T>],
    mut xa: MatMut<'_, Cpu, T>,
    mut out: MatMut<'_, Cpu, T>,
) {
    parts.iter().for_each(|part| lora(part.lora(x, &mut xa, &mut out)));
}

pub(in crate::cpu) fn lora_linear_grad<T: Float>(op: LoraLinearGrad<'_, Cpu, T>) {
    let LoraLinearGrad { input, xa, weight, parts, factors, d_out, mut d_xa, mut d_x } = op;
    let [outputs, inputs] = weight.shape();
    let d_out = d_out.mat().columns(0..outputs);
    if let Some(d_x) = &mut d_x {
        make_again(&input, d_x.reborrow());
    }
    let Some(x) = input.place(d_x.as_ref()) else { return };
    for (part, factors) in parts.iter().zip(factors) {
        lora_grad(part.lora_grad([x, xa, d_out], &mut d_xa, factors, None));
    }
    let Some(mut d_x) = d_x else { return };
    product_grad(d_out, weight, d_x.reborrow());
    for part in parts {
        let (d_xa, a) = (d_xa.mat().columns(part.xa.clone()), Dense::of(part.a, part.xa.len(), inputs));
        input_grad(d_xa, a, part.dropout, d_x.reborrow());
    }
    through(input, d_x.mat());
}

/// An input that was not kept, to `out`.
fn make_again<T: Float>(input: &LoraInput<'_, Cpu, T>, out: MatMut<'_, Cpu, T>) {
    match input {
        LoraInput::Kept(_) => {}
        LoraInput::Swiglu { gate_up } => swiglu(Swiglu { gate_up: gate_up.mat(), out }),
        LoraInput::RmsNorm { x, weight, eps, .. } => {
            rms_norm(RmsNorm { x: *x, add: None, weight: *weight, eps: *eps, out });
        }
    }
}

/// The gradient of what made the input.
fn through<T: Float>(input: LoraInput<'_, Cpu, T>, d_out: Mat<'_, Cpu, T>) {
    match input {
        LoraInput::Kept(_) => {}
        LoraInput::Swiglu { gate_up } => swiglu_grad(SwigluGrad { gate_up, d_out }),
        LoraInput::RmsNorm { x, weight, eps, d_x } => {
            rms_norm_grad(RmsNormGrad { x, weight, eps, d_out, d_x, accumulate: true });
        }
    }
}
