use super::{Cuda, Kernel, Shape, dim, weight4};
use crate::{Float, Result, cuda::params::DequantizeParams, ops::Dequantize};

const DEQUANTIZE: Kernel<DequantizeParams> = Kernel::new("dequantize", "dequantize");
const THREADS: u32 = 256;
/// Weights of a thread in one step.
const PER_THREAD: usize = 32;
/// CTAs that fit on a multiprocessor: each makes its tables once.
const BLOCKS_PER_SM: usize = 8;

pub(in crate::cuda) fn dequantize<T: Float>(cuda: &Cuda, mut op: Dequantize<'_, Cuda, T>) -> Result<()> {
    let params = DequantizeParams { weight: weight4(&op.weight), out: op.out.ptr() as _ };
    let blocks = op.out.len().div_ceil(PER_THREAD * THREADS as usize);
    let blocks = blocks.min(cuda.n_sms as usize * BLOCKS_PER_SM);
    // SAFETY: `Dequantize::verify` checked the weight and the output against its shape.
    unsafe { cuda.launch(&DEQUANTIZE, T::DTYPE.suffix(), params, Shape::new(dim(blocks), THREADS)) }
}
