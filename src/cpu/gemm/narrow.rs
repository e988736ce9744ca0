//! Products `C = A · Bᵀ` where `B` has few rows or few columns, as the factors of adapters have.
//!
//! `B` is packed as a whole, and `A` is read as it lies, a few rows at a time: nothing else is written than `C`. A task has rows
//! of `C`. Sums run over `k` in order within pieces of `DEPTH`, and the pieces are added in order, so that no bit depends on
//! the number of threads or on how many rows there are.

use super::{
    blocked::{tile_for, with_packed},
    operand::{ByRow, Operand, read_words},
    source::Source,
};
use crate::{
    buffer::MatMut,
    cpu::{
        device::Cpu,
        par,
        simd::{tile::Tile, vectorize},
    },
    element::Float,
};
use rayon::prelude::*;
use std::ops::Range;

/// Elements of `k` that are summed in registers.
const DEPTH: usize = 256;
/// Columns of `C` that are computed before they are stored.
const COLS: usize = 512;

/// Computes `C = a · bᵀ` and hands each row of it to `finish(row, first column, sums, out)`, piece by piece.
pub(super) fn multiply<S: Source, O: Float>(
    a: S,
    b: &dyn Operand,
    out: MatMut<'_, Cpu, O>,
    finish: impl Fn(usize, usize, &mut [f32], &mut [O]) + Sync,
) {
    let ([_, n], [_, depth], stride) = (out.shape(), a.shape(), out.stride);
    let a = ByRow(a);
    let tile = tile_for(&a, b.exact());
    with_packed(b, 0..n, tile.cols, tile.form, |packed| {
        let product = Product { tile, a: &a.0, packed, depth };
        let groups = out.view.into_slice().par_chunks_mut((tile.rows * stride).max(1)).enumerate();
        par::each(groups.with_min_len(par::grain(n * tile.rows)), |(group, out)| {
            product.rows(group * tile.rows, n, stride, out, &finish);
        });
    });
}

struct Product<'a, S> {
    tile: &'static Tile,
    a: &'a S,
    /// `[panel, words of the depth, tile.cols]`
    packed: &'a [f32],
    depth: usize,
}

impl<S: Source> Product<'_, S> {
    /// A tile's rows of `C`, the first of which is `first`; `out` holds those that there are, of `n` columns.
    fn rows<O: Float>(
        &self,
        first: usize,
        n: usize,
        stride: usize,
        out: &mut [O],
        finish: &(impl Fn(usize, usize, &mut [f32], &mut [O]) + Sync),
    ) {
        let count = out.len().div_ceil(stride);
        let depth = self.depth;
        par::with_scratch(self.tile.rows * (depth + COLS), |scratch| {
            let (rows, lines) = scratch.split_at_mut(self.tile.rows * depth);
            rows[count * depth..].fill(0.0);
            for (i, row) in rows.chunks_exact_mut(depth.max(1)).take(count).enumerate() {
                read_words(self.a, first + i, 0..depth, self.tile.form, row);
            }
            for start in (0..n).step_by(COLS) {
                let cols = start..n.min(start + COLS);
                self.lines(rows, cols.clone(), lines);
                for (i, (line, out)) in lines.chunks_exact_mut(COLS).zip(out.chunks_mut(stride)).enumerate() {
                    vectorize(
                        #[inline(always)]
                        || finish(first + i, start, &mut line[..cols.len()], &mut out[cols.clone()]),
                    );
                }
            }
        });
    }

    /// Some columns of these rows, which begin every `depth` places: `[tile.rows, COLS]`.
    fn lines(&self, rows: &[f32], cols: Range<usize>, lines: &mut [f32]) {
        let Tile { form, cols: width, .. } = *self.tile;
        let panel = form.words(self.depth) * width;
        par::with_scratch(self.tile.len(), |sums| {
            for first in cols.clone().step_by(width) {
                sums.fill(0.0);
                for start in (0..self.depth).step_by(DEPTH) {
                    let k = form.words(DEPTH.min(self.depth - start));
                    let at = form.words(start);
                    let packed = &self.packed[first / width * panel + at * width..];
                    self.tile.run(k, &rows[at..], [self.depth, 1], packed, sums);
                }
                for (sums, line) in sums.chunks_exact(width).zip(lines.chunks_exact_mut(COLS)) {
                    let line = &mut line[first - cols.start..];
                    let count = width.min(line.len());
                    line[..count].copy_from_slice(&sums[..count]);
                }
            }
        });
    }
}
