//! Page-locked memory through which everything goes that comes from the host.
//!
//! A copy from ordinary memory may or may not be over when the driver's call returns, which depends on how that memory
//! was allocated. Here it does not: `host` has been read when [`Ring::copy`] returns, whatever it is.
#![allow(unsafe_code)]

use super::{
    driver::refused,
    stream::{Queue, copy_async},
};
use crate::error::{Error, Result};
use cudarc::driver::{CudaEvent, PinnedHostSlice};
use std::thread;

/// Slots of the ring: as many small copies can wait behind kernels before the host has to.
pub(super) const SLOTS: usize = 16;
/// Bytes of a slot.
pub(super) const SLOT: usize = 2 << 20;
/// Slots that are filled at once, each by a thread; what was in the others before is copied meanwhile.
pub(super) const GROUP: usize = 8;

/// Memory, and what says that the copy from it is over.
struct Slot {
    memory: PinnedHostSlice<u8>,
    done: CudaEvent,
}

/// Slots that are filled in turn, each when the copy from it before is over.
pub(super) struct Ring {
    slots: Vec<Slot>,
    next: usize,
}

impl Ring {
    pub(super) fn new(queue: &Queue) -> Result<Self> {
        let slot = |_| {
            // SAFETY: only `Slot::send` reads a slot, as much of it as `Slot::fill` wrote just before.
            let memory = unsafe { queue.context.alloc_pinned(SLOT) };
            let memory = memory.map_err(refused("allocating 32 MiB of page-locked host memory"))?;
            Ok(Slot { memory, done: queue.context.new_event(None).map_err(refused("making an event"))? })
        };
        Ok(Ring { slots: (0..SLOTS).map(slot).collect::<Result<_>>()?, next: 0 })
    }

    /// Queues the copy of `host` to the address `out`.
    ///
    /// # Safety
    /// As many bytes at `out` are live until the stream has passed the copy.
    pub(super) unsafe fn copy(&mut self, queue: &Queue, host: &[u8], out: u64) -> Result<()> {
        for (i, group) in host.chunks(GROUP * SLOT).enumerate() {
            let n = group.len().div_ceil(SLOT);
            let first = if self.next + n > SLOTS { 0 } else { self.next };
            self.next = first + n;
            let slots = &mut self.slots[first..first + n];
            fill(slots, group)?;
            for (j, (slot, piece)) in slots.iter_mut().zip(group.chunks(SLOT)).enumerate() {
                let to = out + ((i * GROUP + j) * SLOT) as u64;
                // SAFETY: `to` and what lies behind it is the piece's part of the memory at `out`, which this
                // function's contract makes live.
                unsafe { slot.send(queue, piece.len(), to) }?;
            }
        }
        Ok(())
    }
}

/// Fills each slot with its piece of `host`, all but the first by threads of their own: weights are read from a file,
/// page by page, as they are copied. (Not by rayon's: one that waits may take up other work, and queue it in the middle
/// of this thread's turn.)
fn fill<'a>(slots: &'a mut [Slot], host: &'a [u8]) -> Result<()> {
    let mut pieces = slots.iter_mut().zip(host.chunks(SLOT));
    let first = pieces.next();
    thread::scope(|scope| {
        let spawn = |(slot, piece): (&'a mut Slot, &'a [u8])| {
            thread::Builder::new().spawn_scoped(scope, || slot.fill(piece)).map_err(|e| no_thread(&e))
        };
        let others: Vec<_> = pieces.map(spawn).collect();
        let first = first.map_or(Ok(()), |(slot, piece)| slot.fill(piece));
        let join = |thread: thread::ScopedJoinHandle<'_, Result<()>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        others.into_iter().map(|thread| thread.and_then(join)).fold(first, Result::and)
    })
}

fn no_thread(error: &std::io::Error) -> Error {
    Error::Cuda { what: "starting a thread to copy to the device", reason: error.to_string() }
}

impl Slot {
    fn fill(&mut self, piece: &[u8]) -> Result<()> {
        // An event that was never recorded is over.
        self.done.synchronize().map_err(refused("waiting for a copy to the device"))?;
        let memory = self.memory.as_mut_slice().map_err(refused("using page-locked memory"))?;
        memory[..piece.len()].copy_from_slice(piece);
        Ok(())
    }

    /// Queues the copy of the first `len` bytes to the address `to`.
    ///
    /// # Safety
    /// As many bytes at `to` are live until the stream has passed the copy.
    unsafe fn send(&mut self, queue: &Queue, len: usize, to: u64) -> Result<()> {
        let memory = self.memory.as_slice().map_err(refused("using page-locked memory"))?;
        // SAFETY: `to` is as this function's contract says; the slot is not filled again before `done` says that this
        // copy is over.
        unsafe { copy_async(&queue.stream, to, memory[..len].as_ptr() as u64, len) }
            .and_then(|()| self.done.record(&queue.stream))
            .map_err(refused("copying to the device"))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The memory goes with the slots. Where the wait fails the GPU does nothing more.
        for slot in &self.slots {
            let _ = slot.done.synchronize();
        }
    }
}
