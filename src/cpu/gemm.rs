//! Matrix products: `C = A · Bᵀ` with `A` of `[m, k]` and `B` of `[n, k]`, whatever way their elements are stored.
//!
//! Panels of `A` and `B` are packed (converted, decoded) to f32 in the order in which the micro-kernel reads them,
//! after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008). Of `A`, `ROWS` rows are
//! packed at a time; of `B`, pieces that fit the L2 cache. Sums run over `k` in order within pieces of `DEPTH`, and
//! the pieces are added in order, so that no bit depends on the number of threads or on `m` and `n`.

use super::{
    par, simd, simd_pack,
    simd_tile::{Tile, tile},
    source::Source,
};
use crate::{Cpu, Float, MatMut};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of `A` that are packed at once.
const ROWS: usize = 256;
/// Columns of `C` that are computed at once.
const COLS: usize = 4096;
/// Columns of `C` in one task.
const BLOCK: usize = 128;
/// Elements of `k` that are summed in registers.
const DEPTH: usize = 256;

/// One side of a product.
pub(super) trait Operand: Sync {
    /// Rows and depth.
    fn shape(&self) -> [usize; 2];
    /// Writes element `(first + r, k)` to `out[(k - ks.start) * width + r]` for `r < width`; zeros beyond the last row.
    fn pack(&self, first: usize, ks: Range<usize>, width: usize, out: &mut [f32]);
}

/// A matrix whose rows are the operand's rows.
pub(super) struct ByRow<S>(pub(super) S);

impl<S: Source> Operand for ByRow<S> {
    fn shape(&self) -> [usize; 2] {
        self.0.shape()
    }

    fn pack(&self, first: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        let mut pieces = [0.0; simd_pack::ROWS * DEPTH];
        let last = self.0.shape()[0];
        for start in ks.clone().step_by(DEPTH) {
            let depth = DEPTH.min(ks.end - start);
            let out = &mut out[(start - ks.start) * width..][..depth * width];
            for group in (0..width).step_by(simd_pack::ROWS) {
                for (r, piece) in pieces.chunks_exact_mut(DEPTH).enumerate() {
                    let (row, piece) = (first + group + r, &mut piece[..depth]);
                    if row < last {
                        self.0.read(row, start..start + depth, piece);
                    } else {
                        piece.fill(0.0);
                    }
                }
                simd_pack::interleave(&pieces, depth, group, width, out);
            }
        }
    }
}

/// A matrix whose columns are the operand's rows.
pub(super) struct ByColumn<S>(pub(super) S);

impl<S: Source> Operand for ByColumn<S> {
    fn shape(&self) -> [usize; 2] {
        let [depth, rows] = self.0.shape();
        [rows, depth]
    }

    fn pack(&self, first: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        let end = self.0.shape()[1].min(first + width);
        for (k, out) in ks.zip(out.chunks_mut(width)) {
            let (row, pad) = out.split_at_mut(end - first);
            self.0.read(k, first..end, row);
            pad.fill(0.0);
        }
    }
}

/// A block of the product, in tiles.
struct Block<'a> {
    tile: &'a Tile,
    /// Panels of `A` in the block, in one task, and panels of `B` in one task.
    panels: usize,
    part: usize,
    width: usize,
    /// `[tasks, part, width, tile]`: tasks run over the parts of the rows, then over the columns.
    sums: Vec<f32>,
}

impl<'a> Block<'a> {
    fn new(rows: usize, cols: usize) -> Self {
        let tile = tile();
        let panels = rows.div_ceil(tile.rows);
        let width = BLOCK / tile.cols;
        let blocks = cols.div_ceil(BLOCK);
        // Enough tasks for every thread, also where there are few columns.
        let parts = (4 * rayon::current_num_threads()).div_ceil(blocks).min(panels);
        let part = panels.div_ceil(parts);
        let sums = vec![0.0; blocks * panels.div_ceil(part) * part * width * tile.len()];
        Block { tile, panels, part, width, sums }
    }

    /// Elements of one task.
    fn task_len(&self) -> usize {
        self.part * self.width * self.tile.len()
    }

    /// Multiplies packed panels of `A` with the rows `cols` of `b`.
    fn fill(&mut self, a: &[f32], b: &dyn Operand, cols: Range<usize>) {
        let (tile, part, width) = (self.tile, self.part, self.width);
        let (parts, panels) = (self.panels.div_ceil(part), self.panels);
        let depth = b.shape()[1];
        let len = self.task_len();
        self.sums.par_chunks_mut(len).enumerate().for_each_init(
            || vec![0.0; DEPTH * BLOCK],
            |packed, (task, sums)| {
                let first = cols.start + task / parts * BLOCK;
                let panels = (task % parts) * part..panels.min((task % parts + 1) * part);
                let width_here = (cols.end - first).min(BLOCK).div_ceil(tile.cols);
                for start in (0..depth).step_by(DEPTH) {
                    let ks = start..depth.min(start + DEPTH);
                    let b_len = ks.len() * tile.cols;
                    for (j, packed) in packed.chunks_mut(b_len).take(width_here).enumerate() {
                        b.pack(first + j * tile.cols, ks.clone(), tile.cols, packed);
                    }
                    for (i, sums) in panels.clone().zip(sums.chunks_mut(width * tile.len())) {
                        let a = &a[(i * depth + start) * tile.rows..];
                        for (packed, sums) in packed.chunks(b_len).zip(sums.chunks_mut(tile.len())).take(width_here) {
                            tile.run(ks.len(), a, packed, sums);
                        }
                    }
                }
            },
        );
    }

