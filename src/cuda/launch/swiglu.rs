use super::{dim, elementwise};
use crate::{
    cuda::{
        device::Cuda,
        kernel::Kernel,
        params::{MatrixMut, SwigluGradParams, SwigluParams},
    },
    element::Float,
    error::Result,
    ops::{Swiglu, SwigluGrad},
};

const SWIGLU: Kernel<SwigluParams> = Kernel::new("swiglu", "swiglu");
const SWIGLU_GRAD: Kernel<SwigluGradParams> = Kernel::new("swiglu", "swiglu_grad");

pub(in crate::cuda) fn swiglu<T: Float>(cuda: &Cuda, mut op: Swiglu<'_, Cuda, T>) -> Result<()> {
    let config = elementwise("swiglu", op.out.shape())?;
    // SAFETY: `Swiglu::verify` checked both shapes against `n` and `f`.
    unsafe { cuda.launch(&SWIGLU, T::DTYPE.suffix(), params(&mut op), config) }
}

pub(super) fn params<T: Float>(op: &mut Swiglu<'_, Cuda, T>) -> SwigluParams {
    let [n, f] = op.out.shape();
    SwigluParams { gate_up: op.gate_up.matrix(), out: op.out.matrix(), n: dim(n), f: dim(f) }
}

pub(in crate::cuda) fn swiglu_grad<T: Float>(cuda: &Cuda, op: SwigluGrad<'_, Cuda, T>) -> Result<()> {
    // SAFETY: there is no output to make again.
    unsafe { swiglu_grad_and_out(cuda, op, MatrixMut::NONE) }
}

/// Its gradient, and its output again where `out` is one.
///
/// # Safety
/// `out` is none, or live and shaped like the gradient of the output, whose place it may have.
pub(super) unsafe fn swiglu_grad_and_out<T: Float>(
    cuda: &Cuda,
    op: SwigluGrad<'_, Cuda, T>,
    out: MatrixMut,
) -> Result<()> {
    let config = elementwise("swiglu_grad", op.d_out.shape())?;
    // SAFETY: `SwigluGrad::verify` checked every shape against `n` and `f`, and `out` is as this function's contract says;
    // a thread of the kernel reads its elements before it writes to their place, and no others.
    unsafe { cuda.launch(&SWIGLU_GRAD, T::DTYPE.suffix(), grad_params(op, out), config) }
}

pub(super) fn grad_params<T: Float>(mut op: SwigluGrad<'_, Cuda, T>, out: MatrixMut) -> SwigluGradParams {
    let ([n, f], d_gate_up) = (op.d_out.shape(), op.gate_up.matrix());
    SwigluGradParams { gate_up: d_gate_up.as_const(), d_out: op.d_out.matrix(), d_gate_up, out, n: dim(n), f: dim(f) }
}
