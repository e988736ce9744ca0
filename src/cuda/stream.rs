//! One stream, whose turn it is to use it, copies beside it, and the memory that is freed in its order.
#![allow(unsafe_code)]

use super::driver::refused;
use crate::{
    error::{Error, Result},
    meter::Meter,
};
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DriverError, PinnedHostSlice, sys};
use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use std::{
    cell::RefCell,
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The stream of one [`super::Cuda`]. All that it ever does goes here, in order, but for copies aside.
///
/// Kernels of one op hand each other scratch memory, and what is queued while a graph is recorded becomes part of it.
/// So a thread has the queue to itself for as long as an op, or a recording, takes: its [`Turn`].
pub struct Queue {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    /// Of copies that run beside kernels.
    aside: Arc<CudaStream>,
    pub(super) meter: Meter,
    turn: ReentrantMutex<RefCell<Option<Recording>>>,
}

/// What a graph that is being recorded keeps.
#[derive(Default)]
pub(super) struct Recording {
    /// The memory that its ops use.
    pub(super) kept: Vec<Arc<Allocation>>,
    /// Memory that was dropped in the meantime: a free would be recorded, too.
    pub(super) dropped: Vec<Bytes>,
}

/// While it lives, no other thread queues anything. A thread that has the turn may take it again.
pub(super) type Turn<'a> = ReentrantMutexGuard<'a, RefCell<Option<Recording>>>;

impl Queue {
    pub(super) fn new(context: Arc<CudaContext>) -> Result<Self> {
        // Not the default stream: that one cannot be recorded into a graph.
        let stream = || context.new_stream().map_err(refused("making a stream"));
        let (stream, aside) = (stream()?, stream()?);
        Ok(Queue { context, stream, aside, meter: Meter::default(), turn: ReentrantMutex::default() })
    }

    /// Waits until other threads have queued what they are at.
    pub(super) fn turn(&self) -> Turn<'_> {
        self.turn.lock()
    }

    /// The turn, for what cannot be part of a graph.
    pub(super) fn turn_outside_graphs(&self, what: &'static str) -> Result<Turn<'_>> {
        let turn = self.turn();
        if turn.borrow().is_some() {
            let reason = "this cannot be done in a step that is recorded (Backend::replay)".into();
            return Err(Error::Cuda { what, reason });
        }
        self.context.bind_to_thread().map_err(refused("making the GPU current"))?;
        Ok(turn)
    }

    /// Copies beside the stream, behind what was queued there before; gives what says that it is over.
    ///
    /// # Safety
    /// As for [`copy_async`], until the event has passed.
    unsafe fn copy_aside(&self, to: u64, from: u64, bytes: usize) -> std::result::Result<CudaEvent, DriverError> {
        self.aside.wait(&self.stream.record_event(None)?)?;
        // SAFETY: this function's contract.
        unsafe { copy_async(&self.aside, to, from, bytes) }?;
        self.aside.record_event(None)
    }
}

/// Queues a copy, whether the addresses are the device's or page-locked memory of the host.
///
/// # Safety
/// As many bytes at both addresses are live until the stream has passed the copy, and do not overlap.
pub(super) unsafe fn copy_async(
    stream: &CudaStream,
    to: u64,
    from: u64,
    bytes: usize,
) -> std::result::Result<(), DriverError> {
    // SAFETY: this function's contract.
    unsafe { sys::cuMemcpyAsync(to, from, bytes, stream.cu_stream()) }.result()
}

/// Where memory lies.
pub(super) enum Bytes {
    /// On the device; freed in the order of its stream.
    Device(CudaSlice<u8>),
    /// On the host, page-locked.
    Host { _memory: HostBytes },
}

/// Page-locked memory of the host that a stream uses.
pub(super) struct HostBytes {
    memory: PinnedHostSlice<u8>,
    stream: Arc<CudaStream>,
}

impl HostBytes {
    /// So many zeros, and their address.
    pub(super) fn zeros(queue: &Queue, len: usize) -> std::result::Result<(Self, u64), DriverError> {
        // SAFETY: all of it is written below.
        let mut memory = unsafe { queue.context.alloc_pinned_with_flags(len, 0) }?;
        let bytes = memory.as_mut_slice()?;
        bytes.fill(0);
        let ptr = bytes.as_mut_ptr() as u64;
        Ok((HostBytes { memory, stream: queue.stream.clone() }, ptr))
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        // Unlike the device's memory it is freed at once. Where the wait fails the GPU does nothing more.
        let _ = (self.memory.context().bind_to_thread(), self.stream.synchronize());
    }
}

/// A piece of memory: of a [`super::Memory`], and of the recorded graphs that use it.
pub struct Allocation {
    bytes: ManuallyDrop<Bytes>,
    /// Says that a copy aside from it or to it is over, where the stream has not waited for that yet.
    aside: Mutex<Option<Arc<CudaEvent>>>,
    /// Whether the stream may have been given uses of it since the last copy aside.
    used: AtomicBool,
    pub(super) queue: Arc<Queue>,
}

impl Allocation {
    pub(super) fn new(bytes: Bytes, queue: Arc<Queue>) -> Self {
        if let Bytes::Device(bytes) = &bytes {
            queue.meter.add(bytes.len());
        }
        Allocation { bytes: ManuallyDrop::new(bytes), aside: Mutex::default(), used: AtomicBool::new(false), queue }
    }

    /// Makes what is queued next, and uses this memory, wait for a copy aside of it.
    pub(super) fn wait(&self) -> Result<()> {
        self.used.store(true, Ordering::Relaxed);
        let Some(copied) = self.aside.lock().take() else { return Ok(()) };
        let recording = self.queue.turn().borrow().is_some();
        // A recorded wait would be for a copy outside of the graph.
        let waited = if recording { copied.synchronize() } else { self.queue.stream.wait(&copied) };
        waited.map_err(refused("waiting for a copy"))
    }

    /// Waits until a copy aside of this memory is over, if that was the last use of it, and it is the host's, which may
    /// read it then; says whether it may.
    pub(super) fn join(&self) -> Result<bool> {
        if !matches!(*self.bytes, Bytes::Host { .. }) || self.used.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let copied = self.aside.lock().take();
        let joined = copied.map_or(Ok(()), |copied| copied.synchronize());
        joined.map_err(refused("waiting for a copy")).map(|()| true)
    }

    /// Copies beside the stream from this memory to `out`'s.
    ///
    /// # Safety
    /// As many bytes at `from` lie in this memory, and at `to` in `out`'s; they do not overlap.
    pub(super) unsafe fn copy_aside(&self, out: &Allocation, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: both are as this function's contract says, and live for as long as their allocations, which wait for
        // the event before they are used again or freed.
        let copied = unsafe { self.queue.copy_aside(to, from, bytes) }.map_err(refused("copying beside kernels"))?;
        let copied = Arc::new(copied);
        for allocation in [self, out] {
            *allocation.aside.lock() = Some(copied.clone());
            // What was queued before is over when the copy is.
            allocation.used.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Frees in the order of the queue, or behind the graph that is being recorded.
impl Drop for Allocation {
    fn drop(&mut self) {
        let turn = self.queue.turn();
        // A GPU that cannot be made current is lost, its memory with it, and so is one that cannot wait.
        let _ = (self.queue.context.bind_to_thread(), self.wait());
        // SAFETY: this is the only place that takes it, and runs once.
        let bytes = unsafe { ManuallyDrop::take(&mut self.bytes) };
        if let Bytes::Device(bytes) = &bytes {
            self.queue.meter.sub(bytes.len());
        }
        match turn.borrow_mut().as_mut() {
            Some(recording) => recording.dropped.push(bytes),
            None => drop(bytes),
        }
    }
}
