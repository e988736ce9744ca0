//! Products with few rows, as in decoding: each row of the weight is read once and used where it is.

use super::{math, par, simd, source::Source};
use crate::{Cpu, Float, MatMut};
use rayon::prelude::*;

/// The most rows of `x` that go this way.
pub(super) const MAX_ROWS: usize = 4;

/// Columns that are read at once.
const PIECE: usize = 1024;

/// Rows of `x`, in f32 and in bf16.
pub(super) struct Inputs {
    /// `[n, cols]`.
    pub(super) wide: Vec<f32>,
    /// `[n, cols]`, the upper halves of `wide`.
    pub(super) halves: Vec<u16>,
    /// Is nothing lost in `halves`?
    pub(super) exact: bool,
    /// Elements of a row.
    pub(super) cols: usize,
}

impl Inputs {
    fn new(x: &dyn Source) -> Self {
        let [n, cols] = x.shape();
        let mut wide = vec![0.0; n * cols];
        for (i, row) in wide.chunks_mut(cols.max(1)).enumerate() {
            x.read(i, 0..cols, row);
        }
        let halves = wide.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
        let exact = wide.iter().all(|x| x.to_bits() & 0xffff == 0);
        Inputs { wide, halves, exact, cols }
    }
}

/// `out[i] = x[i] · weight[row]`, piece by piece.
pub(super) fn dots<S: Source + ?Sized>(weight: &S, row: usize, x: &Inputs, out: &mut [f32]) {
    let mut piece = [0.0; PIECE];
    out.fill(0.0);
    for start in (0..x.cols).step_by(PIECE) {
        let cols = start..x.cols.min(start + PIECE);
        let piece = &mut piece[..cols.len()];
        weight.read(row, cols.clone(), piece);
        for (out, x) in out.iter_mut().zip(x.wide.chunks_exact(x.cols)) {
            *out += math::dot(&x[cols.clone()], piece);
        }
    }
}

/// Computes `x · weightᵀ` for an `x` of one to [`MAX_ROWS`] rows and hands each row of it to `finish(sums, out)`.
pub(super) fn multiply<O: Float>(
    x: &dyn Source,
    weight: &dyn Source,
    out: MatMut<'_, Cpu, O>,
    finish: impl Fn(&mut [f32], &mut [O]) + Sync,
) {
    let [n, cols] = out.shape();
    let inputs = Inputs::new(x);
    // `[cols, n]`.
    let mut sums = vec![0.0; cols * n];
    let rows = sums.par_chunks_mut(n).enumerate().with_min_len(par::grain(inputs.cols));
    rows.for_each(|(row, sums)| weight.dots(row, &inputs, sums));
    par::rows_mut(out).enumerate().for_each(|(i, out)| {
        let mut row: Vec<f32> = sums.iter().skip(i).step_by(n).copied().collect();
        simd::vectorize(
            #[inline(always)]
            || finish(&mut row, out),
        );
    });
}
