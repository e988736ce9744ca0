//! `linear4` and its gradient for few tokens on Hopper: for which products, and what the copy engine has to know of them.

use super::{
    Gemm,
    linear4_plan::{COLS, Plan, STAGE_K, STAGE_ROWS, Sharing, X_K, any_tile},
};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{copied::Copied, dim, is_aligned, weight4},
        params::{self, Linear4WgmmaParams, Weight4Params},
        scratch::Slot,
    },
    error::Result,
    quant::Weight4,
};
use core::ffi::c_void;
use std::{
    ops::RangeInclusive,
    ptr::{null, null_mut},
};

/// For more the weight is better decoded once; for fewer there is `skinny`, which for 9 to 16 is faster only where a
/// weight is small (16 tokens on an H100: gate and up 38 us by a tile of 32, 53 there; q, k, v 21 and 20).
const TOKENS: RangeInclusive<usize> = 17..=1024;
const TOKENS_OF_LARGE: RangeInclusive<usize> = 9..=1024;
/// A large weight has so many numbers, and so many where all tiles are done at once (16 tokens on an H200: q, k, v 9.1 us here,
/// 10.6 there; o 7.1 and 8.4; smaller weights were not measured).
const LARGE: usize = 1 << 25;
const LARGE_AT_ONCE: usize = 1 << 24;
/// Of the gradient. At 1,024 tokens decoding once takes as long, at 768 it is faster.
const GRAD_TOKENS: RangeInclusive<usize> = 1..=512;
/// How often a CTA asks whether the others of its tile are done before it leaves its share to them: about 50 us.
const PATIENCE: u32 = 64;

/// More of the contraction, that of adapters, not quantised: columns beside a weight, or rows below it in a gradient.
pub(super) struct More {
    pub(super) ptr: *const c_void,
    pub(super) k: usize,
}

impl More {
    /// What is taken at a time.
    const STEP: usize = X_K;

    /// Can this product have some?
    pub(super) fn fits(gemm: &Gemm, weight: &Weight4<'_, Cuda>) -> bool {
        !gemm.grad || weight.rows.is_multiple_of(STAGE_ROWS)
    }
}

/// What [`Cut::new`] takes of a product; `more`: how much of its contraction is not the weight's.
fn shape_of(gemm: &Gemm, more: usize) -> [usize; 3] {
    let stage = if gemm.grad { STAGE_ROWS } else { STAGE_K };
    [gemm.n, gemm.m, (gemm.k - more).div_ceil(stage) + more / More::STEP]
}

fn plan_of(cuda: &Cuda, gemm: &Gemm, more: Option<&More>) -> Plan {
    Plan::new(gemm.grad, more.is_some(), shape_of(gemm, more.map_or(0, |more| more.k)), cuda.n_sms as usize)
}

/// Does the kernel take this product, whose `x` and codes are aligned to 16 bytes?
pub(super) fn fits(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>) -> Result<bool> {
    // The kernel counts blocks of 64 in 32 bits.
    let few_blocks = u32::try_from(weight.rows * weight.cols / 64).is_ok();
    let shape = weight.rows > 0 && weight.cols.is_multiple_of(COLS) && weight.block_size >= 64 && few_blocks;
    let params = weight4(weight);
    let scales = is_aligned(params.absmax_codes.cast(), 0, 4) && is_aligned(params.groups.cast(), 0, 8);
    let at_once = || plan_of(cuda, gemm, None).tile.sharing != Sharing::Scratch;
    let tokens = match weight.rows * weight.cols {
        _ if gemm.grad => GRAD_TOKENS,
        LARGE.. => TOKENS_OF_LARGE,
        LARGE_AT_ONCE.. if at_once() => TOKENS_OF_LARGE,
        _ => TOKENS,
    };
    let aligned = !gemm.grad || gemm.out.is_aligned(gemm.output, 8);
    Ok(tokens.contains(&gemm.n)
        && shape
        && scales
        && aligned
        && cuda.has(&any_tile(gemm.grad).kernel, gemm.suffix())?)
}

