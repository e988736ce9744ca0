//! One stream, whose turn it is to use it, copies beside it, and the memory that is freed in its order.
#![allow(unsafe_code)]

use super::driver::refused;
use crate::{
    buffer::Keeper,
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
/// A stream that was given is one to which others queue, too, without asking whose turn it is: so nothing of this crate may
/// run beside what was queued before, or be passed by what comes behind. Copies aside go to that stream itself, kernels are
/// not launched early ([`super::Cuda`]'s `early_launch`), and no graph is recorded, of which others' work would be a part.
///
/// Kernels of one op hand each other scratch memory, and what is queued while a graph is recorded becomes part of it.
/// So a thread has the queue to itself for as long as an op, or a recording, takes: its [`Turn`].
#[derive(Debug)]
pub struct Queue {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    /// Of copies that run beside kernels.
    aside: Arc<CudaStream>,
    pub(super) meter: Meter,
    turn: ReentrantMutex<RefCell<Option<Recording>>>,
}

/// What a graph that is being recorded keeps.
#[derive(Debug, Default)]
pub(super) struct Recording {
    /// The memory that its ops use.
    pub(super) kept: Vec<Arc<Allocation>>,
    /// Memory that was dropped in the meantime: a free would be recorded, too.
    pub(super) dropped: Vec<Bytes>,
}

/// While it lives, no other thread queues anything. A thread that has the turn may take it again.
pub(super) type Turn<'a> = ReentrantMutexGuard<'a, RefCell<Option<Recording>>>;

impl Queue {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        // Not the default stream: that one cannot be recorded into a graph.
        let stream = || context.new_stream().map_err(refused("making a stream"));
        Ok(Self::of(stream()?, stream()?))
    }

    /// On a stream to which others queue, too.
    pub(super) fn on(stream: Arc<CudaStream>) -> Self {
        Self::of(stream.clone(), stream)
    }

    fn of(stream: Arc<CudaStream>, aside: Arc<CudaStream>) -> Self {
        let context = stream.context().clone();
        Queue { context, stream, aside, meter: Meter::default(), turn: ReentrantMutex::default() }
    }

    /// Whether the stream is this crate's alone.
    pub(super) fn is_own(&self) -> bool {
        !Arc::ptr_eq(&self.stream, &self.aside)
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

    /// Copies on `stream`, behind what was queued to the queue's own; gives what says that it is over.
    ///
    /// # Safety
    /// As for [`copy_async`], until the event has passed.
    unsafe fn copy_on(
        &self,
        stream: &CudaStream,
        to: u64,
        from: u64,
        bytes: usize,
    ) -> std::result::Result<CudaEvent, DriverError> {
        stream.wait(&self.stream.record_event(None)?)?;
        // SAFETY: this function's contract.
        unsafe { copy_async(stream, to, from, bytes) }?;
        stream.record_event(None)
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
#[derive(Debug)]
pub(super) enum Bytes {
    /// On the device; freed in the order of its stream.
    Device(CudaSlice<u8>),
    /// On the host, page-locked.
    Host { _memory: HostBytes },
    /// Memory of others that is kept here.
    Adopted { keeper: Keeper, stream: Arc<CudaStream> },
    /// Memory of others that is kept elsewhere: of all raw views.
    Lent,
}

impl Bytes {
    /// Frees them. What keeps memory of others comes back, when the stream has passed its last use: it is others' code,
    /// which may wait for a thread that waits for its turn, so it is to be dropped when this thread has it no more.
    pub(super) fn free(self) -> Option<Keeper> {
        match self {
            Bytes::Adopted { keeper, stream } => {
                wait_for(&stream);
                Some(keeper)
            }
            Bytes::Device(_) | Bytes::Host { .. } | Bytes::Lent => None,
        }
    }
}

/// Waits for all that a stream was given. Where that fails the GPU does nothing more.
fn wait_for(stream: &CudaStream) {
    let _ = (stream.context().bind_to_thread(), stream.synchronize());
}

/// Page-locked memory of the host that a stream uses.
#[derive(Debug)]
pub(super) struct HostBytes {
    _memory: PinnedHostSlice<u8>,
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
        Ok((HostBytes { _memory: memory, stream: queue.stream.clone() }, ptr))
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        // Unlike the device's memory it is freed at once.
        wait_for(&self.stream);
    }
}

/// A piece of memory: of a [`super::Memory`], and of the recorded graphs that use it.
#[derive(Debug)]
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

    /// Whether it is memory of others.
    fn is_others(&self) -> bool {
        matches!(*self.bytes, Bytes::Adopted { .. } | Bytes::Lent)
    }

    /// Whether it is memory of the host.
    fn is_on_host(&self) -> bool {
        matches!(*self.bytes, Bytes::Host { .. })
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
        if !self.is_on_host() || self.used.load(Ordering::Relaxed) {
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
        // What others own, they may free or write once the stream has passed its uses.
        let beside = ![self, out].into_iter().any(Allocation::is_others);
        let stream = if beside { &self.queue.aside } else { &self.queue.stream };
        // SAFETY: both are as this function's contract says, and live for as long as their allocations, which wait for
        // the event before they are used again or freed; or else the copy is on the stream, in whose order they are freed.
        let copied =
            unsafe { self.queue.copy_on(stream, to, from, bytes) }.map_err(refused("copying beside kernels"))?;
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
        let keeper = match turn.borrow_mut().as_mut() {
            Some(recording) => {
                recording.dropped.push(bytes);
                None
            }
            None => bytes.free(),
        };
        drop((turn, keeper));
    }
}
