//! From a checked op to a launch: the only unsafe code of the ops on the CUDA side.
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
pub(super) mod gemm;
pub(super) mod qk_norm_rope;
pub(super) mod quantize;
pub(super) mod reduce;
pub(super) mod rms_norm;
pub(super) mod rows;
pub(super) mod sample;
pub(super) mod swiglu;

use super::{
    Cuda,
    params::{ELEMENTWISE_PER_THREAD, ELEMENTWISE_THREADS, Weight4Params},
    stream::{Kernel, LaunchConfig},
};
use crate::{DType, Error, Mat, MatMut, Result, quant};

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

/// `blocks` blocks in the first dimension of a grid, for an op on matrices or vectors of this `shape`.
fn grid(op: &'static str, shape: &[usize], blocks: usize) -> Result<u32> {
    i32::try_from(blocks).map(i32::unsigned_abs).map_err(|_| Error::Value {
        op,
        arg: "the shape",
        got: format!("{shape:?}, which takes {blocks} blocks"),
        want: "it must take fewer than 2^31; split it",
    })
}

/// Can rows that start at `ptr`, `stride` elements apart, be moved 16 bytes at a time?
fn is_aligned(ptr: *const core::ffi::c_void, stride: usize, dtype: DType) -> bool {
    ptr.addr().is_multiple_of(16) && (stride * dtype.bytes()).is_multiple_of(16)
}

/// The elements of one CTA of the kernels whose threads take neighbouring elements.
const ELEMENTWISE_CTA: usize = (ELEMENTWISE_THREADS * ELEMENTWISE_PER_THREAD) as usize;

/// The launch of a kernel over `rows` vectors of `len` elements, each in CTAs of its own.
fn elementwise(op: &'static str, [rows, len]: [usize; 2]) -> Result<LaunchConfig> {
    let blocks = rows.saturating_mul(len.div_ceil(ELEMENTWISE_CTA));
    Ok(LaunchConfig::new(grid(op, &[rows, len], blocks)?, ELEMENTWISE_THREADS))
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