/// Queues a product that [`fits`]; with more of the contraction, `gemm.k` counts that, too.
///
/// # Safety
/// As for [`super::plan::GemmPlan::run`]; `x` and the codes are aligned to 16 bytes, `more`, as long as its `k` and the
/// weight say, to 8.
pub(super) unsafe fn run(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>, more: Option<More>) -> Result<()> {
    let plan = plan_of(cuda, gemm, more.as_ref());
    // SAFETY: this function's contract is that of `launch`.
    unsafe { launch(cuda, gemm, weight, more, &plan, &plan.tile.kernel) }
}

/// Queues a product, of which `gemm.out` gets SwiGLU, half as wide. False: there is no kernel for this product.
///
/// # Safety
/// As for [`super::plan::GemmPlan::run`].
pub(super) unsafe fn run_gated(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>) -> Result<bool> {
    let aligned = gemm.x_fits_tensor_cores() && is_aligned(weight.codes.ptr() as _, 0, 16);
    if !aligned || !fits(cuda, gemm, weight)? {
        return Ok(false);
    }
    let plan = Plan::gated(shape_of(gemm, 0), cuda.n_sms as usize);
    let Some((plan, kernel)) = plan.and_then(|plan| Some((plan, plan.tile.gated.as_ref()?))) else { return Ok(false) };
    // SAFETY: this function's contract is that of `launch`; the product fits, and `aligned` says what else is demanded.
    unsafe { launch(cuda, gemm, weight, None, &plan, kernel)? };
    Ok(true)
}

/// # Safety
/// As for [`run`].
unsafe fn launch(
    cuda: &Cuda,
    gemm: &Gemm,
    weight: &Weight4<'_, Cuda>,
    more: Option<More>,
    plan: &Plan,
    kernel: &'static Kernel<Linear4WgmmaParams>,
) -> Result<()> {
    let params = params_of(cuda, gemm, weight4(weight), more, plan)?;
    let grid = [gemm.grid(plan.cut.units())?.min(cuda.n_sms), 1, 1];
    let config = LaunchConfig { grid, threads: plan.tile.threads, shared: params::LINEAR4_WGMMA_SHARED_BYTES };
    // SAFETY: the matrices and the weight are as this function's contract says, the scratch is as large as the cut needs.
    unsafe { cuda.launch(kernel, gemm.suffix(), params, config) }
}

fn params_of(
    cuda: &Cuda,
    gemm: &Gemm,
    weight: Weight4Params,
    more: Option<More>,
    plan: &Plan,
) -> Result<Linear4WgmmaParams> {
    let Plan { tile, cut, .. } = plan;
    let (rows, cols) = (weight.rows as usize, weight.cols as usize);
    let x = Copied::of(gemm.x, gemm.input, [gemm.n, gemm.k]);
    let x_cols = if gemm.grad { STAGE_ROWS } else { X_K };
    let codes = Copied::bytes(weight.codes, [rows, cols / 2]);
    let (partial, tickets) = match (tile.sharing, cut.split()) {
        (Sharing::Cluster(_), _) | (_, 0) => (null_mut(), null_mut()),
        (Sharing::Scratch, split) => (
            cuda.scratch(Slot::Partial, split * cut.splits * tile.rows * tile.tokens)?,
            cuda.scratch(Slot::Tickets, split * 2)?,
        ),
    };
    Ok(Linear4WgmmaParams {
        codes: codes.in_tiles(plan.codes_tile(gemm.grad))?,
        x: x.in_tiles([tile.tokens, x_cols])?,
        weight,
        out: gemm.out,
        partial,
        tickets,
        n: dim(gemm.n),
        accumulate: gemm.accumulate.into(),
        token_tiles: dim(cut.token_tiles),
        whole: dim(cut.whole),
        splits: dim(cut.splits),
        units: dim(cut.units()),
        patience: PATIENCE,
        dense: more.as_ref().map_or(null(), |more| more.ptr),
        dense_k: more.map_or(0, |more| dim(more.k)),
    })
}
