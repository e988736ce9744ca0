//! The adapter: `lora_down` and `lora_up`, or both at once where tokens are few. `plan.rs` chooses kernels and grids,
//! `grad.rs` is the backward pass, `out_grad.rs` what of it reads the gradient of the output, `products.rs` what cuBLASLt
//! multiplies.

mod dropout;
mod grad;
mod out_grad;
mod plan;
mod products;
mod transposed;

use crate::{
    buffer::{Mat, MatMut},
    cuda::{
        device::Cuda,
        launch::{dim, swiglu},
        params::{
            LORA_PARTS, LoraDownParams, LoraDownsParams, LoraSkinnyParams, LoraSwigluDownParams, LoraUpParams,
            LoraUpsParams, MatrixMut,
        },
    },
    element::{DType, Float},
    error::Result,
    ops::{Lora, LoraPart, Swiglu},
};
use plan::Launch;

pub(in crate::cuda) use dropout::dropout_params;
pub(in crate::cuda) use grad::{LoraGrads, lora_grad};
pub(super) use out_grad::Sums;

fn forward_params<T: Float>(op: &mut Lora<'_, Cuda, T>) -> LoraSkinnyParams {
    let ([n, k], [_, r], [_, out]) = (op.x.shape(), op.xa.shape(), op.out.shape());
    let (dropout, keep_scale) = dropout_params(op.dropout);
    let down = LoraDownParams {
        x: op.x.matrix(),
        a: op.a.ptr() as _,
        out: op.xa.matrix(),
        out_t: MatrixMut::NONE,
        n: dim(n),
        cols: dim(k),
        r: dim(r),
        scale: keep_scale,
        dropout,
    };
    let up = LoraUpParams {
        xa: op.xa.matrix().as_const(),
        b: op.b.ptr() as _,
        out: op.out.matrix(),
        n: dim(n),
        cols: dim(out),
        r: dim(r),
        scale: op.scale,
        dropout: dropout_params(None).0,
    };
    LoraSkinnyParams { down, up }
}

/// `parts` as a launch takes them, of which there are up to `N`.
fn together<P: Copy, const N: usize>(parts: &[P]) -> [P; N] {
    std::array::from_fn(|i| *parts.get(i).unwrap_or(&parts[0]))
}

/// The most parts of one launch.
const PARTS: usize = LORA_PARTS as usize;

/// Only `xa`, of adapters with the same input.
pub(super) fn lora_down<T: Float>(
    cuda: &Cuda,
    x: Mat<'_, Cuda, T>,
    parts: &[LoraPart<'_, Cuda, T>],
    xa: &mut MatMut<'_, Cuda, T>,
    out: &mut MatMut<'_, Cuda, T>,
) -> Result<()> {
    // SAFETY: the op that these are parts of checked every shape (`LoraPart::verify_all`).
    if unsafe { products::down(cuda, x, parts, xa) }? {
        return Ok(());
    }
    let all = forward_params_of(x, parts, xa, out);
    let downs = all.into_iter().map(|params| params.down).collect::<Vec<_>>();
    // SAFETY: the op that these are parts of checked every shape (`LoraPart::verify_all`).
    downs.chunks(PARTS).try_for_each(|parts| unsafe { launch_down(cuda, T::DTYPE, parts) })
}

/// SwiGLU, and `xa` of its output.
pub(super) fn swiglu_down<T: Float>(
    cuda: &Cuda,
    mut op: Swiglu<'_, Cuda, T>,
    parts: &[LoraPart<'_, Cuda, T>],
    xa: &mut MatMut<'_, Cuda, T>,
    out: &mut MatMut<'_, Cuda, T>,
) -> Result<()> {
    if let [LoraSkinnyParams { down, .. }] = forward_params_of(op.out.mat(), parts, xa, out)[..] {
        let params = LoraSwigluDownParams { swiglu: swiglu::params(&mut op), down };
        if let Some(Launch { kernel, config }) = plan::swiglu_down(cuda, T::DTYPE, &params) {
            // SAFETY: the op that these are parts of checked every shape; `plan::swiglu_down` checked what the kernel demands
            // beyond.
            return unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, config) };
        }
    }
    swiglu::swiglu(cuda, Swiglu { gate_up: op.gate_up, out: op.out.reborrow() })?;
    lora_down(cuda, op.out.mat(), parts, xa, out)
}

