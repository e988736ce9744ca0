//! The one place where kernels are launched.
#![allow(unsafe_code)]

use super::device::{Cuda, Function, full_name};
use crate::error::{Error, Result};
use cudarc::driver::{DriverError, sys};
use std::{marker::PhantomData, ptr::null_mut, sync::atomic::Ordering};

/// A kernel whose only argument is one `P`, by value: `file` names the fatbin, `name` the function without its
/// type suffix.
pub(super) struct Kernel<P> {
    pub(super) file: &'static str,
    pub(super) name: &'static str,
    params: PhantomData<fn(P)>,
}

impl<P> Kernel<P> {
    pub(super) const fn new(file: &'static str, name: &'static str) -> Self {
        Kernel { file, name, params: PhantomData }
    }
}

/// The fatbin of the kernels that write 4-bit weights.
///
/// A kernel that is started early reads a weight before it waits for the kernel before it (kernels/gemv4.cuh): it may
/// not be started early after one of these. It need not look further back: the kernel after these begins when they are done,
/// and those after it begin later.
const WRITE_WEIGHTS: &str = "quantize";

/// Blocks, threads of a block, bytes of dynamic shared memory.
#[derive(Clone, Copy)]
pub(super) struct LaunchConfig {
    pub(super) grid: [u32; 3],
    pub(super) threads: u32,
    pub(super) shared: u32,
}

impl LaunchConfig {
    pub(super) fn new(blocks: u32, threads: u32) -> Self {
        LaunchConfig { grid: [blocks, 1, 1], threads, shared: 0 }
    }
}

impl Cuda {
    /// Whether this build has `kernel` for this GPU: some are compiled for some architectures only.
    pub(super) fn has<P>(&self, kernel: &Kernel<P>, suffix: &'static str) -> Result<bool> {
        Ok(self.function(kernel.file, kernel.name, suffix, 0)?.is_some())
    }

    /// Queues `kernel`; its function is `name_suffix`, or `name` without a suffix. Nothing is queued for an empty grid.
    ///
    /// # Safety
    /// The pointers in `params` must be as long as its dimensions say, and stay live until the stream has
    /// passed this launch.
    pub(super) unsafe fn launch<P: Copy>(
        &self,
        kernel: &Kernel<P>,
        suffix: &'static str,
        params: P,
        config: LaunchConfig,
    ) -> Result<()> {
        if config.grid.contains(&0) {
            return Ok(());
        }
        let name = || full_name(kernel.name, suffix);
        let function = self
            .function(kernel.file, kernel.name, suffix, config.shared)?
            .ok_or_else(|| Error::NoKernel { kernel: name() })?;
        let after_weights = self.wrote_weights.swap(kernel.file == WRITE_WEIGHTS, Ordering::Relaxed);
        let early = function.waits && self.early_launch && !after_weights;
        // SAFETY: every kernel takes the one `P` that its `Kernel` names; that its pointers are live and long enough is
        // promised to this function, whose contract that is. It waits for the kernel before it where it has to.
        unsafe { self.queue_kernel(&function, params, config, early) }
            .map_err(|source| Error::Launch { kernel: name(), source })
    }

    /// Queues a kernel; `early`: it may be started while the one before it still runs, since it waits for that itself
    /// (programmatic dependent launch). What it does before overlaps, and so does its start.
    ///
    /// # Safety
    /// As for [`Cuda::launch`]; the kernel takes one `P`, and what it reads before it waits, the kernel before it does
    /// not write.
    unsafe fn queue_kernel<P: Copy>(
        &self,
        kernel: &Function,
        mut params: P,
        config: LaunchConfig,
        early: bool,
    ) -> Result<(), DriverError> {
        let value = sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        let mut attributes = [sys::CUlaunchAttribute { id, pad: [0; 4], value }];
        let [x, y, z] = config.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: config.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: config.shared,
            hStream: self.queue.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: early.into(),
        };
        let mut arguments = [(&raw mut params).cast()];
        // SAFETY: the stream and the function live as long as `self`; the driver copies attributes and params before it
        // returns. bindgen made every `P` that a `Kernel` names from kernels/params.h, which the kernels include. Of the
        // pointers in it, this function's contract says the rest.
        unsafe { sys::cuLaunchKernelEx(&config, kernel.function.cu_function(), arguments.as_mut_ptr(), null_mut()) }
            .result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::device::gpu;

    #[test]
    fn a_kernel_that_this_build_does_not_have_is_not_there() {
        let Some(cuda) = gpu() else { return };
        let kernel = |name| Kernel::<()>::new("cast", name);
        assert!(cuda.has(&kernel("cast"), "f32_f32").unwrap());
        assert!(!cuda.has(&kernel("cast"), "f32_f64").unwrap());
        // SAFETY: nothing is launched, since there is no such kernel.
        let error = unsafe { cuda.launch(&kernel("no"), "", (), LaunchConfig::new(1, 32)) }.unwrap_err().to_string();
        assert!(error.contains("`no`") && error.contains("HALFBYTE_CUDA_ARCHS"), "{error}");
    }
}
