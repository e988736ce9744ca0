//! One stream, whose turn it is to use it, and the memory that is freed in its order.
#![allow(unsafe_code)]

use super::driver::refused;
use crate::{
    error::{Error, Result},
    meter::Meter,
};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use parking_lot::{ReentrantMutex, ReentrantMutexGuard};
use std::{cell::RefCell, mem::ManuallyDrop, sync::Arc};

/// The stream of one [`super::Cuda`]. All that it ever does goes here, in order.
///
/// Kernels of one op hand each other scratch memory, and what is queued while a graph is recorded becomes part of it.
/// So a thread has the queue to itself for as long as an op, or a recording, takes: its [`Turn`].
pub struct Queue {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) meter: Meter,
    turn: ReentrantMutex<RefCell<Option<Recording>>>,
}

/// What a graph that is being recorded keeps.
#[derive(Default)]
pub(super) struct Recording {
    /// The memory that its ops use.
    pub(super) kept: Vec<Arc<Allocation>>,
    /// Memory that was dropped in the meantime: a free would be recorded, too.
    pub(super) dropped: Vec<CudaSlice<u8>>,
}

/// While it lives, no other thread queues anything. A thread that has the turn may take it again.
pub(super) type Turn<'a> = ReentrantMutexGuard<'a, RefCell<Option<Recording>>>;

impl Queue {
    pub(super) fn new(context: Arc<CudaContext>) -> Result<Self> {
        // Not the default stream: that one cannot be recorded into a graph.
        let stream = context.new_stream().map_err(refused("making a stream"))?;
        Ok(Queue { context, stream, meter: Meter::default(), turn: ReentrantMutex::default() })
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
}

/// A piece of device memory: of a [`super::Memory`], and of the recorded graphs that use it.
pub struct Allocation {
    bytes: ManuallyDrop<CudaSlice<u8>>,
    pub(super) queue: Arc<Queue>,
}

impl Allocation {
    pub(super) fn new(bytes: CudaSlice<u8>, queue: Arc<Queue>) -> Self {
        queue.meter.add(bytes.len());
        Allocation { bytes: ManuallyDrop::new(bytes), queue }
    }
}

/// Frees in the order of the queue, or behind the graph that is being recorded.
impl Drop for Allocation {
    fn drop(&mut self) {
        let turn = self.queue.turn();
        self.queue.meter.sub(self.bytes.len());
        // SAFETY: this is the only place that takes it, and runs once.
        let bytes = unsafe { ManuallyDrop::take(&mut self.bytes) };
        // A GPU that cannot be made current is lost, its memory with it.
        let _ = self.queue.context.bind_to_thread();
        match turn.borrow_mut().as_mut() {
            Some(recording) => recording.dropped.push(bytes),
            None => drop(bytes),
        }
    }
}
