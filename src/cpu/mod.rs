//! The CPU backend: vectorised (run-time dispatch) and threaded. The default where there is no GPU.
mod adamw;
mod attention;
mod attention_grad;
mod cast;
mod cross_entropy;
mod decode_attention;
mod dequantize;
mod dequantize_rows;
mod device;
mod dora;
mod flash;
mod gemm;
mod math;
mod memory;
mod noise;
#[cfg(target_os = "linux")]
mod pages;
mod par;
mod pool;
mod qk_norm_rope;
mod quantize;
mod reduce;
mod rms_norm;
mod rows;
mod sample;
mod simd;
mod swiglu;

pub use device::Cpu;
pub use gemm::screen::screen_codes;
pub use memory::Memory;
pub use pool::{MAX_THREADS, set_threads, threads};
pub use simd::{VARIABLE, check_level, features};

use crate::{
    backend::{Backend, each_op},
    buffer::{Buf, View, ViewMut},
    compiled::{Compiled, CompiledWith, compile, compiled, compiled_with, dispatched},
    element::{Element, Float},
    error::{Count, Result},
    host,
    meter::MemoryUse,
    ops::{self, Check, Checked},
    profile::OpTime,
};
use half::{bf16, f16};
use std::time::Instant;

macro_rules! run {
    ($cpu:expr, $op:expr, $($function:ident)::+) => {{
        let _: &Cpu = $cpu;
        $($function)::+($op);
        Ok(())
    }};
}

compile! { Cpu by run }

impl Backend for Cpu {
    type Graph = ();

    fn name(&self) -> String {
        format!("cpu ({}, {})", simd::level(), Count(pool::threads(), "thread"))
    }

    fn zeros<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        Memory::zeros(len).map(Buf)
    }

    fn upload<T: Element>(&self, host: &[T]) -> Result<Buf<Self, T>> {
        Memory::copy(host).map(Buf)
    }

    fn download<T: Element>(&self, view: View<'_, Self, T>) -> Result<Vec<T>> {
        memory::copy(view.slice())
    }

    fn write<T: Element>(&self, host: &[T], out: ViewMut<'_, Self, T>) -> Result<()> {
        Check::new("write", self).len_mut("out", &out, host.len())?;
        out.into_slice().copy_from_slice(host);
        Ok(())
    }

    fn copy<T: Element>(&self, x: View<'_, Self, T>, out: ViewMut<'_, Self, T>) -> Result<()> {
        Check::new("copy", self).len_mut("out", &out, x.len())?;
        out.into_slice().copy_from_slice(x.slice());
        Ok(())
    }

    fn clear<T: Element>(&self, out: ViewMut<'_, Self, T>) -> Result<()> {
        out.into_slice().fill(T::zeroed());
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    /// Of all `Cpu`s of the process.
    fn memory(&self) -> MemoryUse {
        host::BUFFERS.read()
    }

    fn most_screened(&self) -> usize {
        simd::gemv::MAX_ROWS
    }

    fn free_memory(&self) -> Option<usize> {
        host::free()
    }

    fn restart_peak(&self) {
        host::BUFFERS.restart_peak();
    }

    fn begin_profile(&self) -> Result<()> {
        device::PROFILER.begin();
        Ok(())
    }

    fn end_profile(&self) -> Result<Vec<OpTime>> {
        device::PROFILER.end(|began, ended| Ok(ended.duration_since(*began).as_secs_f64()))
    }

    fn timed(&self, op: &'static str, flops: f64, run: impl FnOnce() -> Result<()>) -> Result<()> {
        device::PROFILER.time(op, flops, || Ok(Instant::now()), run)
    }

    fn replay(&self, _graph: &mut (), mut step: impl FnMut() -> Result<()>) -> Result<()> {
        step()
    }

    each_op! { dispatched(run) }
}
