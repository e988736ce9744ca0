//! Opening a GPU and finding kernels.
#![allow(unsafe_code)]

use super::{
    blas::Blas,
    driver::refused,
    scratch::{Scratch, Slot},
    staging::Ring,
    stream::{Allocation, Bytes, Queue, Turn},
    warm_up::Background,
};
use crate::{
    error::{Error, Result},
    profile::{OpTime, Profiler},
};
use core::ffi::c_void;
use cudarc::{
    driver::{CudaContext, CudaEvent, CudaFunction, CudaModule, CudaStream, DriverError, sys},
    nvrtc::Ptx,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// The names of the kernel files in this build (none when it was built without nvcc).
pub fn kernels() -> Vec<&'static str> {
    embedded::FATBINS.iter().map(|(name, _)| *name).collect()
}

/// The architectures that the kernels were compiled for, such as `80,90a`.
pub fn architectures() -> &'static str {
    embedded::ARCHS
}

/// The version of the nvcc that compiled the kernels.
pub fn nvcc_version() -> &'static str {
    embedded::NVCC_VERSION
}

/// Whether there is a driver, found out without starting it.
pub fn has_driver() -> bool {
    // SAFETY: cudarc does nothing here but try to open libcuda, whose absence it would panic about elsewhere.
    unsafe { sys::is_culib_present() }
}

