//! Products with few rows, as in decoding: each row of the weight is read once and used where it is.

use super::source::Source;
use crate::{
    buffer::MatMut,
    cpu::{
        device::Cpu,
        par,
        simd::{
            gemv::{Inputs, MAX_ROWS},
            vectorize,
        },
    },
    element::Float,
};
use rayon::prelude::*;

/// Does a product with `rows` rows go this way?
pub(super) fn suits(rows: usize) -> bool {
    (1..=MAX_ROWS).contains(&rows)
}

/// Rows of the weight that are computed before they are stored.
const CHUNK: usize = 32;

/// Computes `x · weightᵀ` for an `x` whose rows it [`suits`] and hands pieces of each row of it to `finish(sums, out)`.
pub(super) fn multiply<O: Float>(
    x: &dyn Source,
    weight: &impl Source,
    out: MatMut<'_, Cpu, O>,
    finish: impl Fn(&mut [f32], &mut [O]) + Sync,
) {
    let ([n, cols], [rows, outputs]) = (x.shape(), out.shape());
    let inputs = Inputs::new(n, cols, |i, out| x.read(i, 0..cols, out), |exact| weight.order(exact));
    let grain = par::grain(cols).div_ceil(CHUNK);
    let dots = |chunk: usize, sums: &mut [f32]| {
        let first = chunk * CHUNK;
        weight.dots(first..first + sums.len() / n, &inputs, sums);
    };
    if rows == 1 {
        let out = out.view.into_slice();
        return par::each(out.par_chunks_mut(CHUNK).enumerate().with_min_len(grain), |(i, out)| {
            let sums = &mut [0.0; CHUNK][..out.len()];
            dots(i, sums);
            vectorize(
                #[inline(always)]
                || finish(sums, out),
            );
        });
    }
    // `[outputs, n]`.
    par::with_scratch(outputs * n, |sums| {
        par::each(sums.par_chunks_mut(CHUNK * n).enumerate().with_min_len(grain), |(i, sums)| dots(i, sums));
        let sums = &*sums;
        par::each(par::rows_mut(out).enumerate(), |(i, out)| {
            par::with_scratch(outputs, |row| {
                row.iter_mut().zip(sums[i..].iter().step_by(n)).for_each(|(row, sum)| *row = *sum);
                vectorize(
                    #[inline(always)]
                    || finish(row, out),
                );
            });
        });
    });
}
