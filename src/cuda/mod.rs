//! The CUDA backend: hand-written kernels from `kernels/`, compiled at build time and loaded through the driver.
mod blas;
mod device;
mod driver;
#[cfg(test)]
mod given;
mod graph;
mod kernel;
mod launch;
mod memory;
#[allow(missing_docs, non_camel_case_types, clippy::all)]
mod params;
mod scratch;
mod staging;
mod stream;
mod warm_up;

pub use blas::has_cublaslt;
pub use cudarc;
pub use device::{Cuda, architectures, device_count, has_driver, kernels, nvcc_version};
pub(crate) use driver::describe;
pub use graph::Graph;
pub use memory::Memory;
pub use stream::Allocation;

use crate::{
    backend::{Backend, each_op},
    buffer::{Buf, View, ViewMut},
    compiled::{Compiled, CompiledWith, compile, compiled, compiled_with, dispatched},
    element::{Element, Float},
    error::Result,
    meter::MemoryUse,
    ops::{self, Check, Checked},
    profile::OpTime,
};
use half::{bf16, f16};

macro_rules! queue {
    ($cuda:expr, $op:expr, $($function:ident)::+) => {
        $cuda.in_turn(|| launch::$($function)::+($cuda, $op))
    };
}

compile! { Cuda by queue }

impl Backend for Cuda {
    type Graph = Graph;

    fn name(&self) -> String {
        self.describe()
    }

    fn zeros<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        self.alloc_zeros(len)
    }

    fn zeros_on_host<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        self.alloc_zeros_on_host(len)
    }

    fn upload<T: Element>(&self, host: &[T]) -> Result<Buf<Self, T>> {
        self.alloc_copy(host)
    }

    fn download<T: Element>(&self, view: View<'_, Self, T>) -> Result<Vec<T>> {
        self.copy_to_host(view)
    }

    fn write<T: Element>(&self, host: &[T], out: ViewMut<'_, Self, T>) -> Result<()> {
        self.copy_from_host(host, out)
    }

    fn copy<T: Element>(&self, x: View<'_, Self, T>, out: ViewMut<'_, Self, T>) -> Result<()> {
        self.copy_on_device(x, out)
    }

    fn copy_aside<T: Element>(&self, x: View<'_, Self, T>, out: ViewMut<'_, Self, T>) -> Result<()> {
        self.copy_beside_ops(x, out)
    }

    fn collect<T: Element>(&self, view: View<'_, Self, T>) -> Result<Vec<T>> {
        self.read_host(view)
    }

    fn runs_behind(&self) -> bool {
        true
    }

    fn most_screened(&self) -> usize {
        params::LINEAR_MAX_TOKENS as usize
    }

    fn clear<T: Element>(&self, out: ViewMut<'_, Self, T>) -> Result<()> {
        self.fill_zero(out)
    }

    fn synchronize(&self) -> Result<()> {
        self.wait()
    }

    fn warm_up(&self) {
        self.warming.open(&self.blas, &self.queue);
    }

    fn memory(&self) -> MemoryUse {
        self.queue.meter.read()
    }

    fn free_memory(&self) -> Option<usize> {
        self.free_and_total_memory().ok().map(|(free, _)| free)
    }

    fn restart_peak(&self) {
        self.queue.meter.restart_peak();
    }

    fn begin_profile(&self) -> Result<()> {
        self.profiler.begin();
        Ok(())
    }

    fn end_profile(&self) -> Result<Vec<OpTime>> {
        self.end_profiling()
    }

    fn timed(&self, op: &'static str, flops: f64, run: impl FnOnce() -> Result<()>) -> Result<()> {
        self.profiler.time(op, flops, || self.moment("profiling"), run)
    }

    fn replay(&self, graph: &mut Graph, step: impl FnMut() -> Result<()>) -> Result<()> {
        self.replay_graph(graph, step)
    }

    each_op! { dispatched(queue) }
}
