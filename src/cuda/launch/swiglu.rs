use super::{dim, elementwise};
use crate::{
    cuda::{
        device::Cuda,
        kernel::Kernel,
        params::{SwigluGradParams, SwigluParams},
    },
    element::Float,
    error::Result,
    ops::{Swiglu, SwigluGrad},
};

const SWIGLU: Kernel<SwigluParams> = Kernel::new("swiglu", "swiglu");
const SWIGLU_GRAD: Kernel<SwigluGradParams> = Kernel::new("swiglu", "swiglu_grad");
pub(in crate::cuda) fn swiglu<T: Float>(cuda: &Cuda, mut op: Swiglu<'_, Cuda, T>) -> Result<()> {
    let [n, f] = op.out.shape();
    let params = SwigluParams { gate_up: op.gate_up.matrix(), out: op.out.matrix(), n: dim(n), f: dim(f) };
    // SAFETY: `Swiglu::verify` checked both shapes against `params.n` and `params.f`.
    unsafe { cuda.launch(&SWIGLU, T::DTYPE.suffix(), params, elementwise("swiglu", [n, f])?) }
}

pub(in crate::cuda) fn swiglu_grad<T: Float>(cuda: &Cuda, mut op: SwigluGrad<'_, Cuda, T>) -> Result<()> {
    let [n, f] = op.d_out.shape();
    let d_gate_up = op.gate_up.matrix();
    let (gate_up, d_out) = (d_gate_up.as_const(), op.d_out.matrix());
    let params = SwigluGradParams { gate_up, d_out, d_gate_up, n: dim(n), f: dim(f) };
    // SAFETY: `SwigluGrad::verify` checked every shape against `params.n` and `params.f`; a thread of the kernel reads its
    // elements before it writes to their place, and no others.
    unsafe { cuda.launch(&SWIGLU_GRAD, T::DTYPE.suffix(), params, elementwise("swiglu_grad", [n, f])?) }
}
