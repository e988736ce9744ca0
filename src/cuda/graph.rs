//! Recording a sequence of launches once and replaying it.
#![allow(unsafe_code)]

use super::{
    device::Cuda,
    driver::refused,
    stream::{Allocation, Bytes, Queue, Recording},
};
use crate::error::{Error, Result};
use cudarc::driver::{CudaGraph, sys};
use std::sync::Arc;

/// Launches that were recorded by [`Backend::replay`](crate::backend::Backend::replay).
#[derive(Debug, Default)]
pub struct Graph(State);

#[derive(Debug, Default)]
enum State {
    #[default]
    New,
    /// The step has run once.
    Warm,
    Recorded(Recorded),
}

/// A graph, and all that its launches refer to. Fields are dropped in order: what is freed is freed behind the graph's
/// last launch.
struct Recorded {
    graph: CudaGraph,
    /// The memory that the recorded ops use, whoever else drops it. Scratch memory lives as long as the queue's `Cuda`,
    /// without which nothing is replayed.
    _kept: Vec<Arc<Allocation>>,
    queue: Arc<Queue>,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

// SAFETY: the driver lets any one thread at a time use a graph, and whoever uses one has `&mut Graph`.
unsafe impl Send for Recorded {}

impl Cuda {
    /// The first call runs `step` as it is (modules load, scratch grows); the second records it; later ones replay. While
    /// ops are timed, and on a stream that others queue to, every call runs it as it is.
    pub(super) fn replay_graph(&self, graph: &mut Graph, mut step: impl FnMut() -> Result<()>) -> Result<()> {
        if self.profiler.is_on() || !self.queue.is_own() {
            return step();
        }
        match &graph.0 {
            State::New => {
                step()?;
                graph.0 = State::Warm;
                return Ok(());
            }
            State::Warm => graph.0 = State::Recorded(self.record(&mut step)?),
            State::Recorded(_) => {}
        }
        let State::Recorded(recorded) = &graph.0 else { return Ok(()) };
        if !Arc::ptr_eq(&recorded.queue, &self.queue) {
            return Err(Error::Foreign { op: "replay", arg: "graph" });
        }
        let _turn = self.queue.turn_outside_graphs("launching a CUDA graph")?;
        recorded.graph.launch().map_err(refused("launching a CUDA graph"))
    }

    fn record(&self, step: &mut impl FnMut() -> Result<()>) -> Result<Recorded> {
        let turn = self.queue.turn_outside_graphs("recording a CUDA graph")?;
        self.scratch.keep_outgrown();
        let stream = &self.queue.stream;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(refused("beginning to record a CUDA graph"))?;
        // From here to `end_capture` nothing returns, and a panic of `step` is caught on the way.
        turn.replace(Some(Recording::default()));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step));
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(refused("recording a CUDA graph"));
        let Recording { kept, dropped } = turn.take().unwrap_or_default();
        let keepers: Vec<_> = dropped.into_iter().filter_map(Bytes::free).collect();
        drop((turn, keepers));
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let nothing = || Error::Cuda { what: "recording a CUDA graph", reason: "nothing was recorded".into() };
        Ok(Recorded { graph: graph?.ok_or_else(nothing)?, _kept: kept, queue: self.queue.clone() })
    }
}
