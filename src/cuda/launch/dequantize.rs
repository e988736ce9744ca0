use super::{dim, grid, weight4};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{DEQUANTIZE_PER_THREAD, DEQUANTIZE_THREADS, DequantizeParams, MatrixMut, Weight4Params},
    },
    element::{DType, Float},
    error::Result,
    ops::Dequantize,
};
use std::ptr::null;

const DEQUANTIZE: Kernel<DequantizeParams> = Kernel::new("dequantize", "dequantize");
/// Weights of a CTA.
const CTA: usize = (DEQUANTIZE_THREADS * DEQUANTIZE_PER_THREAD) as usize;

impl DequantizeParams {
    /// No weight.
    pub(super) const NONE: Self = DequantizeParams {
        weight: Weight4Params {
            codes: null(),
            absmax: null(),
            absmax_codes: null(),
            groups: null(),
            rows: 0,
            cols: 0,
            block_shift: 0,
            fp4: 0,
        },
        out: MatrixMut::NONE,
    };

    /// The CTAs that it takes.
    pub(super) fn blocks(&self) -> Result<u32> {
        let shape = [self.weight.rows, self.weight.cols].map(|len| len as usize);
        grid("dequantize", &shape, shape.iter().product::<usize>().div_ceil(CTA))
    }
}

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
    let config = LaunchConfig::new(params.blocks()?, DEQUANTIZE_THREADS);
    // SAFETY: this function's contract is that of `launch`: the kernel reads and writes `rows * cols` weights.
    unsafe { cuda.launch(&DEQUANTIZE, dtype.suffix(), params, config) }
}
