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

/// The rows of `x`, as kernels read them.
fn inputs(x: &dyn Source) -> Inputs {
    let [n, cols] = x.shape();
    let mut wide = vec![0.0; n * cols];
    for (i, row) in wide.chunks_mut(cols.max(1)).enumerate() {
        x.read(i, 0..cols, row);
    }
    Inputs::new(wide, cols)
}

/// Computes `x · weightᵀ` for an `x` whose rows it [`suits`] and hands each row of it to `finish(sums, out)`.
pub(super) fn multiply<O: Float>(
    x: &dyn Source,
    weight: &dyn Source,
    out: MatMut<'_, Cpu, O>,
    finish: impl Fn(&mut [f32], &mut [O]) + Sync,
) {
    let [n, cols] = out.shape();
    let inputs = inputs(x);
    // `[cols, n]`.
    let mut sums = vec![0.0; cols * n];
    let rows = sums.par_chunks_mut(n).enumerate().with_min_len(par::grain(inputs.cols));
    rows.for_each(|(row, sums)| weight.dots(row, &inputs, sums));
    par::rows_mut(out).enumerate().for_each(|(i, out)| {
        let mut row: Vec<f32> = sums.iter().skip(i).step_by(n).copied().collect();
        vectorize(
            #[inline(always)]
            || finish(&mut row, out),
        );
    });
}
