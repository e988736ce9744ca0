use super::{
    blocked::{self, tile_of_weight},
    epilogue::store,
    forward, gemv,
    operand::{ByColumn, ByRow, Operand},
    source::{Dense, Source},
};
use crate::{
    buffer::MatMut,
    cpu::device::Cpu,
    element::Float,
    ops::{Linear, LinearGrad},
};

pub(in crate::cpu) fn linear<T: Float, O: Float>(op: Linear<'_, Cpu, T, O>) {
    let Linear { x, weight, out, accumulate, .. } = op;
    product(Dense::new(x), Dense::new(weight), out, accumulate);
}

pub(in crate::cpu) fn linear_grad<T: Float>(op: LinearGrad<'_, Cpu, T>) {
    let LinearGrad { d_out, weight, d_x, accumulate } = op;
    backward(Dense::new(d_out), Dense::new(weight), d_x, accumulate);
}

/// `out (+)= x · weightᵀ`.
pub(super) fn product<O: Float>(x: impl Source, weight: impl Source, out: MatMut<'_, Cpu, O>, accumulate: bool) {
    if gemv::suits(out.rows) {
        gemv::multiply(
            &x,
            &weight,
            out,
            #[inline(always)]
            |sums, out| store(accumulate, 1.0, sums, out),
        );
    } else {
        forward::multiply(
            &ByRow(x),
            &weight,
            out,
            #[inline(always)]
            |sums, out| store(accumulate, 1.0, sums, out),
        );
    }
}

/// `d_x (+)= d_out · weight`.
pub(super) fn backward<T: Float>(d_out: impl Source, weight: impl Source, d_x: MatMut<'_, Cpu, T>, accumulate: bool) {
    let (d_out, weight) = (ByRow(d_out), ByColumn(weight));
    blocked::multiply_by(
        tile_of_weight(&d_out, weight.exact()),
        &d_out,
        &weight,
        d_x,
        #[inline(always)]
        |_, _, sums, out| store(accumulate, 1.0, sums, out),
    );
}
