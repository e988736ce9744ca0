use super::{Cuda, Kernel, LaunchConfig, dim};
use crate::{
    Error, Float, Result,
    cuda::params::{SwigluGradParams, SwigluParams},
    ops::{Swiglu, SwigluGrad},
};

const SWIGLU: Kernel<SwigluParams> = Kernel::new("swiglu", "swiglu");
const SWIGLU_GRAD: Kernel<SwigluGradParams> = Kernel::new("swiglu", "swiglu_grad");
const THREADS: u32 = 256;

/// Eight columns for each thread, each row in CTAs of its own.
fn shape(op: &'static str, n: usize, f: usize) -> Result<LaunchConfig> {
    let blocks = n * f.div_ceil(8 * THREADS as usize);
    let blocks = i32::try_from(blocks).map_err(|_| Error::Value {
        op,
        arg: "the matrix",
        got: format!("{n} x {f}"),
        want: "it must have fewer than 2^31 chunks of 2048 elements",
    })?;
    Ok(LaunchConfig::new(blocks.unsigned_abs(), THREADS))
}

pub(in crate::cuda) fn swiglu<T: Float>(cuda: &Cuda, mut op: Swiglu<'_, Cuda, T>) -> Result<()> {
    let [n, f] = op.out.shape();
    let params = SwigluParams {
        gate_up: op.gate_up.ptr(),
        out: op.out.ptr(),
        n: dim(n),
        f: dim(f),
        gate_up_stride: dim(op.gate_up.stride),
        out_stride: dim(op.out.stride),
    };
    // SAFETY: `Swiglu::verify` checked both shapes against `params.n` and `params.f`.
    unsafe { cuda.launch(&SWIGLU, T::DTYPE.suffix(), params, shape("swiglu", n, f)?) }
}

pub(in crate::cuda) fn swiglu_grad<T: Float>(cuda: &Cuda, mut op: SwigluGrad<'_, Cuda, T>) -> Result<()> {
    let [n, f] = op.d_out.shape();
    let params = SwigluGradParams {
        gate_up: op.gate_up.ptr(),
        d_out: op.d_out.ptr(),
        d_gate_up: op.d_gate_up.ptr(),
        n: dim(n),
        f: dim(f),
        gate_up_stride: dim(op.gate_up.stride),
        d_out_stride: dim(op.d_out.stride),
        d_gate_up_stride: dim(op.d_gate_up.stride),
    };
    // SAFETY: `SwigluGrad::verify` checked every shape against `params.n` and `params.f`.
    unsafe { cuda.launch(&SWIGLU_GRAD, T::DTYPE.suffix(), params, shape("swiglu_grad", n, f)?) }
}
