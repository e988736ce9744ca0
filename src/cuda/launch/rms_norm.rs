use super::dim;
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{Matrix, MatrixMut, RMS_NORM_THREADS, RmsNormGradParams, RmsNormParams},
    },
    element::Float,
    error::Result,
    ops::{RmsNorm, RmsNormGrad},
};

const RMS_NORM: Kernel<RmsNormParams> = Kernel::new("rms_norm", "rms_norm");
/// The same for at most one row for each multiprocessor.
const RMS_NORM_FEW: Kernel<RmsNormParams> = Kernel::new("rms_norm", "rms_norm_few");
const RMS_NORM_GRAD: Kernel<RmsNormGradParams> = Kernel::new("rms_norm", "rms_norm_grad");

pub(in crate::cuda) fn rms_norm<T: Float>(cuda: &Cuda, mut op: RmsNorm<'_, Cuda, T>) -> Result<()> {
    let [n, d] = op.x.shape();
    let (add, sum) = match &mut op.add {
        Some((add, sum)) => (add.matrix(), sum.matrix()),
        None => (Matrix::NONE, MatrixMut::NONE),
    };
    let params = RmsNormParams {
        x: op.x.matrix(),
        add,
        sum,
        weight: op.weight.ptr() as _,
        out: op.out.matrix(),
        n: dim(n),
        d: dim(d),
        eps: op.eps,
    };
    let kernel = if n <= cuda.n_sms as usize { &RMS_NORM_FEW } else { &RMS_NORM };
    // SAFETY: `RmsNorm::verify` checked every shape against `params.n` and `params.d`.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, LaunchConfig::new(dim(n), RMS_NORM_THREADS)) }
}

pub(in crate::cuda) fn rms_norm_grad<T: Float>(cuda: &Cuda, mut op: RmsNormGrad<'_, Cuda, T>) -> Result<()> {
    let [n, d] = op.x.shape();
    let params = RmsNormGradParams {
        x: op.x.matrix(),
        weight: op.weight.ptr() as _,
        d_out: op.d_out.matrix(),
        d_x: op.d_x.matrix(),
        n: dim(n),
        d: dim(d),
        accumulate: op.accumulate.into(),
        eps: op.eps,
    };
    // SAFETY: `RmsNormGrad::verify` checked every shape against `params.n` and `params.d`.
    unsafe { cuda.launch(&RMS_NORM_GRAD, T::DTYPE.suffix(), params, LaunchConfig::new(dim(n), RMS_NORM_THREADS)) }
}