/// GPUs that the driver sees.
///
/// # Errors
/// There is no driver.
pub fn device_count() -> Result<usize> {
    if !has_driver() {
        return Err(Error::NoDriver);
    }
    let count = CudaContext::device_count().map_err(refused("counting CUDA devices"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Kernels by name and suffix; none where this build has no such kernel for this GPU.
type Functions = HashMap<(&'static str, &'static str), Option<Function>>;

/// A kernel of this GPU's module.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) function: CudaFunction,
    /// Bytes of dynamic shared memory that it may use.
    shared: u32,
    /// Whether it was compiled to wait for what was queued before it (`begin_kernel` in kernels/types.cuh), and so may
    /// be started early.
    pub(super) waits: bool,
}

/// One GPU and one stream on it. Threads may share it: each op has the stream to itself until it is queued.
///
/// The stream is its own, or one that others queue to as well ([`Cuda::on_stream`]).
pub struct Cuda {
    pub(super) queue: Arc<Queue>,
    /// The owner of what raw views show.
    pub(super) lent: Arc<Allocation>,
    pub(super) n_sms: u32,
    /// Bytes of device memory.
    pub(super) total_memory: usize,
    /// Bytes of shared memory that one CTA can have.
    pub(super) max_shared: usize,
    /// Whether kernels may be started before the one before them has ended.
    pub(super) early_launch: bool,
    /// Whether the kernel that was queued last writes a weight.
    pub(super) wrote_weights: AtomicBool,
    pub(super) scratch: Scratch<Cuda>,
    pub(super) blas: Arc<Blas>,
    pub(super) warming: Background,
    /// Made at the first copy from the host.
    pub(super) staging: Mutex<Option<Ring>>,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    functions: Mutex<Functions>,
    pub(super) profiler: Profiler<CudaEvent>,
}

impl Cuda {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// This build has no kernels, there is no driver, or no such GPU.
    pub fn new(ordinal: usize) -> Result<Self> {
        let context = open(ordinal)?;
        // SAFETY: everything of this crate goes to one stream, in order; there is nothing for events to order.
        unsafe { context.disable_event_tracking() };
        Self::with(Queue::new(&context)?, early_launch())
    }

    /// The GPU of a context of [`cudarc`], by a stream that others queue to as well (candle's `CudaDevice::cuda_stream`, for
    /// one): what is queued there before and behind ops of this crate is ordered with them, without waiting.
    ///
    /// No kernel is launched before what is queued ahead of it has ended, copies aside are made in the stream's order, and
    /// [`Backend::replay`](crate::backend::Backend::replay) runs its steps as they are: for many small ops halfbyte's own stream
    /// is faster. While somebody records a graph on the stream, nothing may be queued to it from here.
    ///
    /// # Errors
    /// This build has no kernels, the driver refuses, or it is the default stream of each thread, which is many.
    pub fn on_stream(stream: Arc<CudaStream>) -> Result<Self> {
        /// `CU_STREAM_PER_THREAD`.
        const PER_THREAD: usize = 2;
        if embedded::FATBINS.is_empty() {
            return Err(Error::NoKernels);
        }
        if stream.cu_stream().addr() == PER_THREAD {
            let (got, want) = ("the default stream of each thread".into(), "it must be the same in all; make one");
            return Err(Error::Value { op: "on_stream", arg: "the stream", got, want });
        }
        stream.context().bind_to_thread().map_err(refused("making the GPU current"))?;
        Self::with(Queue::on(stream), false)
    }

    /// As [`Cuda::on_stream`], on a `CUstream` (or `cudaStream_t`) of the primary context of GPU `ordinal`, which is where
    /// PyTorch, candle and all that use CUDA's runtime work. (Of another context, let [`cudarc`] make a stream.)
    ///
    /// # Errors
    /// This build has no kernels, there is no driver, no such GPU, or the stream is of another context.
    ///
    /// # Safety
    /// `stream` is a stream, or null for the default one, and lives until this `Cuda`, its buffers and its graphs are
    /// dropped.
    pub unsafe fn on_raw_stream(ordinal: usize, stream: *mut c_void) -> Result<Self> {
        let context = open(ordinal)?;
        let mut of = std::ptr::null_mut();
        // SAFETY: it is a stream, as the caller promises; the answer is written to `of`.
        unsafe { sys::cuStreamGetCtx(stream.cast(), &raw mut of) }.result().map_err(refused("asking for a context"))?;
        if of != context.cu_ctx() {
            return Err(Error::Foreign { op: "on_raw_stream", arg: "stream" });
        }
        // SAFETY: it was just seen to be of this context, and lives as long as the caller promises.
        Self::on_stream(unsafe { context.wrap_borrowed_stream(stream.cast()) })
    }

    /// Which GPU, as the driver counts them.
    pub fn ordinal(&self) -> usize {
        self.queue.context.ordinal()
    }

    /// The stream that all ops are queued to. Where it is halfbyte's own, others may wait for it and make it wait for their
    /// events; kernels that write what ops read they queue to a stream of theirs ([`Cuda::on_stream`]), since ops here begin
    /// to read weights before the kernel ahead of them has ended.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.queue.stream
    }

    fn with(queue: Queue, early_launch: bool) -> Result<Self> {
        let (context, queue) = (queue.context.clone(), Arc::new(queue));
        let sms = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let n_sms = context.attribute(sms).map_err(refused("asking for the number of multiprocessors"))?;
        let shared = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let max_shared = context.attribute(shared).map_err(refused("asking for the size of shared memory"))?;
        let (_, total_memory) = context.mem_get_info().map_err(refused("asking for the size of memory"))?;
        Ok(Cuda {
            lent: Arc::new(Allocation::new(Bytes::Lent, queue.clone())),
            queue,
            n_sms: n_sms.unsigned_abs(),
            total_memory,
            max_shared: max_shared.unsigned_abs() as usize,
            early_launch,
            wrote_weights: AtomicBool::new(false),
            scratch: Scratch::default(),
            blas: Arc::default(),
            warming: Background::default(),
            staging: Mutex::default(),
            modules: Mutex::default(),
            functions: Mutex::default(),
            profiler: Profiler::new(),
        })
    }

    /// Name of the GPU and its number.
    pub(super) fn describe(&self) -> String {
        let name = self.queue.context.name().unwrap_or_else(|_| "unknown GPU".into());
        format!("cuda:{} ({name})", self.queue.context.ordinal())
    }

    /// Compute capability, as 90 for 9.0.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn compute_capability(&self) -> Result<u32> {
        let (major, minor) =
            self.queue.context.compute_capability().map_err(refused("asking for the compute capability"))?;
        Ok((major * 10 + minor).unsigned_abs())
    }

    /// Free and total bytes of the GPU's memory.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn free_and_total_memory(&self) -> Result<(usize, usize)> {
        self.queue.context.mem_get_info().map_err(refused("asking for free memory"))
    }

    /// Seconds that the GPU takes for what `work` queues, between two CUDA events; waits for it.
    ///
    /// # Errors
    /// Those of `work`, and what the driver refuses or reports.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let start = self.moment("timing")?;
        work()?;
        seconds_between(&start, &self.moment("timing")?)
    }

    /// When the GPU comes here.
    pub(super) fn moment(&self, what: &'static str) -> Result<CudaEvent> {
        self.event(what, Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
    }

    pub(super) fn end_profiling(&self) -> Result<Vec<OpTime>> {
        self.profiler.end(seconds_between)
    }

    /// This thread's turn, with the GPU current in it.
    pub(super) fn turn(&self) -> Result<Turn<'_>> {
        let turn = self.queue.turn();
        self.queue.context.bind_to_thread().map_err(refused("making the GPU current"))?;
        Ok(turn)
    }

    /// Queues all of an op.
    pub(super) fn in_turn(&self, op: impl FnOnce() -> Result<()>) -> Result<()> {
        let _turn = self.turn()?;
        op()
    }

    /// The address of `len` elements of a scratch buffer: see [`Scratch::get`].
    pub(super) fn scratch<T>(&self, slot: Slot, len: usize) -> Result<*mut T> {
        self.scratch.get(self, slot, len)
    }

    fn event(&self, what: &'static str, flags: Option<sys::CUevent_flags>) -> Result<CudaEvent> {
        let _turn = self.queue.turn_outside_graphs(what)?;
        self.queue.stream.record_event(flags).map_err(refused("recording an event"))
    }

    /// Waits for what has been queued up to now; other threads may go on queueing.
    pub(super) fn wait(&self) -> Result<()> {
        self.event("waiting for the GPU", None)?.synchronize().map_err(refused("waiting for the GPU"))
    }

    /// The function `name_suffix` of `file`, allowed to use `shared` bytes of dynamic shared memory; none where this
    /// build does not have it for this GPU.
    pub(super) fn function(
        &self,
        file: &'static str,
        name: &'static str,
        suffix: &'static str,
        shared: u32,
    ) -> Result<Option<Function>> {
        /// What a kernel may use without asking.
        const DEFAULT_SHARED: u32 = 48 * 1024;
        /// The oldest virtual architecture with `griddepcontrol`.
        const WAITING: i32 = 90;
        let mut functions = self.functions.lock();
        match functions.get(&(name, suffix)) {
            None => {}
            Some(None) => return Ok(None),
            Some(Some(known)) if shared <= known.shared => return Ok(Some(known.clone())),
            Some(Some(_)) => {}
        }
        let full = full_name(name, suffix);
        let fail = |source| Error::Launch { kernel: full.clone(), source };
        let function = match self.module(file)?.load_function(&full) {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)) => {
                functions.insert((name, suffix), None);
                return Ok(None);
            }
            found => found.map_err(fail)?,
        };
        if shared > DEFAULT_SHARED {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared as i32).map_err(fail)?;
        }
        // Not the GPU's architecture: PTX of an older one, compiled by the driver, does not wait.
        let version = function.get_attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION).map_err(fail)?;
        let known = Function { function, shared: shared.max(DEFAULT_SHARED), waits: version >= WAITING };
        functions.insert((name, suffix), Some(known.clone()));
        Ok(Some(known))
    }

    fn module(&self, file: &'static str) -> Result<Arc<CudaModule>> {
        let mut modules = self.modules.lock();
        if let Some(module) = modules.get(file) {
            return Ok(module.clone());
        }
        let (_, fatbin) = embedded::FATBINS.iter().find(|(name, _)| *name == file).ok_or(Error::NoKernels)?;
        let module = self
            .queue
            .context
            .load_module(Ptx::from_binary(fatbin.to_vec()))
            .map_err(|source| Error::Launch { kernel: file.into(), source })?;
        modules.insert(file, module.clone());
        Ok(module)
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cuda").field(&self.describe()).finish()
    }
}

