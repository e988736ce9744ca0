//! What attention and its gradient share: sequences cut into panels and blocks, packed for the micro-kernel.
//!
//! Scores are computed transposed, `[keys, queries]`, a panel of queries as wide as the micro-kernel: the tiles of
//! successive keys then are, without a copy, the packed operand of the next product, and softmax works lane by lane.

use super::{
    device::Cpu,
    gemm::{
        operand::{ByColumn, ByRow, Operand},
        source::Dense,
    },
    par,
    simd::{
        convert,
        tile::{Form, Tile, tile},
    },
};
use crate::{
    buffer::{Mat, MatMut},
    element::{Element, Float},
};
use rayon::prelude::*;
use std::ops::Range;

/// Panels of tile rows in a block, at most.
const PANELS: usize = 16;

/// A piece of a sequence.
#[derive(Clone)]
pub(super) struct Piece {
    /// The number of the sequence.
    pub(super) index: usize,
    /// The rows of the whole sequence.
    pub(super) sequence: Range<usize>,
    /// The rows of the piece.
    pub(super) rows: Range<usize>,
    /// The number of the sequence's first block among all blocks.
    pub(super) first_block: usize,
    /// Rows of a block.
    pub(super) block_len: usize,
}

/// Sequences, cut.
pub(super) struct Cut {
    /// Pieces as wide as the micro-kernel: what one task computes.
    pub(super) panels: Vec<Piece>,
    /// Pieces of `block_len` rows: what is multiplied at once.
    pub(super) blocks: Vec<Piece>,
    /// A multiple of the micro-kernel's height.
    pub(super) block_len: usize,
}

impl Cut {
    /// Cuts the sequences of `n` rows, the longest of which has `max_len`.
    pub(super) fn new(cu_seqlens: &[u32], n: usize, max_len: usize) -> Self {
        let row = |row: u32| (row as usize).min(n);
        let sequences: Vec<_> = cu_seqlens.windows(2).map(|ends| row(ends[0])..row(ends[1])).collect();
        Self::of(&sequences, max_len)
    }

    /// Cuts sequences, the longest of which has `max_len` rows.
    pub(super) fn of(sequences: &[Range<usize>], max_len: usize) -> Self {
        let tile = tile();
        let block_len = max_len.div_ceil(tile.rows).clamp(1, PANELS) * tile.rows;
        let pieces = |len| pieces(sequences, len, block_len);
        Cut { panels: pieces(tile.cols), blocks: pieces(block_len), block_len }
    }

    /// The number and the piece of each block of sequence `index`.
    pub(super) fn blocks_of(&self, index: usize) -> impl Iterator<Item = (usize, &Piece)> {
        let first = self.blocks.partition_point(|piece| piece.index < index);
        self.blocks.iter().enumerate().skip(first).take_while(move |(_, piece)| piece.index == index)
    }
}

/// Cuts sequences into pieces of at most `len` rows.
fn pieces(sequences: &[Range<usize>], len: usize, block_len: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut first_block = 0;
    for (index, sequence) in sequences.iter().enumerate() {
        let end = sequence.end;
        let cut =
            |row| Piece { index, sequence: sequence.clone(), rows: row..end.min(row + len), first_block, block_len };
        pieces.extend(sequence.clone().step_by(len).map(cut));
        first_block += sequence.len().div_ceil(block_len);
    }
    pieces
}

/// The rows of each piece, to write. Pieces must follow each other.
pub(super) fn split_rows<'a, T: Element>(out: MatMut<'a, Cpu, T>, pieces: &[Piece]) -> Vec<&'a mut [T]> {
    let (mut rest, mut row) = (out.view.into_slice(), 0);
    let mut parts = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let skip = piece.rows.start.saturating_sub(row) * out.stride;
        let take = (piece.rows.len() * out.stride).min(rest.len() - skip);
        let (part, after) = rest.split_at_mut(skip).1.split_at_mut(take);
        parts.push(part);
        (rest, row) = (after, piece.rows.end);
    }
    parts
}

