use super::{
    device::Cpu,
    math, par,
    simd::{convert, vectorize},
};
use crate::{
    element::Float,
    ops::{Swiglu, SwigluGrad},
};
use rayon::prelude::*;

pub(super) fn swiglu<T: Float>(op: Swiglu<'_, Cpu, T>) {
    let Swiglu { gate_up, out } = op;
    let f = out.cols;
    let rows = par::rows_mut(out).enumerate().with_min_len(par::grain(f));
    par::each_with(
        rows,
        || (vec![0.0; f], vec![0.0; f]),
        |(gate, up), (i, out)| {
            let row = gate_up.row(i);
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(&row[..f], gate);
                    convert::widen(&row[f..], up);
                    for (g, u) in gate.iter_mut().zip(up.iter()) {
                        *g = *g * math::sigmoid(*g) * u;
                    }
                    convert::narrow(gate, out);
                },
            );
        },
    );
}

pub(super) fn swiglu_grad<T: Float>(op: SwigluGrad<'_, Cpu, T>) {
    let SwigluGrad { gate_up, d_out } = op;
    let f = d_out.cols;
    let rows = par::rows_mut(gate_up).enumerate().with_min_len(par::grain(2 * f));
    par::each_with(
        rows,
        || [vec![0.0; f], vec![0.0; f], vec![0.0; f]],
        |[gate, up, d_out_row], (i, gate_up)| {
            let (gate_place, up_place) = gate_up.split_at_mut(f);
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(gate_place, gate);
                    convert::widen(up_place, up);
                    convert::widen(d_out.row(i), d_out_row);
                    for ((g, u), d) in gate.iter_mut().zip(up.iter_mut()).zip(d_out_row.iter()) {
                        let s = math::sigmoid(*g);
                        let d_gate = d * *u * s * (1.0 + *g * (1.0 - s));
                        *u = d * *g * s;
                        *g = d_gate;
                    }
                    convert::narrow(gate, gate_place);
                    convert::narrow(up, up_place);
                },
            );
        },
    );
}
