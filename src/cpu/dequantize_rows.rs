//! Rows of a cache in 8 bits, and how its rows are read and written in either form.

use super::{
    device::Cpu,
    par,
    simd::{convert, prefetch, vectorize},
};
use crate::{
    buffer::ViewMut,
    element::Float,
    ops::{DequantizeRows, Heads},
};
use rayon::prelude::*;

/// Heads whose largest magnitude is less are zeros: the inverse of their scale would not fit f32.
const LEAST: f32 = f32::from_bits((127 - 100) << 23);

/// `codes` times their scale.
#[inline(always)]
fn widen_codes(codes: &[i8], scale: f32, out: &mut [f32]) {
    out.iter_mut().zip(codes).for_each(|(out, &code)| *out = f32::from(code) * scale);
}

/// Codes and scale of a head, by [`crate::ops::KvMut::Int8`]'s formula.
#[inline(always)]
fn quantize(x: &[f32], codes: &mut [i8]) -> f32 {
    // Bits of magnitudes are in the order of what they mean, and those of a NaN are above all.
    let largest = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0));
    let inverse = if largest >= LEAST { 127.0 / largest } else { 0.0 };
    codes.iter_mut().zip(x).for_each(|(code, x)| *code = (x * inverse).round_ties_even() as i8);
    largest / 127.0
}

/// Keys or values of one sequence.
pub(super) trait Rows<T: Float>: Send + Sync {
    /// Puts a row there.
    fn put(&mut self, row: usize, x: &[T]);
    /// A head of a row, as f32.
    fn widen(&self, row: usize, head: usize, out: &mut [f32]);
    /// Asks for a head of `dim` elements of a row, which will be read soon.
    fn prefetch(&self, row: usize, head: usize, dim: usize);
}

/// As they are, `[capacity, width]`.
pub(super) struct Plain<'a, T> {
    pub rows: &'a mut [T],
    pub width: usize,
}

impl<T: Float> Rows<T> for Plain<'_, T> {
    #[inline(always)]
    fn put(&mut self, row: usize, x: &[T]) {
        self.rows[row * self.width..][..self.width].copy_from_slice(x);
    }

    #[inline(always)]
    fn widen(&self, row: usize, head: usize, out: &mut [f32]) {
        convert::widen(&self.rows[row * self.width + head * out.len()..][..out.len()], out);
    }

    #[inline(always)]
    fn prefetch(&self, row: usize, head: usize, dim: usize) {
        prefetch(&self.rows[row * self.width + head * dim..][..dim]);
    }
}

/// In 8 bits: `[capacity, heads dim]`, `[heads, capacity]`.
pub(super) struct Int8<'a> {
    pub codes: &'a mut [i8],
    pub scales: &'a mut [f32],
    pub dim: usize,
    pub capacity: usize,
}

impl Int8<'_> {
    /// Where the codes of a head begin.
    #[inline(always)]
    fn at(&self, row: usize, head: usize) -> usize {
        (row * self.scales.len() / self.capacity + head) * self.dim
    }
}

impl<T: Float> Rows<T> for Int8<'_> {
    fn put(&mut self, row: usize, x: &[T]) {
        par::with_scratch(self.dim, |wide| {
            for (head, x) in x.chunks_exact(self.dim).enumerate() {
                let (at, scale) = (self.at(row, head), head * self.capacity + row);
                let codes = &mut self.codes[at..][..self.dim];
                self.scales[scale] = vectorize(
                    #[inline(always)]
                    || {
                        convert::widen(x, wide);
                        quantize(wide, codes)
                    },
                );
            }
        });
    }

    #[inline(always)]
    fn widen(&self, row: usize, head: usize, out: &mut [f32]) {
        widen_codes(&self.codes[self.at(row, head)..][..self.dim], self.scales[head * self.capacity + row], out);
    }

    #[inline(always)]
    fn prefetch(&self, row: usize, head: usize, dim: usize) {
        prefetch(&self.codes[self.at(row, head)..][..dim]);
    }
}

/// The keys or values of each sequence of a plain cache.
pub(super) fn plain<'a, T: Float>(
    cache: ViewMut<'a, Cpu, T>,
    capacity: usize,
    width: usize,
) -> impl IndexedParallelIterator<Item = Plain<'a, T>> {
    cache.into_slice().par_chunks_mut(capacity * width).map(move |rows| Plain { rows, width })
}

/// Those of a cache in 8 bits.
pub(super) fn int8<'a>(
    codes: ViewMut<'a, Cpu, i8>,
    scales: ViewMut<'a, Cpu, f32>,
    capacity: usize,
    heads: Heads,
) -> impl IndexedParallelIterator<Item = Int8<'a>> {
    let codes = codes.into_slice().par_chunks_mut(capacity * heads.kv * heads.dim);
    let scales = scales.into_slice().par_chunks_mut(capacity * heads.kv);
    codes.zip(scales).map(move |(codes, scales)| Int8 { codes, scales, dim: heads.dim, capacity })
}

pub(super) fn dequantize_rows<T: Float>(op: DequantizeRows<'_, Cpu, T>) {
    let DequantizeRows { codes, scales, dim, out } = op;
    let rows = par::rows_mut(out).enumerate().with_min_len(par::grain(codes.cols));
    par::each_with(
        rows,
        || vec![0.0; dim],
        |wide, (row, out)| {
            vectorize(
                #[inline(always)]
                || {
                    let heads = codes.row(row).chunks_exact(dim).zip(out.chunks_exact_mut(dim));
                    for (head, (codes, out)) in heads.enumerate() {
                        widen_codes(codes, scales.row(head)[row], wide);
                        convert::narrow(wide, out);
                    }
                },
            );
        },
    );
}
