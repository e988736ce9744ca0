use super::{
    linear::{backward, product},
    source::{Dense, Quantized},
};
use crate::{
    cpu::device::Cpu,
    element::Float,
    ops::{Linear4, Linear4Grad},
};

pub(in crate::cpu) fn linear4<T: Float, O: Float>(op: Linear4<'_, Cpu, T, O>) {
    let Linear4 { x, weight, out, accumulate } = op;
    product(Dense::new(x), Quantized::<T>::new(weight), out, accumulate);
}

pub(in crate::cpu) fn linear4_grad<T: Float>(op: Linear4Grad<'_, Cpu, T>) {
    let Linear4Grad { d_out, weight, d_x, accumulate } = op;
    backward(Dense::new(d_out), Quantized::<T>::new(weight), d_x, accumulate);
}
