use super::{Cuda, Kernel, LaunchConfig, dim};
use crate::{
    Float, Result,
    cuda::params::{RMS_NORM_THREADS, RmsNormGradParams, RmsNormParams},
    ops::{RmsNorm, RmsNormGrad},
};
use std::ptr::{null, null_mut};

const RMS_NORM: Kernel<RmsNormParams> = Kernel::new("rms_norm", "rms_norm");
const RMS_NORM_GRAD: Kernel<RmsNormGradParams> = Kernel::new("rms_norm", "rms_norm_grad");

pub(in crate::cuda) fn rms_norm<T: Float>(cuda: &Cuda, mut op: RmsNorm<'_, Cuda, T>) -> Result<()> {
    let [n, d] = op.x.shape();
    let (add, add_stride, sum, sum_stride) = match &mut op.add {
        Some((add, sum)) => (add.ptr(), add.stride, sum.ptr(), sum.stride),
        None => (null(), 0, null_mut(), 0),
    };
    let params = RmsNormParams {
        x: op.x.ptr(),
        add,
        sum,
        weight: op.weight.ptr() as _,
        out: op.out.ptr(),
        n: dim(n),
        d: dim(d),
        x_stride: dim(op.x.stride),
        add_stride: dim(add_stride),
        sum_stride: dim(sum_stride),
        out_stride: dim(op.out.stride),
        eps: op.eps,
    };
    // SAFETY: `RmsNorm::verify` checked every shape against `params.n` and `params.d`.
    unsafe { cuda.launch(&RMS_NORM, T::DTYPE.suffix(), params, LaunchConfig::new(dim(n), RMS_NORM_THREADS)) }
}

pub(in crate::cuda) fn rms_norm_grad<T: Float>(cuda: &Cuda, mut op: RmsNormGrad<'_, Cuda, T>) -> Result<()> {
    let [n, d] = op.x.shape();
    let params = RmsNormGradParams {
        x: op.x.ptr(),
        weight: op.weight.ptr() as _,
        d_out: op.d_out.ptr(),
        d_x: op.d_x.ptr(),
        n: dim(n),
        d: dim(d),
        x_stride: dim(op.x.stride),
        d_out_stride: dim(op.d_out.stride),
        d_x_stride: dim(op.d_x.stride),
        accumulate: op.accumulate.into(),
        eps: op.eps,
    };
    // SAFETY: `RmsNormGrad::verify` checked every shape against `params.n` and `params.d`.
    unsafe { cuda.launch(&RMS_NORM_GRAD, T::DTYPE.suffix(), params, LaunchConfig::new(dim(n), RMS_NORM_THREADS)) }
}
