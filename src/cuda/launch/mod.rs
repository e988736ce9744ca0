//! From a checked op to a launch: the only unsafe code of the CUDA side.
//!
//! What every SAFETY comment below rests on: an op that reaches this module was verified (`ops::Checked`), a view
//! borrows memory that is live and as long as it says, and all work of a [`Cuda`] goes to one stream,
//! in order, so that memory freed in stream order is never freed under a kernel.
#![allow(unsafe_code)]

pub(super) mod adamw;
pub(super) mod attention;
pub(super) mod cast;
pub(super) mod cross_entropy;
pub(super) mod decode_attention;
pub(super) mod dequantize;
pub(super) mod linear;
pub(super) mod linear4;
pub(super) mod lora;
pub(super) mod qk_norm_rope;
pub(super) mod quantize;
pub(super) mod reduce;
pub(super) mod rms_norm;
pub(super) mod rows;
pub(super) mod sample;
pub(super) mod swiglu;
pub(super) mod weight_grad;

mod blas;
mod device;
mod graph;
mod memory;
mod product;
mod scratch;

pub use blas::has_cublaslt;
pub use device::{Cuda, architectures, device_count, kernels, nvcc_version};
pub use graph::Graph;
pub use memory::Memory;

use crate::{DType, Error, Mat, MatMut, Result, cuda::params::Weight4Params, quant};
use cudarc::driver::{CudaFunction, DeviceRepr, DriverError, LaunchConfig, PushKernelArg};
use std::marker::PhantomData;

/// A kernel whose only argument is one `P`, by value: `file` names the fatbin, `name` the function without its
/// type suffix.
struct Kernel<P> {
    file: &'static str,
    name: &'static str,
    params: PhantomData<fn(P)>,
}

impl<P> Kernel<P> {
    const fn new(file: &'static str, name: &'static str) -> Self {
        Kernel { file, name, params: PhantomData }
    }
}

/// Blocks, threads of a block, bytes of dynamic shared memory.
#[derive(Clone, Copy)]
struct Shape {
    grid: [u32; 3],
    threads: u32,
    shared: u32,
}

impl Shape {
    fn new(blocks: u32, threads: u32) -> Self {
        Shape { grid: [blocks, 1, 1], threads, shared: 0 }
    }
}

/// `P` as a kernel argument.
#[repr(transparent)]
struct Argument<P>(P);

// SAFETY: every `P` used here is a plain C struct, generated from the header that the kernels include.
unsafe impl<P: Copy> DeviceRepr for Argument<P> {}

impl Cuda {
    /// Queues `kernel`; its function is `name_suffix`, or `name` without a suffix. Nothing is queued for an empty grid.
    ///
    /// # Safety
    /// The pointers in `params` must be as long as its dimensions say, and stay live until the stream has
    /// passed this launch.
    unsafe fn launch<P: Copy>(&self, kernel: &Kernel<P>, suffix: &'static str, params: P, shape: Shape) -> Result<()> {
        if shape.grid.contains(&0) {
            return Ok(());
        }
        let function: CudaFunction = self.function(kernel.file, kernel.name, suffix, shape.shared)?;
        let config = LaunchConfig {
            grid_dim: shape.grid.into(),
            block_dim: (shape.threads, 1, 1),
            shared_mem_bytes: shape.shared,
        };
        let argument = Argument(params);
        // SAFETY: the kernel takes one `P` (kernels/params.h); the rest is the caller's word.
        unsafe { self.stream.launch_builder(&function).arg(&argument).launch(config) }
            .map(drop)
            .map_err(|e| Error::Launch { kernel: format!("{}_{suffix}", kernel.name), reason: describe(e) })
    }
}

/// What the driver says, in words.
fn describe(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("{error:?}"),
    }
}

/// The driver refused `what`.
fn refused(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { what, reason: describe(error) }
}

/// A dimension as kernels count. `ops::Check::dims` has refused what does not fit.
fn dim(value: usize) -> u32 {
    value as u32
}

impl<T: crate::Element> Mat<'_, Cuda, T> {
    fn ptr(&self) -> *const core::ffi::c_void {
        self.view.ptr() as _
    }
}

impl<T: crate::Element> MatMut<'_, Cuda, T> {
    fn ptr(&mut self) -> *mut core::ffi::c_void {
        self.view.ptr() as _
    }
}

/// CTAs of 256 threads of 8 elements each.
fn flat_blocks(op: &'static str, len: usize) -> Result<u32> {
    let blocks = len.div_ceil(8 * 256);
    match i32::try_from(blocks) {
        Ok(blocks) => Ok(blocks.unsigned_abs()),
        Err(_) => Err(Error::Value { op, arg: "the length", got: len.to_string(), want: "it must be below 2^42" }),
    }
}

/// A weight as kernels take it.
fn weight4(weight: &quant::Weight4<'_, Cuda>) -> Weight4Params {
    let (absmax, absmax_codes, groups) = match &weight.scales {
        quant::Scales::Plain(absmax) => (absmax.ptr(), 0, 0),
        quant::Scales::Nested { codes, groups } => (0, codes.ptr(), groups.ptr()),
    };
    Weight4Params {
        codes: weight.codes.ptr() as _,
        absmax: absmax as _,
        absmax_codes: absmax_codes as _,
        groups: groups as _,
        rows: dim(weight.rows),
        cols: dim(weight.cols),
        block_shift: weight.block_size.trailing_zeros(),
        fp4: u32::from(weight.format == quant::Format::Fp4),
    }
}

/// The suffix of kernels with an output type of their own: `bf16`, or `bf16_f32`.
fn suffix_out(input: DType, output: DType) -> &'static str {
    match (input, output) {
        (DType::Bf16, DType::F32) => "bf16_f32",
        (DType::F16, DType::F32) => "f16_f32",
        (input, _) => input.suffix(),
    }
}
