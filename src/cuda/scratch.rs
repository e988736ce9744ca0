//! Memory that kernels of one op hand to each other.

use super::Cuda;
use crate::{Buf, Result, element};
use parking_lot::Mutex;

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
#[derive(Default)]
pub(super) struct Scratch([Mutex<Vec<Buf<Cuda, u8>>>; Slot::COUNT]);

impl Cuda {
    /// The address of `len` elements of a scratch buffer, with whatever the last op left in it; zeros where it is new.
    ///
    /// Outgrown memory is kept: a recorded graph may go on using it. A buffer at least doubles when it grows, so that
    /// what is kept is never more than what is used; unless there is memory for no more than was asked for.
    pub(super) fn scratch<T>(&self, slot: Slot, len: usize) -> Result<*mut T> {
        let bytes = element::bytes::<T>(len)?;
        let mut kept = self.scratch.0[slot as usize].lock();
        let have = kept.last().map_or(0, Buf::len);
        if have < bytes || kept.is_empty() {
            let grown = |bytes: usize| self.alloc_zeros(bytes.next_multiple_of(256));
            kept.push(grown(bytes.max(2 * have)).or_else(|_| grown(bytes))?);
        }
        Ok(kept.last_mut().map_or(0, |buf| buf.view_mut().ptr()) as *mut T)
    }
}