    /// Where element `(row, col)` lies in `sums`.
    #[inline(always)]
    fn index(&self, row: usize, col: usize) -> usize {
        let tile = self.tile;
        let panel = row / tile.rows;
        let task = col / BLOCK * self.panels.div_ceil(self.part) + panel / self.part;
        let tiles = (panel % self.part) * self.width + col % BLOCK / tile.cols;
        task * self.task_len() + tiles * tile.len() + row % tile.rows * tile.cols + col % tile.cols
    }

    /// Copies a row to `out`.
    fn row(&self, row: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_mut(self.tile.cols).enumerate() {
            let at = self.index(row, i * self.tile.cols);
            out.copy_from_slice(&self.sums[at..at + out.len()]);
        }
    }

    /// Copies a column to `out`.
    fn column(&self, col: usize, out: &mut [f32]) {
        for (row, out) in out.iter_mut().enumerate() {
            *out = self.sums[self.index(row, col)];
        }
    }
}

/// Packs the rows `rows` of `a` at full depth, panel after panel.
fn pack_rows(a: &dyn Operand, rows: Range<usize>, tile: &Tile) -> Vec<f32> {
    let depth = a.shape()[1];
    let mut packed = vec![0.0; rows.len().div_ceil(tile.rows) * tile.rows * depth];
    if depth > 0 {
        packed.par_chunks_mut(tile.rows * depth).enumerate().for_each(|(i, out)| {
            a.pack(rows.start + i * tile.rows, 0..depth, tile.rows, out);
        });
    }
    packed
}

/// Computes `C = a · bᵀ` and hands each row of it to `finish(row, first column, sums, out)`, piece by piece.
pub(super) fn multiply<O: Float>(
    a: &dyn Operand,
    b: &dyn Operand,
    mut out: MatMut<'_, Cpu, O>,
    finish: impl Fn(usize, usize, &mut [f32], &mut [O]) + Sync,
) {
    let [m, n] = out.shape();
    for i in (0..m).step_by(ROWS) {
        let rows = i..m.min(i + ROWS);
        let packed = pack_rows(a, rows.clone(), tile());
        for j in (0..n).step_by(COLS) {
            let cols = j..n.min(j + COLS);
            let mut block = Block::new(rows.len(), cols.len());
            block.fill(&packed, b, cols.clone());
            let out = out.reborrow().rows(rows.clone()).columns(cols.clone());
            let out_rows = par::rows_mut(out).enumerate().with_min_len(par::grain(cols.len()));
            out_rows.for_each_init(
                || vec![0.0; cols.len()],
                |sums, (row, out)| {
                    block.row(row, sums);
                    simd::vectorize(
                        #[inline(always)]
                        || finish(i + row, j, sums, out),
                    );
                },
            );
        }
    }
}

/// Computes `C = a · bᵀ` for an `a` of few rows and hands each column of it to `finish(column, sums, out)`, where `out`
/// is a row of the transposed result.
pub(super) fn multiply_transposed<O: Float>(
    a: &dyn Operand,
    b: &dyn Operand,
    mut out: MatMut<'_, Cpu, O>,
    finish: impl Fn(usize, &mut [f32], &mut [O]) + Sync,
) {
    let [n, m] = out.shape();
    let packed = pack_rows(a, 0..m, tile());
    for j in (0..n).step_by(COLS) {
        let cols = j..n.min(j + COLS);
        if m == 0 {
            break;
        }
        let mut block = Block::new(m, cols.len());
        block.fill(&packed, b, cols.clone());
        let out_rows = par::rows_mut(out.reborrow().rows(cols)).enumerate().with_min_len(par::grain(m));
        out_rows.for_each_init(
            || vec![0.0; m],
            |sums, (col, out)| {
                block.column(col, sums);
                simd::vectorize(
                    #[inline(always)]
                    || finish(j + col, sums, out),
                );
            },
        );
    }
}

/// Stores a row of sums, or adds it to what is there.
#[inline(always)]
pub(super) fn store<O: Float>(accumulate: bool, scale: f32, sums: &mut [f32], out: &mut [O]) {
    for sum in sums.iter_mut() {
        *sum *= scale;
    }
    if accumulate {
        let mut before = [0.0; 64];
        for (sums, out) in sums.chunks_mut(64).zip(out.chunks(64)) {
            let before = &mut before[..out.len()];
            super::convert::widen(out, before);
            sums.iter_mut().zip(before).for_each(|(sum, before)| *sum += *before);
        }
    }
    super::convert::narrow(sums, out);
}
