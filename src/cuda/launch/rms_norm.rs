use super::dim;
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{
            Matrix, MatrixMut, RMS_NORM_GRAD_KEPT, RMS_NORM_MANY_THREADS, RMS_NORM_THREADS, RmsNormGradParams,
            RmsNormParams,
        },
    },
    element::Float,
    error::Result,
    ops::{RmsNorm, RmsNormGrad},
};

const RMS_NORM: Kernel<RmsNormParams> = Kernel::new("rms_norm", "rms_norm");
/// The same for at most one row for each multiprocessor.
const RMS_NORM_FEW: Kernel<RmsNormParams> = Kernel::new("rms_norm", "rms_norm_few");
const RMS_NORM_GRAD: Kernel<RmsNormGradParams> = Kernel::new("rms_norm", "rms_norm_grad");
/// Rows for each multiprocessor from which on they are many: at 4 the larger CTAs are a quarter faster, at 8 the smaller
/// (docs/kernels.md).
const MANY: usize = 4;

/// Threads for each of `n` rows on `n_sms` multiprocessors.
fn threads(n: usize, n_sms: usize) -> u32 {
    if n > MANY * n_sms { RMS_NORM_MANY_THREADS } else { RMS_NORM_THREADS }
}

/// Of the gradient, for rows of `bytes`: many, unless only more of them have the row in registers, and nearly all are
/// needed for that.
fn grad_threads(bytes: usize) -> u32 {
    let kept = |threads: u32| (threads * RMS_NORM_GRAD_KEPT) as usize * 16;
    let needed = kept(RMS_NORM_THREADS) * 3 / 4 < bytes && bytes <= kept(RMS_NORM_THREADS);
    if needed { RMS_NORM_THREADS } else { RMS_NORM_MANY_THREADS }
}

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
    let n_sms = cuda.n_sms as usize;
    let kernel = if n <= n_sms { &RMS_NORM_FEW } else { &RMS_NORM };
    // SAFETY: `RmsNorm::verify` checked every shape against `params.n` and `params.d`.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, LaunchConfig::new(dim(n), threads(n, n_sms))) }
}

pub(in crate::cuda) fn rms_norm_grad<T: Float>(cuda: &Cuda, op: RmsNormGrad<'_, Cuda, T>) -> Result<()> {
    // SAFETY: there is no output to make again.
    unsafe { rms_norm_grad_and_out(cuda, op, MatrixMut::NONE) }
}

/// Its gradient, and its output again where `out` is one.
///
/// # Safety
/// `out` is none, or live and shaped like the gradient of the output, whose place it may have.
pub(super) unsafe fn rms_norm_grad_and_out<T: Float>(
    cuda: &Cuda,
    mut op: RmsNormGrad<'_, Cuda, T>,
    out: MatrixMut,
) -> Result<()> {
    let [n, d] = op.x.shape();
    let params = RmsNormGradParams {
        x: op.x.matrix(),
        weight: op.weight.ptr() as _,
        d_out: op.d_out.matrix(),
        d_x: op.d_x.matrix(),
        out,
        n: dim(n),
        d: dim(d),
        accumulate: op.accumulate.into(),
        eps: op.eps,
    };
    let config = LaunchConfig::new(dim(n), grad_threads(d * size_of::<T>()));
    // SAFETY: `RmsNormGrad::verify` checked every shape against `params.n` and `params.d`, and `out` is as this function's
    // contract says; a thread of the kernel reads its elements of `d_out` before it writes to their place, and no others.
    unsafe { cuda.launch(&RMS_NORM_GRAD, T::DTYPE.suffix(), params, config) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_four_rows_for_each_multiprocessor_have_the_smaller_cta() {
        let by_rows = [1, 132, 528, 529].map(|rows| threads(rows, 132));
        let [many, few] = [RMS_NORM_MANY_THREADS, RMS_NORM_THREADS];
        assert_ne!(many, few);
        assert_eq!(by_rows, [few, few, few, many]);
    }

    #[test]
    fn a_row_of_4096_has_the_larger_cta() {
        let by_columns = [1024, 2048, 2560, 4096, 5120].map(|columns| grad_threads(2 * columns));
        let [many, few] = [RMS_NORM_MANY_THREADS, RMS_NORM_THREADS];
        assert_eq!(by_columns, [many, many, many, few, many]);
    }
}