/// The primary context of a GPU.
fn open(ordinal: usize) -> Result<Arc<CudaContext>> {
    if embedded::FATBINS.is_empty() {
        return Err(Error::NoKernels);
    }
    let count = device_count()?;
    if ordinal >= count {
        return Err(Error::NoDevice { ordinal, count });
    }
    CudaContext::new(ordinal).map_err(refused("opening the GPU"))
}

/// Whether kernels may be launched early where all that is queued is this crate's.
fn early_launch() -> bool {
    std::env::var_os("HALFBYTE_NO_EARLY_LAUNCH").is_none_or(|v| v.is_empty() || v == "0")
}

/// Waits until the GPU has come to the second moment.
fn seconds_between(start: &CudaEvent, end: &CudaEvent) -> Result<f64> {
    let milliseconds = start.elapsed_ms(end).map_err(refused("timing what was queued"))?;
    Ok(f64::from(milliseconds) * 1e-3)
}

/// A function's name in its module.
pub(super) fn full_name(name: &str, suffix: &str) -> String {
    if suffix.is_empty() { name.into() } else { format!("{name}_{suffix}") }
}

/// The GPU, for tests; without one, none and a word about it, or a failure under `HALFBYTE_REQUIRE_CUDA=1`.
#[cfg(test)]
pub(super) fn gpu() -> Option<Cuda> {
    match Cuda::new(0) {
        Ok(cuda) => Some(cuda),
        Err(e) if std::env::var_os("HALFBYTE_REQUIRE_CUDA").is_some_and(|v| v == "1") => {
            panic!("HALFBYTE_REQUIRE_CUDA=1, but: {e}")
        }
        Err(e) => {
            eprintln!("skipped on the GPU: {e}");
            None
        }
    }
}