/// One head's columns, block by block in the order that the micro-kernel reads its left operand.
pub(super) struct Blocks {
    data: Vec<f32>,
    len: usize,
    panel: usize,
}

impl Blocks {
    /// Panels of rows: `[block, block_len / tile.rows, dim, tile.rows]`.
    pub(super) fn by_row<T: Float>(mat: Mat<'_, Cpu, T>, cut: &Cut) -> Self {
        let (tile, dim) = (tile(), mat.cols);
        Self::pack(&cut.blocks, cut.block_len / tile.rows, dim * tile.rows, |piece, panel, out| {
            let rows = ByRow(Dense::new(mat.rows(0..piece.sequence.end)));
            rows.pack(piece.rows.start + panel * tile.rows, 0..dim, tile.rows, Form::Plain, out);
        })
    }

    /// Panels of columns: `[block, dim / tile.rows, block_len, tile.rows]`.
    pub(super) fn by_column<T: Float>(mat: Mat<'_, Cpu, T>, cut: &Cut) -> Self {
        let tile = tile();
        Self::pack(&cut.blocks, mat.cols.div_ceil(tile.rows), cut.block_len * tile.rows, |piece, panel, out| {
            let columns = ByColumn(Dense::new(mat));
            let out = &mut out[..piece.rows.len() * tile.rows];
            columns.pack(panel * tile.rows, piece.rows.clone(), tile.rows, Form::Plain, out);
        })
    }

    fn pack(blocks: &[Piece], panels: usize, panel: usize, pack: impl Fn(&Piece, usize, &mut [f32]) + Sync) -> Self {
        let len = panels * panel;
        let mut data = vec![0.0; blocks.len() * len];
        par::each(data.par_chunks_mut(len).zip(blocks), |(data, piece)| {
            for (i, out) in data.chunks_mut(panel).enumerate() {
                pack(piece, i, out);
            }
        });
        Blocks { data, len, panel }
    }

    /// `out += block · right`, for `right` of `[depth, tile.cols]`; as many tiles as `out` holds.
    pub(super) fn multiply(&self, block: usize, depth: usize, right: &[f32], out: &mut [f32]) {
        let tile = tile();
        let panels = self.data[block * self.len..][..self.len].chunks(self.panel);
        for (panel, out) in panels.zip(out.chunks_mut(tile.len())) {
            tile.run_packed(depth, panel, right, out);
        }
    }
}

/// A panel of rows from `first` on, as the right operand: `[dim, tile.cols]`, zeros beyond the sequence.
pub(super) fn panel<T: Float>(mat: Mat<'_, Cpu, T>, piece: &Piece) -> Vec<f32> {
    let mut out = vec![0.0; mat.cols * tile().cols];
    let rows = ByRow(Dense::new(mat.rows(0..piece.sequence.end)));
    rows.pack(piece.rows.start, 0..mat.cols, tile().cols, Form::Plain, &mut out);
    out
}

/// Elements of a transposed result `[dim, tile.cols]`, padded to whole tiles.
pub(super) fn result_len(tile: &Tile, dim: usize) -> usize {
    dim.div_ceil(tile.rows) * tile.len()
}

/// Writes column `lane` of a transposed result to row `lane` of `out`, times `factor(lane)`.
#[inline(always)]
pub(super) fn write_rows<T: Float>(
    transposed: &[f32],
    dim: usize,
    stride: usize,
    out: &mut [T],
    factor: impl Fn(usize) -> f32,
) {
    let mut row = [0.0; 128];
    for (lane, out) in out.chunks_mut(stride).enumerate() {
        let factor = factor(lane);
        let row = &mut row[..dim];
        for (x, column) in row.iter_mut().zip(transposed.chunks_exact(tile().cols)) {
            *x = column[lane] * factor;
        }
        convert::narrow(row, &mut out[..dim]);
    }
}
