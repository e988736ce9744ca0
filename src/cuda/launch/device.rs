//! Opening a GPU and finding kernels.

use super::{blas::Blas, memory::Meter, refused, scratch::Scratch};
use crate::{Error, Result};
use cudarc::{
    driver::{CudaContext, CudaFunction, CudaModule, CudaStream, sys},
    nvrtc::Ptx,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// GPUs that the driver sees.
///
/// # Errors
/// There is no driver.
pub fn device_count() -> Result<usize> {
    // SAFETY: does nothing but try to open libcuda, which cudarc would panic about.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver);
    }
    let count = CudaContext::device_count().map_err(refused("counting CUDA devices"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

type Functions = HashMap<(&'static str, &'static str), (CudaFunction, u32)>;

/// One GPU and one stream on it.
pub struct Cuda {
    pub(super) stream: Arc<CudaStream>,
    pub(super) context: Arc<CudaContext>,
    pub(super) meter: Arc<Meter>,
    pub(super) n_sms: u32,
    /// Bytes of shared memory that one CTA can have.
    pub(super) max_shared: usize,
    pub(super) scratch: Scratch,
    pub(super) blas: Blas,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    functions: Mutex<Functions>,
}

/// The lock, also after a panic elsewhere: the maps are only ever added to.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cuda {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// This build has no kernels, there is no driver, or no such GPU.
    pub fn new(ordinal: usize) -> Result<Self> {
        if embedded::FATBINS.is_empty() {
            return Err(Error::NoKernels);
        }
        let count = device_count()?;
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(refused("opening the GPU"))?;
        // SAFETY: everything of this crate goes to one stream, in order; there is nothing for events to order.
        unsafe { context.disable_event_tracking() };
        // Not the default stream: that one cannot be recorded into a graph.
        let stream = context.new_stream().map_err(refused("making a stream"))?;
        let sms = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let n_sms = context.attribute(sms).map_err(refused("asking for the number of multiprocessors"))?;
        let shared = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let max_shared = context.attribute(shared).map_err(refused("asking for the size of shared memory"))?;
        Ok(Cuda {
            stream,
            context,
            meter: Arc::default(),
            n_sms: n_sms.unsigned_abs(),
            max_shared: max_shared.unsigned_abs() as usize,
            scratch: Scratch::default(),
            blas: Blas::default(),
            modules: Mutex::default(),
            functions: Mutex::default(),
        })
    }

    /// Name of the GPU and its number.
    pub(in crate::cuda) fn describe(&self) -> String {
        let name = self.context.name().unwrap_or_else(|_| "unknown GPU".into());
        format!("cuda:{} ({name})", self.context.ordinal())
    }

    /// Compute capability, as 90 for 9.0.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn compute_capability(&self) -> Result<u32> {
        let (major, minor) = self.context.compute_capability().map_err(refused("asking for the compute capability"))?;
        Ok((major * 10 + minor).unsigned_abs())
    }

    /// Free and total bytes of the GPU's memory.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn free_and_total_memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(refused("asking for free memory"))
    }

    /// Seconds that the GPU takes for what `work` queues, between two CUDA events; waits for it.
    ///
    /// # Errors
    /// Those of `work`, and what the driver refuses or reports.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let timing = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = self.stream.record_event(timing).map_err(refused("recording an event"))?;
        work()?;
        let end = self.stream.record_event(timing).map_err(refused("recording an event"))?;
        let milliseconds = start.elapsed_ms(&end).map_err(refused("timing what was queued"))?;
        Ok(f64::from(milliseconds) * 1e-3)
    }

    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(refused("making the GPU current"))
    }

    pub(in crate::cuda) fn wait(&self) -> Result<()> {
        self.stream.synchronize().map_err(refused("waiting for the GPU"))
    }

    /// The function `name_suffix` of `file`, allowed to use `shared` bytes of dynamic shared memory.
    pub(super) fn function(
        &self,
        file: &'static str,
        name: &'static str,
        suffix: &'static str,
        shared: u32,
    ) -> Result<CudaFunction> {
        /// What a kernel may use without asking.
        const DEFAULT_SHARED: u32 = 48 * 1024;
        let mut functions = lock(&self.functions);
        if let Some((function, allowed)) = functions.get(&(name, suffix))
            && shared <= *allowed
        {
            return Ok(function.clone());
        }
        let full = if suffix.is_empty() { name.to_string() } else { format!("{name}_{suffix}") };
        let missing = |e| Error::Launch { kernel: full.clone(), reason: super::describe(e) };
        let function = self.module(file)?.load_function(&full).map_err(missing)?;
        if shared > DEFAULT_SHARED {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared as i32).map_err(missing)?;
        }
        functions.insert((name, suffix), (function.clone(), shared.max(DEFAULT_SHARED)));
        Ok(function)
    }

    fn module(&self, file: &'static str) -> Result<Arc<CudaModule>> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(file) {
            return Ok(module.clone());
        }
        let (_, fatbin) = embedded::FATBINS.iter().find(|(name, _)| *name == file).ok_or(Error::NoKernels)?;
        let module = self
            .context
            .load_module(Ptx::from_binary(fatbin.to_vec()))
            .map_err(|e| Error::Launch { kernel: file.into(), reason: super::describe(e) })?;
        modules.insert(file, module.clone());
        Ok(module)
    }
}
