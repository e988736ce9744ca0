use super::{dim, grid};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{DEQUANTIZE_ROWS_THREADS, DequantizeRowsParams},
    },
    element::Float,
    error::Result,
    ops::{DequantizeRows, KvMut},
};
use core::ffi::c_void;
use std::ptr::null_mut;

const DEQUANTIZE_ROWS: Kernel<DequantizeRowsParams> = Kernel::new("dequantize_rows", "dequantize_rows");

/// A cache as kernels take it: without scales, keys and values are of the compute type.
pub(super) struct CacheParams {
    pub k: *mut c_void,
    pub v: *mut c_void,
    pub k_scales: *mut f32,
    pub v_scales: *mut f32,
}

impl CacheParams {
    pub const NONE: Self = CacheParams { k: null_mut(), v: null_mut(), k_scales: null_mut(), v_scales: null_mut() };

    pub fn new<T: Float>(cache: &mut KvMut<'_, Cuda, T>) -> Self {
        match cache {
            KvMut::Plain { k, v } => CacheParams { k: k.ptr() as _, v: v.ptr() as _, ..Self::NONE },
            KvMut::Int8 { k, v, k_scales, v_scales } => CacheParams {
                k: k.ptr() as _,
                v: v.ptr() as _,
                k_scales: k_scales.ptr() as _,
                v_scales: v_scales.ptr() as _,
            },
        }
    }
}

pub(in crate::cuda) fn dequantize_rows<T: Float>(cuda: &Cuda, mut op: DequantizeRows<'_, Cuda, T>) -> Result<()> {
    let ([n, width], heads) = (op.codes.shape(), op.scales.shape()[0]);
    let params = DequantizeRowsParams {
        codes: op.codes.matrix(),
        scales: op.scales.matrix(),
        out: op.out.matrix(),
        n: dim(n),
        heads: dim(heads),
        dim: dim(op.dim),
    };
    let rows = if width == 0 { 0 } else { grid("dequantize_rows", &[n, width], n)? };
    // SAFETY: `DequantizeRows::verify` checked every shape; eight columns are of one head, and of one row.
    unsafe {
        cuda.launch(&DEQUANTIZE_ROWS, T::DTYPE.suffix(), params, LaunchConfig::new(rows, DEQUANTIZE_ROWS_THREADS))
    }
}
