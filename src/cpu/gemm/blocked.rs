//! Matrix products: `C = A · Bᵀ` with `A` of `[m, k]` and `B` of `[n, k]`, whatever way their elements are stored.
//!
//! Panels of `A` and `B` are packed (converted, decoded) to f32 in the order in which the micro-kernel reads them,
//! after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008). Of `A`, `ROWS` rows are
//! packed at a time; of `B`, pieces that fit the L2 cache. Sums run over `k` in order within pieces of `DEPTH`, and
//! the pieces are added in order, so that no bit depends on the number of threads or on `m` and `n`.

use super::operand::Operand;
use crate::{
    buffer::MatMut,
    cpu::{
        device::Cpu,
        par, pool,
        simd::{
            tile::{Form, Tile, tile, tile_of_integers, tile_of_pairs},
            vectorize,
        },
    },
    element::Float,
};
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

/// How a block of the product lies in memory: `[tasks, part, width, tile]`, where tasks run over the parts of the
/// rows, then over the columns.
struct Grid {
    tile: &'static Tile,
    /// Panels of `A`.
    panels: usize,
    /// Panels of `A` in one task.
    part: usize,
    /// Panels of `B` in one task.
    width: usize,
    tasks: usize,
}

impl Grid {
    fn new(tile: &'static Tile, rows: usize, cols: usize) -> Self {
        let panels = rows.div_ceil(tile.rows);
        let blocks = cols.div_ceil(BLOCK);
        // Enough tasks for every thread, also where there are few columns.
        let parts = (4 * pool::threads()).div_ceil(blocks).min(panels);
        let part = panels.div_ceil(parts);
        Grid { tile, panels, part, width: BLOCK / tile.cols, tasks: blocks * panels.div_ceil(part) }
    }

    /// Elements of one task.
    fn task_len(&self) -> usize {
        self.part * self.width * self.tile.len()
    }

    /// Elements of the block.
    fn len(&self) -> usize {
        self.tasks * self.task_len()
    }

    /// Multiplies packed panels of `A` with the rows `cols` of `b`.
    fn fill(&self, a: &[f32], b: &dyn Operand, cols: Range<usize>, sums: &mut [f32]) {
        let parts = self.panels.div_ceil(self.part);
        par::each(sums.par_chunks_mut(self.task_len()).enumerate(), |(task, sums)| {
            let first = cols.start + task / parts * BLOCK;
            let cols = first..cols.end.min(first + BLOCK);
            let part = task % parts * self.part;
            par::with_scratch(DEPTH * BLOCK, |packed| {
                sums.fill(0.0);
                self.run(a, part..self.panels.min(part + self.part), b, cols, packed, sums);
            });
        });
    }

    /// Multiplies some panels of `A` with at most `BLOCK` rows of `b`.
    fn run(
        &self,
        a: &[f32],
        panels: Range<usize>,
        b: &dyn Operand,
        cols: Range<usize>,
        packed: &mut [f32],
        sums: &mut [f32],
    ) {
        let (tile, depth) = (self.tile, b.shape()[1]);
        let width = cols.len().div_ceil(tile.cols);
        for start in (0..depth).step_by(DEPTH) {
            let ks = start..depth.min(start + DEPTH);
            let words = tile.form.words(ks.len());
            let b_len = words * tile.cols;
            b.pack(cols.start, ks.clone(), tile.cols, tile.form.of_weight(), &mut packed[..width * b_len]);
            for (i, sums) in panels.clone().zip(sums.chunks_mut(self.width * tile.len())) {
                let a = &a[(i * tile.form.words(depth) + tile.form.words(start)) * tile.rows..];
                for (packed, sums) in packed.chunks(b_len).zip(sums.chunks_mut(tile.len())).take(width) {
                    tile.run_packed(words, a, packed, sums);
                }
            }
        }
    }

    /// Where element `(row, col)` lies.
    #[inline(always)]
    fn index(&self, row: usize, col: usize) -> usize {
        let tile = self.tile;
        let panel = row / tile.rows;
        let task = col / BLOCK * self.panels.div_ceil(self.part) + panel / self.part;
        let tiles = (panel % self.part) * self.width + col % BLOCK / tile.cols;
        task * self.task_len() + tiles * tile.len() + row % tile.rows * tile.cols + col % tile.cols
    }

    /// Copies a row to `out`.
    fn row(&self, sums: &[f32], row: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_mut(self.tile.cols).enumerate() {
            let at = self.index(row, i * self.tile.cols);
            out.copy_from_slice(&sums[at..at + out.len()]);
        }
    }

