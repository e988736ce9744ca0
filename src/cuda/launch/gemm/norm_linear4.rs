//! One or two tokens, with inputs that are one step of it: `gemv` with the norm in front and SwiGLU behind. Otherwise one
//! kernel after the other.

use super::{
    Gemm, SKINNY_ROWS,
    linear4::{fits_gemv, gemv_config, linear4},
    plan::GemmWeight,
};
use crate::{
    cuda::{
        device::Cuda,
        kernel::Kernel,
        launch::{dim, is_aligned, rms_norm::rms_norm, swiglu::swiglu, weight4},
        params::{self, MatrixMut, NormLinear4Params},
    },
    element::Float,
    error::Result,
    ops::{Linear4, NormLinear4, RmsNorm, Swiglu},
    quant::Scales,
};
use std::ptr::null_mut;

/// The kernels for one token and for two, by the output that is wanted and the scales of the weight.
type Gemv = [Kernel<NormLinear4Params>; 2];

macro_rules! gemv {
    ($name:literal, $scales:literal) => {
        [
            Kernel::new("norm_linear4", concat!("norm_linear4_", $name, "gemv1", $scales)),
            Kernel::new("norm_linear4", concat!("norm_linear4_", $name, "gemv2", $scales)),
        ]
    };
}
static GEMV: Gemv = gemv!("", "");
static GEMV_PLAIN: Gemv = gemv!("", "_plain");
static SWIGLU_GEMV: Gemv = gemv!("swiglu_", "");
static SWIGLU_GEMV_PLAIN: Gemv = gemv!("swiglu_", "_plain");

pub(in crate::cuda) fn norm_linear4<T: Float>(cuda: &Cuda, mut op: NormLinear4<'_, Cuda, T>) -> Result<()> {
    if let Some(kernel) = kernel(cuda, &mut op)? {
        return fused(cuda, kernel, op);
    }
    let NormLinear4 { x, norm, eps, mut normed, weight, mut out, gated } = op;
    rms_norm(cuda, RmsNorm { x, add: None, weight: norm, eps, out: normed.reborrow() })?;
    linear4(cuda, Linear4 { x: normed.mat(), weight, out: out.reborrow(), accumulate: false })?;
    gated.map_or(Ok(()), |gated| swiglu(cuda, Swiglu { gate_up: out.mat(), out: gated }))
}

/// The kernel that does all of it, if there is one for this shape, this alignment and this GPU.
fn kernel<T: Float>(
    cuda: &Cuda,
    op: &mut NormLinear4<'_, Cuda, T>,
) -> Result<Option<&'static Kernel<NormLinear4Params>>> {
    let kernels = match (&op.weight.scales, &op.gated) {
        (Scales::Nested { .. }, None) => &GEMV,
        (Scales::Plain(_), None) => &GEMV_PLAIN,
        (Scales::Nested { .. }, Some(_)) => &SWIGLU_GEMV,
        (Scales::Plain(_), Some(_)) => &SWIGLU_GEMV_PLAIN,
    };
    let kernel = op.x.shape()[0].checked_sub(1).and_then(|n| kernels.get(n));
    let Some(kernel) = kernel.filter(|_| fits(cuda, op)) else { return Ok(None) };
    Ok(cuda.has(kernel, T::DTYPE.suffix())?.then_some(kernel))
}

fn fits<T: Float>(cuda: &Cuda, op: &mut NormLinear4<'_, Cuda, T>) -> bool {
    let gemm = Gemm::new("norm_linear4", false, &op.x, &mut op.out, false);
    let halves = op.gated.is_none() || (op.weight.rows / 2).is_multiple_of(SKINNY_ROWS);
    gemm.x_fits_tensor_cores()
        && fits_gemv(cuda, &op.weight, params::NORM_LINEAR4_GEMV_STATIC_BYTES)
        && op.weight.cols <= params::NORM_LINEAR4_GEMV_MAX_COLS as usize
        && is_aligned(op.weight.codes.ptr() as _, 0, 16)
        && is_aligned(op.norm.ptr() as _, 0, 16)
        && op.normed.matrix().is_aligned(T::DTYPE, 16)
        && halves
}

fn fused<T: Float>(cuda: &Cuda, kernel: &Kernel<NormLinear4Params>, mut op: NormLinear4<'_, Cuda, T>) -> Result<()> {
    let gemm = Gemm::new("norm_linear4", false, &op.x, &mut op.out, false);
    let runs = 1 + usize::from(op.gated.is_some());
    let params = NormLinear4Params {
        linear: weight4(&op.weight).params(&gemm, null_mut(), 1),
        norm: op.norm.ptr() as _,
        eps: op.eps,
        normed: op.normed.matrix(),
        gated: op.gated.as_mut().map_or(MatrixMut::NONE, |gated| gated.matrix()),
    };
    // SAFETY: `NormLinear4::verify` checked every shape, and `fits` what else the kernel demands.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, gemv_config(cuda, dim(op.weight.rows / runs))) }
}
