use super::{
    device::Cpu,
    math, par,
    simd::{convert, vectorize},
};
use crate::{
    element::Float,
    ops::{RmsNorm, RmsNormGrad},
};
use rayon::prelude::*;

pub(super) fn rms_norm<T: Float>(op: RmsNorm<'_, Cpu, T>) {
    let RmsNorm { x, add, weight, eps, out } = op;
    let d = x.cols;
    let weight = weight.slice();
    let rows = par::rows_mut(out).enumerate().with_min_len(par::grain(d));
    let scratch = || (vec![0.0; d], vec![0.0; d]);
    match add {
        None => par::each_with(rows, scratch, |(h, y), (i, out)| {
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(x.row(i), h);
                    normalise(h, weight, eps, y);
                    convert::narrow(y, out);
                },
            );
        }),
        Some((add, sum)) => par::each_with(rows.zip(par::rows_mut(sum)), scratch, |(h, y), ((i, out), sum)| {
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(x.row(i), h);
                    convert::widen(add.row(i), y);
                    h.iter_mut().zip(y.iter()).for_each(|(h, y)| *h += y);
                    convert::narrow(h, sum);
                    convert::round::<T>(h);
                    normalise(h, weight, eps, y);
                    convert::narrow(y, out);
                },
            );
        }),
    }
}

/// `out = h / sqrt(mean(h²) + eps) · weight`.
#[inline(always)]
fn normalise(h: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let r = inverse_rms(h, eps);
    for ((out, h), w) in out.iter_mut().zip(h).zip(weight) {
        *out = h * r * w;
    }
}

/// `1 / sqrt(mean(h²) + eps)`.
#[inline(always)]
pub(super) fn inverse_rms(h: &[f32], eps: f32) -> f32 {
    1.0 / (math::dot(h, h) / h.len() as f32 + eps).sqrt()
}

/// Turns `g`, the gradient of the scaled row, into that of its input `x`: `r · (g - x · r² · mean(g · x))`.
#[inline(always)]
pub(super) fn norm_grad(x: &[f32], eps: f32, g: &mut [f32]) {
    let r = inverse_rms(x, eps);
    let share = r * r * (math::dot(g, x) / x.len() as f32);
    for (g, x) in g.iter_mut().zip(x) {
        *g = r * (*g - x * share);
    }
}

pub(super) fn rms_norm_grad<T: Float>(op: RmsNormGrad<'_, Cpu, T>) {
    let RmsNormGrad { x, weight, eps, d_out, d_x, accumulate } = op;
    let d = x.cols;
    let scratch = || (vec![0.0; d], vec![0.0; d]);
    let rows = par::rows_mut(d_x).enumerate().with_min_len(par::grain(d));
    par::each_with(rows, scratch, |(h, g), (i, d_x)| {
        vectorize(
            #[inline(always)]
            || {
                convert::widen(x.row(i), h);
                convert::widen(d_out.row(i), g);
                g.iter_mut().zip(weight.slice()).for_each(|(g, w)| *g *= w);
                norm_grad(h, eps, g);
                if accumulate {
                    convert::widen(d_x, h);
                    g.iter_mut().zip(h.iter()).for_each(|(g, h)| *g += h);
                }
                convert::narrow(g, d_x);
            },
        );
    });
}
