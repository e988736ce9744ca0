//! | tokens | alignment | kernel |
//! |---|---|---|
//! | up to 16, forward | 16 bytes, bf16 or f16 | `skinny`: reads the weight once, straight into the tensor cores |
//! | more, or a gradient | the same | cuBLASLt; `mma` where it is not installed |
//! | up to 8, forward | any, and f32 | `simt_rows`: one warp for each output |
//! | more, or a gradient | any, and f32 | `simt`: FMA |

use super::{
    Gemm, SKINNY_ROWS,
    plan::{self, GemmKernels, GemmPlan, GemmWeight, gemm_kernels},
    run_blas,
};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::dim,
        params::{self, LinearParams, Matrix},
    },
    element::Float,
    error::Result,
    ops::{Linear, LinearGrad},
};

const FORWARD: GemmKernels<LinearParams> = gemm_kernels!("linear", "linear", params::GEMM_MMA_DENSE_STAGES);
const GRAD: GemmKernels<LinearParams> = gemm_kernels!("linear", "linear_grad", params::GEMM_MMA_DENSE_STAGES);
const SKINNY8: Kernel<LinearParams> = Kernel::new("linear", "linear_skinny8");
const SKINNY16: Kernel<LinearParams> = Kernel::new("linear", "linear_skinny16");

/// A dense weight of the input type.
#[derive(Clone, Copy)]
pub(super) struct Dense {
    pub(super) weight: Matrix,
    /// Kernels that still run do not write it.
    settled: bool,
}

impl Dense {
    pub(super) fn new(weight: Matrix) -> Self {
        Dense { weight, settled: false }
    }
}

impl GemmWeight for Dense {
    type Params = LinearParams;

    fn params(self, gemm: &Gemm, partial: *mut f32, splits: usize) -> LinearParams {
        let (rows, cols) = gemm.weight_shape();
        LinearParams {
            x: gemm.x,
            weight: self.weight,
            out: gemm.out,
            partial,
            n: dim(gemm.n),
            rows: dim(rows),
            cols: dim(cols),
            accumulate: gemm.accumulate.into(),
            splits: dim(splits),
            settled: self.settled.into(),
        }
    }
}

pub(in crate::cuda) fn linear<T: Float, O: Float>(cuda: &Cuda, mut op: Linear<'_, Cuda, T, O>) -> Result<()> {
    let gemm = Gemm::new("linear", false, &op.x, &mut op.out, op.accumulate);
    // SAFETY: `Linear::verify` checked the shapes of `x`, `out` and the weight against each other.
    unsafe { dense(cuda, &gemm, Dense { weight: op.weight.matrix(), settled: op.settled }) }
}

pub(in crate::cuda) fn linear_grad<T: Float>(cuda: &Cuda, mut op: LinearGrad<'_, Cuda, T>) -> Result<()> {
    let gemm = Gemm::new("linear_grad", true, &op.d_out, &mut op.d_x, op.accumulate);
    // SAFETY: `LinearGrad::verify` checked the shapes of `d_out`, `d_x` and the weight against each other.
    unsafe { dense(cuda, &gemm, Dense::new(op.weight.matrix())) }
}

/// Queues a product with a dense weight, by the table above.
///
/// # Safety
/// As for [`GemmPlan::run`].
pub(super) unsafe fn dense(cuda: &Cuda, gemm: &Gemm, weight: Dense) -> Result<()> {
    let kernels = if gemm.grad { &GRAD } else { &FORWARD };
    let plan = if !gemm.x_fits_tensor_cores() || !weight.weight.is_aligned(gemm.input, 16) {
        plan::simt(cuda, gemm, kernels)?
    } else if gemm.is_skinny() {
        skinny(cuda, gemm)
    // SAFETY: this function's contract is that of `run_blas`.
    } else if unsafe { run_blas(cuda, gemm, weight.weight) }? {
        return Ok(());
    } else {
        plan::mma(cuda, gemm, kernels)?
    };
    // SAFETY: this function's contract is that of `run`; the plan was made for this product, and by the alignment that
    // its kernel demands.
    unsafe { plan.run(cuda, gemm, weight) }
}

/// As many CTAs as run at once, which walk over the rows of the weight.
fn skinny(cuda: &Cuda, gemm: &Gemm) -> GemmPlan<LinearParams> {
    let (kernel, ctas) = match gemm.n {
        0..=8 => (&SKINNY8, params::LINEAR_SKINNY8_CTAS),
        _ => (&SKINNY16, params::LINEAR_SKINNY16_CTAS),
    };
    let most = if gemm.n == 0 { 0 } else { cuda.n_sms * ctas };
    let blocks = dim(gemm.m.div_ceil(SKINNY_ROWS)).min(most);
    let config = LaunchConfig::new(blocks, params::LINEAR_SKINNY_THREADS);
    GemmPlan { kernel, config, splits: 1, in_scratch: false }
}
