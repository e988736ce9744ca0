//! The two sides of a product, and how they are packed for the micro-kernel.

use super::source::Source;
use crate::cpu::{
    par,
    simd::{
        convert,
        fixed::{self, Limit},
        pack,
        tile::Form,
        vectorize,
    },
};
use std::ops::Range;

/// Elements of a row that are read at once.
const PIECE: usize = 256;

/// One side of a product.
pub(in crate::cpu) trait Operand: Sync {
    /// Rows and depth.
    fn shape(&self) -> [usize; 2];
    /// Whether all elements are exact in bf16.
    fn exact(&self) -> bool;
    /// Writes panels of `width` rows, the first of which is `first`: element `(first + r, k)` to `out[(k - ks.start) *
    /// width + r]` for `r < width`, or in words of several `k`; zeros beyond the last row. There are as many panels as `out`
    /// has room for; `ks` begins where a word or block does.
    fn pack(&self, first: usize, ks: Range<usize>, width: usize, form: Form, out: &mut [f32]);
}

/// A matrix whose rows are the operand's rows.
pub(in crate::cpu) struct ByRow<S>(pub(in crate::cpu) S);

impl<S: Source> Operand for ByRow<S> {
    fn shape(&self) -> [usize; 2] {
        self.0.shape()
    }

    fn exact(&self) -> bool {
        self.0.exact()
    }

    fn pack(&self, first: usize, ks: Range<usize>, width: usize, form: Form, out: &mut [f32]) {
        for (i, out) in out.chunks_mut((form.words(ks.len()) * width).max(1)).enumerate() {
            self.panel(first + i * width, ks.clone(), width, form, out);
        }
    }
}

impl<S: Source> ByRow<S> {
    fn panel(&self, first: usize, ks: Range<usize>, width: usize, form: Form, out: &mut [f32]) {
        let mut pieces = [0.0; pack::ROWS * PIECE];
        let last = self.0.shape()[0];
        for start in ks.clone().step_by(PIECE) {
            let depth = PIECE.min(ks.end - start);
            let words = form.words(depth);
            let out = &mut out[form.words(start - ks.start) * width..][..words * width];
            for group in (0..width).step_by(pack::ROWS) {
                for (r, piece) in pieces.chunks_exact_mut(PIECE).enumerate() {
                    let row = first + group + r;
                    if row < last {
                        read_words(&self.0, row, start..start + depth, form, piece);
                    } else {
                        piece[..words].fill(0.0);
                    }
                }
                pack::interleave(&pieces, PIECE, words, group, width, out);
            }
        }
    }
}

/// Some columns of one row in that form; `out` has room for the columns and for their words.
pub(super) fn read_words<S: Source + ?Sized>(source: &S, row: usize, cols: Range<usize>, form: Form, out: &mut [f32]) {
    let len = cols.len();
    match form {
        Form::Fixed(limit) => {
            if !source.read_fixed(row, cols.clone(), limit, out) {
                source.read(row, cols, &mut out[..len]);
                fixed::row(limit, out, len);
            }
        }
        Form::Plain => source.read(row, cols, &mut out[..len]),
        Form::Pairs => {
            source.read(row, cols, &mut out[..len]);
            vectorize(
                #[inline(always)]
                || convert::pair(&mut out[..len]),
            );
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

    fn exact(&self) -> bool {
        self.0.exact()
    }

    fn pack(&self, first: usize, ks: Range<usize>, width: usize, form: Form, out: &mut [f32]) {
        let panel = form.words(ks.len()) * width;
        let at_once = (PIECE / width).max(1);
        for (i, out) in out.chunks_mut((panel * at_once).max(1)).enumerate() {
            let first = first + i * at_once * width;
            match form {
                Form::Fixed(limit) => self.fixed_panels(first, ks.clone(), width, limit, out),
                _ => self.panels(first, ks.clone(), width, form, out),
            }
        }
    }
}

impl<S: Source> ByColumn<S> {
    /// At most `PIECE` rows of the operand in fixed point.
    fn fixed_panels(&self, first: usize, ks: Range<usize>, width: usize, limit: Limit, out: &mut [f32]) {
        let panel = Form::Fixed(limit).words(ks.len()) * width;
        let columns = out.len() / panel * width;
        let count = columns.min(self.0.shape()[1] - first);
        par::with_scratch(fixed::BLOCK * columns, |block| {
            for (i, start) in ks.clone().step_by(fixed::BLOCK).enumerate() {
                let (rows, beyond) = block.split_at_mut(fixed::BLOCK.min(ks.end - start) * columns);
                beyond.fill(0.0);
                for (k, row) in (start..).zip(rows.chunks_exact_mut(columns)) {
                    let (row, beyond) = row.split_at_mut(count);
                    self.0.read(k, first..first + count, row);
                    beyond.fill(0.0);
                }
                fixed::columns(limit, block, width, panel, &mut out[i * fixed::WORDS * width..]);
            }
        });
    }

    /// At most `PIECE` rows of the operand.
    fn panels(&self, first: usize, ks: Range<usize>, width: usize, form: Form, out: &mut [f32]) {
        let panel = form.words(ks.len()) * width;
        let columns = out.len() / panel * width;
        let count = columns.min(self.0.shape()[1] - first);
        let [mut even, mut odd] = [[0.0; PIECE]; 2];
        let step = if form == Form::Pairs { 2 } else { 1 };
        for (word, k) in ks.clone().step_by(step).enumerate() {
            self.0.read(k, first..first + count, &mut even[..count]);
            if form == Form::Pairs {
                if k + 1 < ks.end {
                    self.0.read(k + 1, first..first + count, &mut odd[..count]);
                } else {
                    odd.fill(0.0);
                }
                vectorize(
                    #[inline(always)]
                    || even.iter_mut().zip(&odd).for_each(|(even, odd)| *even = convert::word(*even, *odd)),
                );
            }
            for (out, row) in out.chunks_exact_mut(panel).zip(even.chunks_exact(width)) {
                out[word * width..][..width].copy_from_slice(row);
            }
        }
    }
}
