use super::{
    linear4::{linear4, linear4_grad},
    lora::{lora, lora_grad},
};
use crate::{
    buffer::{Mat, MatMut},
    cpu::device::Cpu,
    element::Float,
    ops::{Linear4, Linear4Grad, LoraLinear4, LoraLinear4Grad, LoraPart},
};

pub(in crate::cpu) fn lora_linear4<T: Float>(op: LoraLinear4<'_, Cpu, T>) {
    let LoraLinear4 { x, weight, parts, xa, mut out, accumulate } = op;
    let x = x.mat().columns(0..weight.cols);
    linear4(Linear4 { x, weight, out: out.reborrow(), accumulate });
    adapters(x, parts, xa, out);
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

pub(in crate::cpu) fn lora_linear4_grad<T: Float>(op: LoraLinear4Grad<'_, Cpu, T>) {
    let LoraLinear4Grad { x, xa, weight, parts, factors, d_out, mut d_xa, mut d_x } = op;
    let d_out = d_out.mat().columns(0..weight.rows);
    if let Some(d_x) = &mut d_x {
        linear4_grad(Linear4Grad { d_out, weight, d_x: d_x.reborrow(), accumulate: false });
    }
    for (part, factors) in parts.iter().zip(factors) {
        lora_grad(part.lora_grad([x, xa, d_out], &mut d_xa, factors, d_x.as_mut().map(MatMut::reborrow)));
    }
}
