use super::{dim, elementwise, gemm::lora::dropout_params, grid};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{
            DORA_GRAD_COLUMNS, DORA_GRAD_ROWS, DORA_THREADS, DoraGradParams, DoraNormsParams, DoraParams,
            DroppedParams, MatrixMut, RowSquaresParams,
        },
    },
    element::Float,
    error::Result,
    ops::{Dora, DoraGrad, DoraNorms, Dropped, RowSquares},
};

const ROW_SQUARES: Kernel<RowSquaresParams> = Kernel::new("dora", "row_squares");
const DORA_NORMS: Kernel<DoraNormsParams> = Kernel::new("dora", "dora_norms");
const DORA: Kernel<DoraParams> = Kernel::new("dora", "dora");
const DORA_GRAD: Kernel<DoraGradParams> = Kernel::new("dora", "dora_grad");
const DROPPED: Kernel<DroppedParams> = Kernel::new("dora", "dropped");
/// Outputs of a CTA of [`DORA_NORMS`], a warp for each.
const NORMS_CTA: usize = DORA_THREADS as usize / 32;

pub(in crate::cuda) fn row_squares<T: Float>(cuda: &Cuda, mut op: RowSquares<'_, Cuda, T>) -> Result<()> {
    let [n, d] = op.x.shape();
    let params = RowSquaresParams { x: op.x.matrix(), out: op.out.ptr() as _, n: dim(n), d: dim(d) };
    // SAFETY: `RowSquares::verify` checked the shapes against `params.n` and `params.d`.
    unsafe { cuda.launch(&ROW_SQUARES, T::DTYPE.suffix(), params, LaunchConfig::new(dim(n), DORA_THREADS)) }
}

pub(in crate::cuda) fn dora_norms<T: Float>(cuda: &Cuda, mut op: DoraNorms<'_, Cuda, T>) -> Result<()> {
    let [rank, outputs] = op.products.shape();
    let params = DoraNormsParams {
        squares: op.squares.ptr() as _,
        products: op.products.matrix(),
        gram: op.gram.ptr() as _,
        b: op.b.ptr() as _,
        norms: op.norms.ptr() as _,
        outputs: dim(outputs),
        rank: dim(rank),
        scale: op.scale,
    };
    let config = LaunchConfig::new(dim(outputs.div_ceil(NORMS_CTA)), DORA_THREADS);
    // SAFETY: `DoraNorms::verify` checked every length against `params.outputs` and `params.rank`.
    unsafe { cuda.launch(&DORA_NORMS, T::DTYPE.suffix(), params, config) }
}

pub(in crate::cuda) fn dora<T: Float>(cuda: &Cuda, mut op: Dora<'_, Cuda, T>) -> Result<()> {
    let [n, outputs] = op.z.shape();
    let params = DoraParams {
        z: op.z.matrix(),
        magnitude: op.magnitude.ptr() as _,
        norms: op.norms.ptr() as _,
        sum: op.sum.as_mut().map_or(MatrixMut::NONE, |sum| sum.matrix()),
        n: dim(n),
        outputs: dim(outputs),
    };
    // SAFETY: `Dora::verify` checked every shape against `params.n` and `params.outputs`.
    unsafe { cuda.launch(&DORA, T::DTYPE.suffix(), params, elementwise("dora", [n, outputs])?) }
}

pub(in crate::cuda) fn dora_grad<T: Float>(cuda: &Cuda, mut op: DoraGrad<'_, Cuda, T>) -> Result<()> {
    let [n, outputs] = op.z.shape();
    let params = DoraGradParams {
        z: op.z.matrix(),
        magnitude: op.magnitude.ptr() as _,
        norms: op.norms.ptr() as _,
        d_out: op.d_out.matrix(),
        d_magnitude: op.d_magnitude.ptr() as _,
        n: dim(n),
        outputs: dim(outputs),
    };
    let blocks = grid("dora_grad", &[n, outputs], outputs.div_ceil(DORA_GRAD_COLUMNS as usize))?;
    let config = LaunchConfig::new(blocks, DORA_GRAD_COLUMNS * DORA_GRAD_ROWS);
    // SAFETY: `DoraGrad::verify` checked every shape against `params.n` and `params.outputs`; an element is read before it is
    // written, by the one thread that has it.
    unsafe { cuda.launch(&DORA_GRAD, T::DTYPE.suffix(), params, config) }
}

pub(in crate::cuda) fn dropped<T: Float>(cuda: &Cuda, mut op: Dropped<'_, Cuda, T>) -> Result<()> {
    let ([n, d], factors) = (op.x.shape(), op.factors());
    let params = DroppedParams {
        x: op.x.matrix(),
        out: op.out.matrix(),
        dropout: dropout_params(Some(op.dropout)).0,
        n: dim(n),
        d: dim(d),
        accumulate: op.accumulate.into(),
        factors,
    };
    // SAFETY: `Dropped::verify` checked both shapes against `params.n` and `params.d`.
    unsafe { cuda.launch(&DROPPED, T::DTYPE.suffix(), params, elementwise("dropped", [n, d])?) }
}
