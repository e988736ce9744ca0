//! From a checked op to a launch: the only unsafe code of the ops on the CUDA side.
//!
//! What every SAFETY comment below rests on: an op that reaches this module was verified (`ops::Checked`), a view
//! borrows memory that is live and as long as it says, and all work of a [`Cuda`] goes to one stream,
//! in order, so that memory freed in stream order is never freed under a kernel.
#![allow(unsafe_code)]

pub(super) mod adamw;
pub(super) mod attention;
mod attention_wgmma;
pub(super) mod cast;
mod copied;
pub(super) mod cross_entropy;
pub(super) mod decode_attention;
pub(super) mod dequantize;
pub(super) mod dequantize_rows;
pub(super) mod dora;
pub(super) mod gemm;
pub(super) mod noise;
pub(super) mod qk_norm_rope;
pub(super) mod quantize;
pub(super) mod reduce;
pub(super) mod rms_norm;
pub(super) mod rows;
pub(super) mod sample;
pub(super) mod swiglu;

use super::{
    device::Cuda,
    kernel::LaunchConfig,
    params::{ELEMENTWISE_PER_THREAD, ELEMENTWISE_THREADS, Matrix, MatrixMut, Weight4Params},
};
use crate::{
    buffer::{Mat, MatMut},
    element::{DType, Element},
    error::{Error, Result},
    ops::Heads,
    quant,
};
use core::ffi::c_void;
use std::ptr::{null, null_mut};

/// A dimension as kernels count. `ops::Check::dims` has refused what does not fit.
fn dim(value: usize) -> u32 {
    value as u32
}

impl<T: Element> Mat<'_, Cuda, T> {
    /// As kernels take it.
    fn matrix(&self) -> Matrix {
        Matrix { ptr: self.view.ptr() as _, stride: dim(self.stride) }
    }
}

impl<T: Element> MatMut<'_, Cuda, T> {
    /// As kernels take it.
    fn matrix(&mut self) -> MatrixMut {
        MatrixMut { ptr: self.view.ptr() as _, stride: dim(self.stride) }
    }
}

impl Matrix {
    /// What an optional argument is when it is not there.
    const NONE: Self = Matrix { ptr: null(), stride: 0 };

    /// Can its rows be moved `bytes` at a time?
    fn is_aligned(&self, dtype: DType, bytes: usize) -> bool {
        is_aligned(self.ptr, self.stride as usize * dtype.bytes(), bytes)
    }
}

impl MatrixMut {
    const NONE: Self = MatrixMut { ptr: null_mut(), stride: 0 };

    fn as_const(self) -> Matrix {
        Matrix { ptr: self.ptr, stride: self.stride }
    }

    fn is_aligned(&self, dtype: DType, bytes: usize) -> bool {
        self.as_const().is_aligned(dtype, bytes)
    }
}

/// Can what begins at `ptr`, and again `stride` bytes further on, be moved `bytes` at a time?
fn is_aligned(ptr: *const c_void, stride: usize, bytes: usize) -> bool {
    ptr.addr().is_multiple_of(bytes) && stride.is_multiple_of(bytes)
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

/// The elements of one CTA of the kernels whose threads take neighbouring elements.
const ELEMENTWISE_CTA: usize = (ELEMENTWISE_THREADS * ELEMENTWISE_PER_THREAD) as usize;

/// The launch of a kernel over `rows` vectors of `len` elements, each in CTAs of its own.
fn elementwise(op: &'static str, [rows, len]: [usize; 2]) -> Result<LaunchConfig> {
    let blocks = rows.saturating_mul(len.div_ceil(ELEMENTWISE_CTA));
    Ok(LaunchConfig::new(grid(op, &[rows, len], blocks)?, ELEMENTWISE_THREADS))
}

/// The same kernel for heads of 32, 64 and 128 elements.
macro_rules! by_head_dim {
    ($file:literal, $($name:tt)+) => {
        [
            Kernel::new($file, concat!($($name)+, "_d32")),
            Kernel::new($file, concat!($($name)+, "_d64")),
            Kernel::new($file, concat!($($name)+, "_d128")),
        ]
    };
}
use by_head_dim;

/// Where a kernel for these heads stands in such a table.
fn head_dim_index(heads: &Heads) -> usize {
    match heads.dim {
        32 => 0,
        64 => 1,
        _ => 2,
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
