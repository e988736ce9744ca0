//! Memory that kernels of one op hand to each other.

use crate::{backend::Backend, buffer::Buf, element, error::Result};
use parking_lot::Mutex;
use std::{
    ptr::null_mut,
    sync::atomic::{AtomicBool, Ordering},
};

/// The scratch buffers, and how many there are.
macro_rules! slots {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A scratch buffer by name. An op may hold one of each.
        #[derive(Clone, Copy)]
        pub(super) enum Slot {
            $($(#[$doc])* $name,)*
        }

        impl Slot {
            const COUNT: usize = [$(Slot::$name),*].len();
        }
    };
}

slots! {
    /// f32: sums of parts of a contraction or a reduction.
    Partial,
    /// f64: sums of parts of a long vector.
    Sums,
    /// Small matrices of an adapter, transposed.
    Adapter,
    /// u32: one bit for each token of a vocabulary.
    Seen,
    /// A weight, dequantised.
    Weight,
    /// What cuBLASLt works in.
    Blas,
    /// u32: counters of finished blocks. Zero between ops, so the kernels that count put them back.
    Tickets,
}

/// What ops keep between their kernels. A buffer grows to the largest size ever asked for and is shared by all ops:
/// work is done in the order in which it is queued, and a thread has its turn for a whole op, so an op is done with it
/// before the next one writes to it.
pub(super) struct Scratch<B: Backend> {
    slots: [Mutex<Vec<Buf<B, u8>>>; Slot::COUNT],
    recorded: AtomicBool,
}

impl<B: Backend> Default for Scratch<B> {
    fn default() -> Self {
        Scratch { slots: Default::default(), recorded: AtomicBool::new(false) }
    }
}

impl<B: Backend> Scratch<B> {
    /// From now on there are recorded graphs.
    pub(super) fn keep_outgrown(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    /// The address of `len` elements of a buffer, with whatever the last op left in it; zeros where it is new.
    ///
    /// Outgrown memory is kept where a recorded graph may go on using it. A buffer at least doubles when it grows, so that
    /// what is kept is never more than what is used; unless there is memory for no more than was asked for.
    pub(super) fn get<T>(&self, backend: &B, slot: Slot, len: usize) -> Result<*mut T> {
        let bytes = element::bytes::<T>(len)?;
        let mut kept = self.slots[slot as usize].lock();
        let have = kept.last().map_or(0, Buf::len);
        if have < bytes || kept.is_empty() {
            // What uses it was queued before, and it is freed behind that.
            if !self.recorded.load(Ordering::Relaxed) {
                kept.clear();
            }
            let grown = |bytes: usize| backend.zeros(bytes.next_multiple_of(256));
            kept.push(grown(bytes.max(2 * have)).or_else(|_| grown(bytes))?);
        }
        Ok(kept.last_mut().map_or(null_mut(), |buf| buf.view_mut().as_mut_ptr().cast()))
    }
}
