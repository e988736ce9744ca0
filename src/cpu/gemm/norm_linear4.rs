use super::{linear4::linear4, lora_linear::adapters};
use crate::{
    cpu::{device::Cpu, rms_norm::rms_norm, swiglu::swiglu},
    element::Float,
    ops::{Linear4, NormLinear4, RmsNorm, Swiglu},
};

pub(in crate::cpu) fn norm_linear4<T: Float>(op: NormLinear4<'_, Cpu, T>) {
    let NormLinear4 { x, norm, eps, mut normed, weight, parts, xa, mut out, gated } = op;
    rms_norm(RmsNorm { x, add: None, weight: norm, eps, out: normed.reborrow() });
    linear4(Linear4 { x: normed.mat(), weight, out: out.reborrow(), accumulate: false });
    adapters(normed.mat(), parts, xa, out.reborrow());
    if let Some(gated) = gated {
        swiglu(Swiglu { gate_up: out.mat(), out: gated });
    }
}
