//! Memory that kernels of one op hand to each other.

use super::{Cuda, device::lock};
use crate::{Buf, Result};
use std::{marker::PhantomData, sync::Mutex};

/// A buffer that grows to the largest size ever asked for, shared by all ops: work is done in the order in which it
/// is queued, so an op is done with it before the next one writes to it.
#[derive(Default)]
struct Slot(Mutex<Vec<Buf<Cuda, u8>>>);

/// What ops keep between their kernels, by name: an op may hold one of each.
#[derive(Default)]
pub(super) struct Scratch {
    slots: [Slot; 5],
}

/// The name of a buffer whose elements are `T`.
pub(super) struct Buffer<T> {
    slot: usize,
    element: PhantomData<fn(T)>,
}

/// Sums of parts of a contraction or a reduction.
pub(super) const PARTIAL: Buffer<f32> = Buffer { slot: 0, element: PhantomData };
/// Sums of parts of a long vector.
pub(super) const SUMS: Buffer<f64> = Buffer { slot: 3, element: PhantomData };
/// Small matrices of an adapter, transposed.
pub(super) const ADAPTER: Buffer<u8> = Buffer { slot: 4, element: PhantomData };
/// One bit for each token of a vocabulary.
pub(super) const BITMAP: Buffer<u32> = Buffer { slot: 1, element: PhantomData };
/// A weight, decoded.
pub(super) const WEIGHT: Buffer<u8> = Buffer { slot: 2, element: PhantomData };
/// Counters of finished blocks: zero between ops, so the kernels that count put them back.
pub(super) const TICKETS: Buffer<u32> = Buffer { slot: 4, element: PhantomData };

impl Cuda {
    /// The address of `len` elements of a scratch buffer, with whatever the last op left in it.
    ///
    /// Outgrown memory is kept: a recorded graph may go on using it. A buffer at least doubles when it grows, so that
    /// what is kept is never more than what is used.
    pub(super) fn scratch<T>(&self, buffer: &Buffer<T>, len: usize) -> Result<*mut T> {
        let bytes = len * size_of::<T>();
        let mut kept = lock(&self.scratch.slots[buffer.slot].0);
        let have = kept.last().map_or(0, Buf::len);
        if have < bytes || kept.is_empty() {
            let size = bytes.max(2 * have).next_multiple_of(256);
            kept.push(self.alloc_zeros(size)?);
        }
        Ok(kept.last_mut().map_or(0, |buf| buf.view_mut().ptr()) as *mut T)
    }
}