/// Those of the parts that have a rank.
fn forward_params_of<T: Float>(
    x: Mat<'_, Cuda, T>,
    parts: &[LoraPart<'_, Cuda, T>],
    xa: &mut MatMut<'_, Cuda, T>,
    out: &mut MatMut<'_, Cuda, T>,
) -> Vec<LoraSkinnyParams> {
    let with_rank = parts.iter().filter(|part| !part.xa.is_empty());
    with_rank.map(|part| forward_params(&mut part.lora(x, xa, out))).collect()
}

/// # Safety
/// The matrices in `parts`, one to [`PARTS`], are live and as large as the dimensions say.
unsafe fn launch_down(cuda: &Cuda, dtype: DType, parts: &[LoraDownParams]) -> Result<()> {
    let Launch { kernel, config } = plan::down(cuda, dtype, parts)?;
    let params = LoraDownsParams { parts: together(parts), count: dim(parts.len()) };
    // SAFETY: the matrices are as this function's contract says; `plan::down` checked what the kernel demands beyond.
    unsafe { cuda.launch(kernel, dtype.suffix(), params, config) }
}

/// # Safety
/// As for [`launch_down`]; no two parts have outputs in common, or, `in_turn`, all have the same.
unsafe fn launch_up(cuda: &Cuda, dtype: DType, parts: &[LoraUpParams], in_turn: bool) -> Result<()> {
    let Launch { kernel, config } = plan::up(dtype, parts, in_turn)?;
    let params = LoraUpsParams { parts: together(parts), in_turn: if in_turn { dim(parts.len()) } else { 0 } };
    // SAFETY: the matrices are as this function's contract says; `plan::up` checked what the kernel demands beyond.
    unsafe { cuda.launch(kernel, dtype.suffix(), params, config) }
}

/// Adapters with the same input, one after the other where both kernels are one, else side by side.
pub(super) fn loras<T: Float>(
    cuda: &Cuda,
    x: Mat<'_, Cuda, T>,
    parts: &[LoraPart<'_, Cuda, T>],
    xa: &mut MatMut<'_, Cuda, T>,
    out: &mut MatMut<'_, Cuda, T>,
) -> Result<()> {
    // SAFETY: the op that these are parts of checked every shape, and that their outputs are apart
    // (`LoraPart::verify_all`).
    unsafe { launch_all(cuda, T::DTYPE, &forward_params_of(x, parts, xa, out)) }
}

pub(in crate::cuda) fn lora<T: Float>(cuda: &Cuda, mut op: Lora<'_, Cuda, T>) -> Result<()> {
    if op.xa.shape()[1] == 0 {
        return Ok(());
    }
    // SAFETY: `Lora::verify` checked every shape.
    unsafe { launch_all(cuda, T::DTYPE, &[forward_params(&mut op)]) }
}

/// # Safety
/// The matrices in `all` are live and as large as the dimensions say; no two have outputs in common.
unsafe fn launch_all(cuda: &Cuda, dtype: DType, all: &[LoraSkinnyParams]) -> Result<()> {
    for parts in all.chunks(PARTS) {
        if let Some(launches) = skinny(cuda, dtype, parts)? {
            for (Launch { kernel, config }, params) in launches.into_iter().zip(parts) {
                // SAFETY: as large as this function's contract says; `plan::skinny` checked what the kernel demands beyond.
                unsafe { cuda.launch(kernel, dtype.suffix(), *params, config) }?;
            }
            continue;
        }
        let downs = parts.iter().map(|params| params.down).collect::<Vec<_>>();
        let ups = parts.iter().map(|params| params.up).collect::<Vec<_>>();
        // SAFETY: this function's contract is theirs.
        unsafe {
            launch_down(cuda, dtype, &downs)?;
            launch_up(cuda, dtype, &ups, false)?;
        }
    }
    Ok(())
}

/// Launches of both kernels in one, where all parts fit it.
fn skinny(cuda: &Cuda, dtype: DType, parts: &[LoraSkinnyParams]) -> Result<Option<Vec<Launch<LoraSkinnyParams>>>> {
    parts.iter().map(|params| plan::skinny(cuda, dtype, params)).collect()
}
