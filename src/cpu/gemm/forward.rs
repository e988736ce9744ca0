//! Products `C = X · Wᵀ` of many rows, where both matrices lie row by row.
//!
//! `X` is packed once, in panels as wide as the micro-kernel, and `W` is decoded as it lies, a block of its rows at a
//! time: so nothing as large as `W` is transposed. A tile of the result is transposed instead, when it is whole. Sums run
//! over `k` in order within pieces of `DEPTH`, and the pieces are added in order, so that no bit depends on the number of
//! threads or on how many rows there are.

use super::{
    blocked::{tile_of_weight, with_packed},
    operand::{Operand, read_words},
    source::Source,
};
use crate::{
    buffer::MatMut,
    cpu::{
        device::Cpu,
        par, pool,
        simd::{pack, tile::Tile, vectorize},
    },
    element::Float,
};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of `X` that are packed at once.
const ROWS: usize = 256;
/// Columns of `C` that are computed at once.
const COLS: usize = 4096;
/// Columns of `C` in one task, at most.
const BLOCK: usize = 128;
/// Elements of `k` that are summed in registers.
const DEPTH: usize = 256;

/// Rows of `X`, packed, and how the result is cut.
struct Product<'a> {
    tile: &'static Tile,
    /// `[panel, words of the depth, tile.cols]`
    packed: &'a [f32],
    rows: usize,
    depth: usize,
    /// Columns of `C` in one task.
    block: usize,
}

/// Computes `C = x · weightᵀ` and hands pieces of each row of it to `finish(sums, out)`.
pub(super) fn multiply<O: Float>(
    x: &dyn Operand,
    weight: &dyn Source,
    mut out: MatMut<'_, Cpu, O>,
    finish: impl Fn(&mut [f32], &mut [O]) + Sync,
) {
    let ([m, n], [_, depth], tile) = (out.shape(), x.shape(), tile_of_weight(x, weight.exact()));
    let share = n.min(COLS) / (4 * pool::threads());
    // Whole tiles, and as many rows as are transposed at once.
    let unit = if pack::ROWS.is_multiple_of(tile.rows) { pack::ROWS } else { tile.rows * pack::ROWS / 2 };
    let block = share.next_multiple_of(unit).clamp(unit, BLOCK / unit * unit);
    for i in (0..m).step_by(ROWS) {
        let rows = ROWS.min(m - i);
        with_packed(x, i..i + rows, tile.cols, tile.form, |packed| {
            let product = Product { tile, packed, rows, depth, block };
            for j in (0..n).step_by(COLS) {
                let cols = j..n.min(j + COLS);
                product.run(weight, cols.clone(), out.reborrow().rows(i..i + rows).columns(cols), &finish);
            }
        });
    }
}

impl Product<'_> {
    /// The rows `cols` of the weight.
    fn run<O: Float>(
        &self,
        weight: &dyn Source,
        cols: Range<usize>,
        out: MatMut<'_, Cpu, O>,
        finish: &(impl Fn(&mut [f32], &mut [O]) + Sync),
    ) {
        let task_len = self.rows * self.block;
        // `[task, rows, block]`
        par::with_scratch(cols.len().div_ceil(self.block) * task_len, |sums| {
            par::each(sums.par_chunks_mut(task_len).enumerate(), |(task, sums)| {
                let first = cols.start + task * self.block;
                self.task(weight, first..cols.end.min(first + self.block), sums);
            });
            let sums = &*sums;
            par::each(par::rows_mut(out).enumerate().with_min_len(par::grain(cols.len())), |(row, out)| {
                let mut line = [0.0; BLOCK];
                for (task, out) in out.chunks_mut(self.block).enumerate() {
                    let line = &mut line[..out.len()];
                    line.copy_from_slice(&sums[task * task_len + row * self.block..][..out.len()]);
                    vectorize(
                        #[inline(always)]
                        || finish(line, out),
                    );
                }
            });
        });
    }

    /// The rows `cols` of the weight, at most a block: `[rows, block]`.
    fn task(&self, weight: &dyn Source, cols: Range<usize>, sums: &mut [f32]) {
        let Product { tile, rows, depth, block, .. } = *self;
        let (groups, panels) = (cols.len().div_ceil(tile.rows), rows.div_ceil(tile.cols));
        par::with_scratch(groups * tile.rows * DEPTH + groups * panels * tile.len(), |scratch| {
            let (decoded, tiles) = scratch.split_at_mut(groups * tile.rows * DEPTH);
            decoded[cols.len() * DEPTH..].fill(0.0);
            tiles.fill(0.0);
            for start in (0..depth).step_by(DEPTH) {
                let ks = start..depth.min(start + DEPTH);
                for (row, decoded) in cols.clone().zip(decoded.chunks_exact_mut(DEPTH)) {
                    read_words(weight, row, ks.clone(), tile.form.of_weight(), decoded);
                }
                for (panel, tiles) in tiles.chunks_exact_mut(groups * tile.len()).enumerate() {
                    let x = &self.packed[(panel * tile.form.words(depth) + tile.form.words(start)) * tile.cols..];
                    let groups = decoded.chunks_exact(tile.rows * DEPTH);
                    for (decoded, sums) in groups.zip(tiles.chunks_exact_mut(tile.len())) {
                        tile.run(tile.form.words(ks.len()), decoded, [DEPTH, 1], x, sums);
                    }
                }
            }
            for (panel, tiles) in tiles.chunks_exact(groups * tile.len()).enumerate() {
                let first = panel * tile.cols;
                let count = tile.cols.min(rows - first);
                // Its tiles lie as one matrix as wide as a tile.
                for (i, tiles) in tiles.chunks(pack::ROWS * tile.cols).enumerate() {
                    pack::interleave(tiles, tile.cols, count, i * pack::ROWS, block, &mut sums[first * block..]);
                }
            }
        });
    }
}
