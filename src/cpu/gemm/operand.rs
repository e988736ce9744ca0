//! The two sides of a product, and how they are packed for the micro-kernel.

use super::source::Source;
use crate::cpu::simd::pack;
use std::ops::Range;

/// Elements of a row that are read at once.
const PIECE: usize = 256;

/// One side of a product.
pub(in crate::cpu) trait Operand: Sync {
    /// Rows and depth.
    fn shape(&self) -> [usize; 2];
    /// Writes element `(first + r, k)` to `out[(k - ks.start) * width + r]` for `r < width`; zeros beyond the last row.
    fn pack(&self, first: usize, ks: Range<usize>, width: usize, out: &mut [f32]);
}

/// A matrix whose rows are the operand's rows.
pub(in crate::cpu) struct ByRow<S>(pub(in crate::cpu) S);

impl<S: Source> Operand for ByRow<S> {
    fn shape(&self) -> [usize; 2] {
        self.0.shape()
    }

    fn pack(&self, first: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        let mut pieces = [0.0; pack::ROWS * PIECE];
        let last = self.0.shape()[0];
        for start in ks.clone().step_by(PIECE) {
            let depth = PIECE.min(ks.end - start);
            let out = &mut out[(start - ks.start) * width..][..depth * width];
            for group in (0..width).step_by(pack::ROWS) {
                for (r, piece) in pieces.chunks_exact_mut(PIECE).enumerate() {
                    let (row, piece) = (first + group + r, &mut piece[..depth]);
                    if row < last {
                        self.0.read(row, start..start + depth, piece);
                    } else {
                        piece.fill(0.0);
                    }
                }
                pack::interleave(&pieces, depth, group, width, out);
            }
        }
    }
}

/// A matrix whose columns are the operand's rows.
pub(in crate::cpu) struct ByColumn<S>(pub(in crate::cpu) S);

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
