//! Recording a sequence of launches once and replaying it.

use super::{Cuda, refused};
use crate::{Error, Result};
use cudarc::driver::{CudaGraph, sys};

/// Launches that were recorded by [`crate::Backend::replay`].
#[derive(Default)]
pub struct Graph {
    warm: bool,
    recorded: Option<CudaGraph>,
}

// SAFETY: the driver allows a graph to be used from any one thread at a time, and `&mut Graph` is asked for to use it.
unsafe impl Send for Graph {}

impl Cuda {
    /// The first call runs `step` as it is (modules load, scratch grows); the second records it; later ones replay.
    pub(in crate::cuda) fn replay_graph(&self, graph: &mut Graph, mut step: impl FnMut() -> Result<()>) -> Result<()> {
        if !graph.warm {
            graph.warm = true;
            return step();
        }
        if graph.recorded.is_none() {
            graph.recorded = Some(self.record(&mut step)?);
        }
        match &graph.recorded {
            Some(recorded) => recorded.launch().map_err(refused("launching a CUDA graph")),
            None => step(),
        }
    }

    fn record(&self, step: &mut impl FnMut() -> Result<()>) -> Result<CudaGraph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(refused("beginning to record a CUDA graph"))?;
        let outcome = step();
        let graph =
            self.stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(refused("recording a CUDA graph"));
        outcome?;
        graph?.ok_or(Error::Cuda { what: "recording a CUDA graph", reason: "nothing was recorded".into() })
    }
}
