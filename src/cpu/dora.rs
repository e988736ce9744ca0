use super::{
    device::Cpu,
    math, par,
    simd::{convert, vectorize},
};
use crate::{
    buffer::{MatMut, View},
    element::Float,
    ops::{Dora, DoraGrad, DoraNorms, Dropped, RowSquares, factor},
};
use rayon::prelude::*;

pub(super) fn row_squares<T: Float>(op: RowSquares<'_, Cpu, T>) {
    let RowSquares { x, out } = op;
    let (d, rows) = (x.cols, out.into_slice().par_iter_mut().enumerate());
    par::each_with(
        rows.with_min_len(par::grain(d)),
        || vec![0.0; d],
        |wide, (i, out)| {
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(x.row(i), wide);
                    *out = math::dot(wide, wide);
                },
            );
        },
    );
}

pub(super) fn dora_norms<T: Float>(op: DoraNorms<'_, Cpu, T>) {
    let DoraNorms { squares, products, gram, b, scale, norms } = op;
    let (r, squares, gram, b) = (products.rows, squares.slice(), gram.slice(), b.slice());
    par::each_with(
        norms.into_slice().par_iter_mut().enumerate().with_min_len(par::grain(r * r)),
        || vec![0.0; r],
        |wide, (o, norm)| {
            convert::widen(&b[o * r..][..r], wide);
            let term = |j: usize| {
                let with_b = math::dot(&gram[j * r..][..r], wide);
                wide[j] * (2.0 * products.row(j)[o] + scale * with_b)
            };
            *norm = (squares[o] + scale * (0..r).map(term).sum::<f32>()).max(0.0).sqrt();
        },
    );
}

/// What each output is multiplied by.
fn factors(magnitude: View<'_, Cpu, f32>, norms: View<'_, Cpu, f32>, out: &mut [f32]) {
    let pairs = magnitude.slice().iter().zip(norms.slice());
    out.iter_mut().zip(pairs).for_each(|(out, (&magnitude, &norm))| *out = factor(magnitude, norm));
}

/// `x *= factors`, row by row.
fn scale<T: Float>(x: MatMut<'_, Cpu, T>, factors: &[f32]) {
    let cols = x.cols;
    par::each_with(
        par::rows_mut(x).with_min_len(par::grain(cols)),
        || vec![0.0; cols],
        |wide, x| {
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(x, wide);
                    wide.iter_mut().zip(factors).for_each(|(v, factor)| *v *= factor);
                    convert::narrow(wide, x);
                },
            );
        },
    );
}

pub(super) fn dora<T: Float>(op: Dora<'_, Cpu, T>) {
    let Dora { z, magnitude, norms, sum } = op;
    let cols = z.cols;
    par::with_scratch(cols, |scales| {
        factors(magnitude, norms, scales);
        let scales = &*scales;
        let Some(sum) = sum else { return scale(z, scales) };
        let z = z.mat();
        par::each_with(
            par::rows_mut(sum).enumerate().with_min_len(par::grain(cols)),
            || (vec![0.0; cols], vec![0.0; cols]),
            |(wide, total), (i, sum)| {
                vectorize(
                    #[inline(always)]
                    || {
                        convert::widen(z.row(i), wide);
                        convert::widen(sum, total);
                        for ((total, z), factor) in total.iter_mut().zip(wide.iter()).zip(scales) {
                            *total += z * factor;
                        }
                        convert::narrow(total, sum);
                    },
                );
            },
        );
    });
}

pub(super) fn dropped<T: Float>(op: Dropped<'_, Cpu, T>) {
    let factors = op.factors();
    let Dropped { x, dropout, out, accumulate, .. } = op;
    let cols = x.cols;
    par::each_with(
        par::rows_mut(out).enumerate().with_min_len(par::grain(cols)),
        || (vec![0.0; cols], vec![0.0; cols]),
        |(wide, total), (row, out)| {
            convert::widen(x.row(row), wide);
            if accumulate {
                convert::widen(out, total);
            } else {
                total.fill(0.0);
            }
            for (oct, (total, x)) in total.chunks_mut(8).zip(wide.chunks(8)).enumerate() {
                let kept = dropout.keep(row as u32, oct as u32);
                for ((total, x), kept) in total.iter_mut().zip(x).zip(kept) {
                    *total += x * factors[usize::from(kept)];
                }
            }
            convert::narrow(total, out);
        },
    );
}

/// Columns that one task adds up.
const COLUMNS: usize = 64;

pub(super) fn dora_grad<T: Float>(op: DoraGrad<'_, Cpu, T>) {
    let DoraGrad { z, magnitude, norms, d_out, d_magnitude } = op;
    let (before, norms_of) = (d_out.mat(), norms.slice());
    par::each(d_magnitude.into_slice().par_chunks_mut(COLUMNS).enumerate(), |(i, out)| {
        let columns = i * COLUMNS..i * COLUMNS + out.len();
        let (mut sums, mut a, mut b) = ([0.0; COLUMNS], [0.0; COLUMNS], [0.0; COLUMNS]);
        for row in 0..z.rows {
            convert::widen(&z.row(row)[columns.clone()], &mut a[..out.len()]);
            convert::widen(&before.row(row)[columns.clone()], &mut b[..out.len()]);
            sums.iter_mut().zip(a.iter().zip(&b)).for_each(|(sum, (a, b))| *sum += a * b);
        }
        for ((out, sum), &norm) in out.iter_mut().zip(sums).zip(&norms_of[columns]) {
            *out += factor(sum, norm);
        }
    });
    par::with_scratch(z.cols, |scales| {
        factors(magnitude, norms, scales);
        scale(d_out, scales);
    });
}
