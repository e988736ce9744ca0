use super::{
    Gemm,
    linear::{Dense, dense},
    plan::GemmWeight,
};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, grid, is_aligned},
        params::{
            LINEAR_MAX_CTAS, LINEAR_MAX_DP2A_TOKENS, LINEAR_MAX_MMA_LEVELS, LINEAR_MAX_MMA_SHARED, LINEAR_MAX_STEP,
            LINEAR_MAX_TOKENS, LINEAR_SKINNY8_CTAS, LinearMaxParams, SCREEN_THREADS, ScreenParams,
        },
        scratch::Slot,
    },
    element::{DType, Float},
    error::Result,
    ops::{LinearMax, Screen, levels},
};
use core::ffi::c_void;
use std::ptr::null_mut;

const SCREEN: Kernel<ScreenParams> = Kernel::new("screen", "screen");
/// By the most tokens.
const BOUNDS: [(u32, Kernel<LinearMaxParams>); 3] = [
    (1, Kernel::new("screen", "linear_max_bounds1")),
    (LINEAR_MAX_DP2A_TOKENS, Kernel::new("screen", "linear_max_bounds2")),
    (LINEAR_MAX_TOKENS, Kernel::new("screen", "linear_max_bounds8")),
];
const LINEAR_MAX: Kernel<LinearMaxParams> = Kernel::new("screen", "linear_max");
/// Bytes of shared memory that a CTA has on every GPU without being asked for more.
const SHARED: usize = 46 * 1024;

pub(in crate::cuda) fn screen<T: Float>(cuda: &Cuda, mut op: Screen<'_, Cuda, T>) -> Result<()> {
    let [rows, cols] = op.weight.shape();
    let params = ScreenParams {
        weight: op.weight.matrix(),
        codes: op.codes.ptr() as _,
        bounds: op.bounds.matrix(),
        rows: dim(rows),
        cols: dim(cols),
    };
    let blocks = grid("screen", &[rows, cols], rows)?;
    // SAFETY: `Screen::verify` checked every shape against `params.rows` and `params.cols`.
    unsafe { cuda.launch(&SCREEN, T::DTYPE.suffix(), params, LaunchConfig::new(blocks, SCREEN_THREADS)) }
}

pub(in crate::cuda) fn linear_max<T: Float>(cuda: &Cuda, mut op: LinearMax<'_, Cuda, T>) -> Result<()> {
    let gemm = Gemm::new("linear_max", false, &op.x, &mut op.out, false);
    let (weight, codes) = (Dense::new(op.weight.matrix()), op.codes.ptr() as *const c_void);
    let Gemm { n, m: rows, k: cols, .. } = gemm;
    let kernel = BOUNDS.iter().find(|(most, _)| n <= *most as usize).filter(|_| n > 0 && rows > 0);
    let Some((_, bounds)) = kernel.filter(|_| takes(cuda, &gemm, weight, codes)) else {
        // SAFETY: `LinearMax::verify` checked the shapes of `x`, `out` and the weight against each other.
        return unsafe { dense(cuda, &gemm, weight) };
    };
    let ctas = cuda.n_sms * LINEAR_MAX_CTAS;
    let params = LinearMaxParams {
        linear: weight.params(&gemm, null_mut(), 1),
        codes: codes as _,
        bounds: op.bounds.matrix(),
        highest: cuda.scratch(Slot::Partial, n * ctas as usize)?,
        ctas,
        k: u32::try_from(op.k).unwrap_or(u32::MAX),
        levels: if by_mma(n) { levels(cols).min(LINEAR_MAX_MMA_LEVELS as f32) } else { levels(cols) },
    };
    let suffix = T::DTYPE.suffix();
    let config = LaunchConfig { shared: dim(shared_bytes(cols, n)), ..LaunchConfig::new(ctas, SCREEN_THREADS) };
    let all = LaunchConfig::new(cuda.n_sms * LINEAR_SKINNY8_CTAS, SCREEN_THREADS);
    // SAFETY: `LinearMax::verify` checked every shape against `params.linear`; the scratch has what each CTA of the first kernel
    // leaves of each token.
    unsafe {
        cuda.launch(bounds, suffix, params, config)?;
        cuda.launch(&LINEAR_MAX, suffix, params, all)
    }
}

/// Whether bounds of so many tokens are found by tensor cores.
fn by_mma(tokens: usize) -> bool {
    tokens > LINEAR_MAX_DP2A_TOKENS as usize
}

/// Bytes of dynamic shared memory for so many tokens: they themselves, rounded, and what tensor cores leave.
fn shared_bytes(cols: usize, tokens: usize) -> usize {
    let rounded = cols.next_multiple_of(LINEAR_MAX_STEP as usize) * tokens * size_of::<i16>();
    rounded + if by_mma(tokens) { LINEAR_MAX_MMA_SHARED as usize } else { 0 }
}

/// Whether codes can be moved 16 bytes at a time, and outputs be computed as `linear` computes them of as many tokens.
fn takes(cuda: &Cuda, gemm: &Gemm, weight: Dense, codes: *const c_void) -> bool {
    let (cols, shared) = (gemm.k, if by_mma(gemm.n) { cuda.max_shared } else { SHARED });
    let outputs = gemm.input == DType::F32 || gemm.x_fits_tensor_cores() && weight.weight.is_aligned(gemm.input, 16);
    outputs && cols > 0 && is_aligned(codes, cols, 16) && shared_bytes(cols, gemm.n) <= shared
}
