use super::{dim, weight4};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{DEQUANTIZE_PER_THREAD, DEQUANTIZE_THREADS, DequantizeParams, MatrixMut},
    },
    element::{DType, Float},
    error::Result,
    ops::Dequantize,
};

const DEQUANTIZE: Kernel<DequantizeParams> = Kernel::new("dequantize", "dequantize");
/// Weights of a CTA in one step.
const CTA: usize = (DEQUANTIZE_THREADS * DEQUANTIZE_PER_THREAD) as usize;
/// CTAs that fit on a multiprocessor: each makes its tables once.
const BLOCKS_PER_SM: usize = 8;

pub(in crate::cuda) fn dequantize<T: Float>(cuda: &Cuda, mut op: Dequantize<'_, Cuda, T>) -> Result<()> {
    let out = MatrixMut { ptr: op.out.ptr() as _, stride: dim(op.weight.cols) };
    let params = DequantizeParams { weight: weight4(&op.weight), out };
    // SAFETY: `Dequantize::verify` checked the weight and the output against its shape.
    unsafe { launch_dequantize(cuda, T::DTYPE, params) }
}

/// Queues the kernel, for an output of `dtype`.
///
/// # Safety
/// The pointers in `params` are live and as long as the weight's dimensions say, and the stride of `out`; where that is
/// not the number of columns, rows and codes are aligned to 16 bytes, and columns a multiple of 8.
pub(super) unsafe fn launch_dequantize(cuda: &Cuda, dtype: DType, params: DequantizeParams) -> Result<()> {
    let len = params.weight.rows as usize * params.weight.cols as usize;
    let blocks = len.div_ceil(CTA).min(cuda.n_sms as usize * BLOCKS_PER_SM);
    // SAFETY: this function's contract is that of `launch`: the kernel reads and writes `rows * cols` weights.
    unsafe { cuda.launch(&DEQUANTIZE, dtype.suffix(), params, LaunchConfig::new(dim(blocks), DEQUANTIZE_THREADS)) }
}
