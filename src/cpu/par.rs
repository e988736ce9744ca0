//! Rows of matrices, in order and in parallel.
//!
//! What is cut into pieces, and into how small ones, is said by rayon's iterators; the pieces run on the threads of
//! [`pool`].

use super::{device::Cpu, pool};
use crate::{
    buffer::{Mat, MatMut},
    element::Element,
};
use bytemuck::{Pod, Zeroable};
use parking_lot::Mutex;
use rayon::iter::{
    IndexedParallelIterator, ParallelIterator,
    plumbing::{Producer, ProducerCallback},
};
use rayon::slice::ParallelSliceMut;
use std::cell::RefCell;

/// A line of the cache, so that no vector lies in two of them.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([f32; 16]);

/// Zeros of so many bytes at least.
pub(super) fn lines(bytes: usize) -> Vec<Line> {
    vec![Line::zeroed(); bytes.div_ceil(size_of::<Line>())]
}

thread_local! {
    /// Memory that ops of this thread used before.
    static SCRATCH: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` elements that begin with a line of the cache and hold anything: `f` must write what it reads.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut memory = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.len() < len.div_ceil(16) {
        memory.resize(len.div_ceil(16), Line::zeroed());
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut memory)[..len]);
    SCRATCH.with_borrow_mut(|all| all.push(memory));
    result
}

/// Elements that are worth a task of their own.
const GRAIN: usize = 8192;

/// Rows of `cols` elements that are worth a task of their own.
pub(super) fn grain(cols: usize) -> usize {
    GRAIN.div_ceil(cols.max(1))
}

/// Parts for each thread: where one is held up, the others take what is left.
const PARTS: usize = 4;

/// Calls `f` with each item; items in one part follow each other.
pub(super) fn each<I: IndexedParallelIterator>(items: I, f: impl Fn(I::Item) + Sync) {
    each_with(items, || (), |(), item| f(item));
}

/// [`each`] with what `init` makes, once for each part.
pub(super) fn each_with<I: IndexedParallelIterator, S>(
    items: I,
    init: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, I::Item) + Sync,
) {
    let len = items.len();
    items.with_producer(Parts {
        len,
        run: |part: &mut dyn Iterator<Item = I::Item>| {
            let mut state = init();
            part.for_each(|item| f(&mut state, item));
        },
    });
}

/// What becomes of the parts of `len` items.
struct Parts<F> {
    len: usize,
    run: F,
}

impl<T, F: Fn(&mut dyn Iterator<Item = T>) + Sync> ProducerCallback<T> for Parts<F> {
    type Output = ();

    fn callback<P: Producer<Item = T>>(self, producer: P) {
        let Parts { len, run } = self;
        let threads = pool::threads();
        let most = len / producer.min_len().max(1);
        if threads == 1 || most <= 1 {
            return run(&mut producer.into_iter());
        }
        let n = most.min(PARTS * threads);
        let (mut rest, mut first) = (producer, 0);
        let mut parts = Vec::with_capacity(n);
        for i in 1..n {
            let end = len * i / n;
            let (part, after) = rest.split_at(end - first);
            parts.push(Mutex::new(Some(part)));
            (rest, first) = (after, end);
        }
        parts.push(Mutex::new(Some(rest)));
        pool::run(n, &|i| {
            if let Some(part) = parts[i].lock().take() {
                run(&mut part.into_iter());
            }
        });
    }
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
