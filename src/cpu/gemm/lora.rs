use super::{
    blocked,
    epilogue::store,
    gemv, narrow,
    operand::{ByColumn, ByRow},
    source::{Dense, drop_elements},
};
use crate::{
    buffer::{Mat, MatMut},
    cpu::{device::Cpu, simd::convert},
    element::Float,
    ops::{Dropout, Lora, LoraGrad},
};

pub(in crate::cpu) fn lora<T: Float>(op: Lora<'_, Cpu, T>) {
    let Lora { x, a, b, scale, dropout, mut xa, out } = op;
    let rank = xa.cols;
    let (a, b) = (Dense::of(a, rank, x.cols), Dense::of(b, out.cols, rank));
    let x = Dense { mat: x, dropout };
    if gemv::suits(out.rows) {
        gemv::multiply(
            &x,
            &a,
            xa.reborrow(),
            #[inline(always)]
            |sums, out| convert::narrow(sums, out),
        );
        gemv::multiply(
            &Dense::new(xa.mat()),
            &b,
            out,
            #[inline(always)]
            |sums, out| store(true, scale, sums, out),
        );
    } else {
        narrow::multiply(
            x,
            &ByRow(a),
            xa.reborrow(),
            #[inline(always)]
            |_, _, sums, out| convert::narrow(sums, out),
        );
        narrow::multiply(
            Dense::new(xa.mat()),
            &ByRow(b),
            out,
            #[inline(always)]
            |_, _, sums, out| store(true, scale, sums, out),
        );
    }
}

pub(in crate::cpu) fn lora_grad<T: Float>(op: LoraGrad<'_, Cpu, T>) {
    let LoraGrad { x, a, b, scale, dropout, xa, d_out, mut d_xa, d_a, d_b, d_x } = op;
    let ([_, inputs], [_, outputs], rank) = (x.shape(), d_out.shape(), xa.cols);
    let (a, b) = (Dense::of(a, rank, inputs), Dense::of(b, outputs, rank));

    narrow::multiply(
        Dense::new(d_out),
        &ByColumn(b),
        d_xa.reborrow(),
        #[inline(always)]
        |_, _, sums, out| store(false, scale, sums, out),
    );
    let d_xa = d_xa.mat();

    let (xa, d_out) = (ByColumn(Dense::new(xa)), ByColumn(Dense::new(d_out)));
    let d_b = MatMut::new(d_b, outputs, rank);
    blocked::multiply_transposed(
        &xa,
        &d_out,
        d_b,
        #[inline(always)]
        |_, sums, out| store(true, scale, sums, out),
    );

    let (rows, x) = (ByColumn(Dense::new(d_xa)), ByColumn(Dense { mat: x, dropout }));
    let d_a = MatMut::new(d_a, rank, inputs);
    blocked::multiply(
        &rows,
        &x,
        d_a,
        #[inline(always)]
        |_, _, sums, out| store(true, 1.0, sums, out),
    );

    if let Some(d_x) = d_x {
        input_grad(d_xa, a, dropout, d_x);
    }
}

/// `d_x += drop(d_xa · A)`.
pub(super) fn input_grad<T: Float>(
    d_xa: Mat<'_, Cpu, T>,
    a: Dense<'_, T>,
    dropout: Option<Dropout>,
    d_x: MatMut<'_, Cpu, T>,
) {
    narrow::multiply(
        Dense::new(d_xa),
        &ByColumn(a),
        d_x,
        #[inline(always)]
        |row, first, sums, out| {
            if let Some(dropout) = &dropout {
                drop_elements(dropout, row, first, sums);
            }
            store(true, 1.0, sums, out);
        },
    );
}
