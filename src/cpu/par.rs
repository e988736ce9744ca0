//! Rows of matrices, in order and in parallel.

use super::device::Cpu;
use crate::{
    buffer::{Mat, MatMut},
    element::Element,
};
use rayon::prelude::*;
use std::cell::RefCell;

thread_local! {
    /// Memory that ops of this thread used before.
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` elements that hold anything: `f` must write what it reads.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut memory = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    let result = f(&mut memory[..len]);
    SCRATCH.with_borrow_mut(|all| all.push(memory));
    result
}

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
