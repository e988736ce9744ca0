//! Page-locked memory through which everything goes that comes from the host.
//!
//! A copy from ordinary memory may or may not be over when the driver's call returns, which depends on how that memory
//! was allocated. Here it does not: `host` has been read when [`Ring::copy`] returns, whatever it is.
#![allow(unsafe_code)]

use super::{driver::refused, stream::Queue};
use crate::Result;
use cudarc::driver::{CudaEvent, PinnedHostSlice, result};

/// Slots of the ring: as many copies can wait behind kernels before the host has to.
const SLOTS: usize = 16;
/// Bytes of a slot.
const SLOT: usize = 2 << 20;

/// Slots that are filled in turn, each when the copy from it before has been done.
pub(super) struct Ring {
    slots: Vec<(PinnedHostSlice<u8>, CudaEvent)>,
    next: usize,
}

impl Ring {
    pub(super) fn new(queue: &Queue) -> Result<Self> {
        let slot = |_| {
            // SAFETY: a slot is read by the device only, and only what `copy` wrote to it just before.
            let memory =
                unsafe { queue.context.alloc_pinned(SLOT) }.map_err(refused("allocating page-locked memory"))?;
            Ok((memory, queue.context.new_event(None).map_err(refused("making an event"))?))
        };
        Ok(Ring { slots: (0..SLOTS).map(slot).collect::<Result<_>>()?, next: 0 })
    }

    /// Queues the copy of `host` to the device address `out`.
    ///
    /// # Safety
    /// As many bytes at `out` are live until the stream has passed the copy.
    pub(super) unsafe fn copy(&mut self, queue: &Queue, host: &[u8], out: u64) -> Result<()> {
        for (i, piece) in host.chunks(SLOT).enumerate() {
            let (memory, done) = &mut self.slots[self.next];
            self.next = (self.next + 1) % SLOTS;
            // An event that was never recorded is over.
            done.synchronize().map_err(refused("waiting for a copy to the device"))?;
            let staged = memory.as_mut_slice().map_err(refused("using page-locked memory"))?;
            staged[..piece.len()].copy_from_slice(piece);
            let to = out + (i * SLOT) as u64;
            // SAFETY: the caller promises memory at `out`; the slot is not written again before `done` says that this
            // copy is over.
            unsafe { result::memcpy_htod_async(to, &staged[..piece.len()], queue.stream.cu_stream()) }
                .and_then(|()| done.record(&queue.stream))
                .map_err(refused("copying to the device"))?;
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The memory goes with the slots. Where the wait fails the GPU does nothing more.
        for (_, done) in &self.slots {
            let _ = done.synchronize();
        }
    }
}
