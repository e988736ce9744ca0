use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, grid, is_aligned},
        params::{self, WeightGradParams},
    },
    element::{DType, Float},
    error::Result,
    ops::WeightGrad,
};

const MMA: Kernel<WeightGradParams> = Kernel::new("weight_grad", "weight_grad_mma");
const SIMT: Kernel<WeightGradParams> = Kernel::new("weight_grad", "weight_grad_simt");

/// Stages of tokens of both operands, of two bytes.
const MMA_SHARED: u32 =
    params::WEIGHT_GRAD_MMA_STAGES * params::WEIGHT_GRAD_MMA_TOKENS * 2 * params::WEIGHT_GRAD_MMA_TILE * 2;

/// May the tensor cores' kernel be used?
fn fits_tensor_cores(dtype: DType, p: &WeightGradParams) -> bool {
    dtype != DType::F32
        && p.rows.is_multiple_of(8)
        && p.cols.is_multiple_of(8)
        && p.x.is_aligned(dtype, 16)
        && p.d_out.is_aligned(dtype, 16)
        && is_aligned(p.d_weight.cast(), 0, 8)
}

pub(in crate::cuda) fn weight_grad<T: Float>(cuda: &Cuda, mut op: WeightGrad<'_, Cuda, T>) -> Result<()> {
    let ([n, cols], rows) = (op.x.shape(), op.d_out.shape()[1]);
    let params = WeightGradParams {
        x: op.x.matrix(),
        d_out: op.d_out.matrix(),
        d_weight: op.d_weight.ptr() as _,
        n: dim(n),
        rows: dim(rows),
        cols: dim(cols),
    };
    let (kernel, tile, shared) = match fits_tensor_cores(T::DTYPE, &params) {
        true => (&MMA, params::WEIGHT_GRAD_MMA_TILE, MMA_SHARED),
        false => (&SIMT, params::WEIGHT_GRAD_SIMT_TILE, 0),
    };
    let tiles = rows.div_ceil(tile as usize) * cols.div_ceil(tile as usize);
    let grid = [grid("weight_grad", &[n, rows, cols], tiles)?, 1, 1];
    let config = LaunchConfig { grid, threads: params::WEIGHT_GRAD_THREADS, shared };
    // SAFETY: `WeightGrad::verify` checked every shape; `fits_tensor_cores`, what that kernel demands beyond.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, config) }
}