    /// Copies a column to `out`.
    fn column(&self, sums: &[f32], col: usize, out: &mut [f32]) {
        let tile = self.tile;
        for (panel, out) in out.chunks_mut(tile.rows).enumerate() {
            let at = self.index(panel * tile.rows, col);
            out.iter_mut().zip(sums[at..].iter().step_by(tile.cols)).for_each(|(out, sum)| *out = *sum);
        }
    }
}

/// The micro-kernel for the product of two operands.
pub(super) fn tile_for(a: &dyn Operand, b_exact: bool) -> &'static Tile {
    tile_of_pairs().filter(|_| a.exact() && b_exact).unwrap_or_else(tile)
}

/// The micro-kernel for the product of an operand and a weight, each large enough that packing both is little beside it.
pub(super) fn tile_of_weight(x: &dyn Operand, weight_exact: bool) -> &'static Tile {
    tile_of_integers().filter(|_| x.exact() && weight_exact).unwrap_or_else(|| tile_for(x, weight_exact))
}

/// Packs the rows `rows` of `a` at full depth, panels of `width` one after the other, for `f`.
pub(super) fn with_packed<R>(
    a: &dyn Operand,
    rows: Range<usize>,
    width: usize,
    form: Form,
    f: impl FnOnce(&[f32]) -> R,
) -> R {
    let depth = a.shape()[1];
    let panel = form.words(depth) * width;
    par::with_scratch(rows.len().div_ceil(width) * panel, |packed| {
        if rows.len() > width {
            par::each(packed.par_chunks_mut(panel.max(1)).enumerate(), |(i, out)| {
                a.pack(rows.start + i * width, 0..depth, width, form, out);
            });
        } else {
            let pieces = packed.par_chunks_mut(form.words(DEPTH) * width).enumerate();
            par::each(pieces, |(i, out)| {
                let start = i * DEPTH;
                a.pack(rows.start, start..depth.min(start + DEPTH), width, form, out);
            });
        }
        f(packed)
    })
}

/// Computes `C = a · bᵀ` and hands each row of it to `finish(row, first column, sums, out)`, piece by piece.
pub(super) fn multiply<O: Float>(
    a: &dyn Operand,
    b: &dyn Operand,
    out: MatMut<'_, Cpu, O>,
    finish: impl Fn(usize, usize, &mut [f32], &mut [O]) + Sync,
) {
    multiply_by(tile_for(a, b.exact()), a, b, out, finish);
}

/// [`multiply`] by that micro-kernel.
pub(super) fn multiply_by<O: Float>(
    tile: &'static Tile,
    a: &dyn Operand,
    b: &dyn Operand,
    mut out: MatMut<'_, Cpu, O>,
    finish: impl Fn(usize, usize, &mut [f32], &mut [O]) + Sync,
) {
    let [m, n] = out.shape();
    for i in (0..m).step_by(ROWS) {
        let rows = i..m.min(i + ROWS);
        with_packed(a, rows.clone(), tile.rows, tile.form, |packed| {
            for j in (0..n).step_by(COLS) {
                let cols = j..n.min(j + COLS);
                let grid = Grid::new(tile, rows.len(), cols.len());
                let out = out.reborrow().rows(rows.clone()).columns(cols.clone());
                par::with_scratch(grid.len(), |sums| {
                    grid.fill(packed, b, cols.clone(), sums);
                    finish_rows(
                        out,
                        |row, line| grid.row(sums, row, line),
                        #[inline(always)]
                        |row, line, out| finish(i + row, j, line, out),
                    );
                });
            }
        });
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
    if m == 0 {
        return;
    }
    let tile = tile_for(a, b.exact());
    with_packed(a, 0..m, tile.rows, tile.form, |packed| {
        for j in (0..n).step_by(COLS) {
            let cols = j..n.min(j + COLS);
            let grid = Grid::new(tile, m, cols.len());
            let out = out.reborrow().rows(cols.clone());
            par::with_scratch(grid.len(), |sums| {
                grid.fill(packed, b, cols.clone(), sums);
                finish_rows(
                    out,
                    |col, line| grid.column(sums, col, line),
                    #[inline(always)]
                    |col, line, out| finish(j + col, line, out),
                );
            });
        }
    });
}

/// Reads the sums of each row of `out` and hands them to `finish`.
#[inline(always)]
fn finish_rows<O: Float>(
    out: MatMut<'_, Cpu, O>,
    read: impl Fn(usize, &mut [f32]) + Sync,
    finish: impl Fn(usize, &mut [f32], &mut [O]) + Sync,
) {
    let cols = out.cols;
    par::each_with(
        par::rows_mut(out).enumerate().with_min_len(par::grain(cols)),
        || vec![0.0; cols],
        |line, (row, out)| {
            read(row, line);
            vectorize(
                #[inline(always)]
                || finish(row, line, out),
            );
        },
    );
}
