//! Rows of matrices, in order and in parallel.

use crate::{Cpu, Element, Mat, MatMut};
use rayon::prelude::*;

/// Elements that are worth a task of their own.
const GRAIN: usize = 8192;

/// Rows of `cols` elements that are worth a task of their own.
pub(super) fn grain(cols: usize) -> usize {
    GRAIN.div_ceil(cols.max(1))
}

/// The rows of `m`, in parallel.
pub(super) fn rows_mut<'a, T: Element>(m: MatMut<'a, Cpu, T>) -> impl IndexedParallelIterator<Item = &'a mut [T]> {
    let cols = m.cols;
    m.view.into_slice().par_chunks_mut(m.stride.max(1)).map(move |row| &mut row[..cols])
}

impl<'a, T: Element> Mat<'a, Cpu, T> {
    /// Row `i`.
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> &'a [T] {
        &self.view.slice()[i * self.stride..][..self.cols]
    }
}
