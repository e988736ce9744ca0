//! How a product is cut into tiles: the grids of the kernels that dense and 4-bit weights both have.

use super::Gemm;
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::dim,
        params::{self, LinearParams, Matrix},
        scratch::Slot,
    },
    error::Result,
};
use std::ptr::null_mut;

const MMA_TILE_OUT: usize = params::GEMM_MMA_TILE_OUT as usize;
const MMA_TILE_K: usize = params::GEMM_MMA_TILE_K as usize;
const MMA_X_STAGES: usize = params::GEMM_MMA_X_STAGES as usize;
const SIMT_TILE: usize = params::GEMM_SIMT_TILE as usize;
const SIMT_TILE_K: usize = params::GEMM_SIMT_TILE_K as usize;
const SIMT_WARPS: usize = params::GEMM_SIMT_THREADS as usize / 32;
/// The most tokens of the FMA kernel with one warp for each output.
const SIMT_ROWS_TOKENS: usize = params::GEMM_SIMT_ROWS_TOKENS as usize;
/// CTAs of a product on one multiprocessor.
const CTAS_PER_SM: usize = 2;
/// A contraction is cut into this many parts at most, each of this many elements at least.
const MAX_SPLITS: usize = 16;
const MIN_SPLIT: usize = 256;
/// CTAs on one multiprocessor that add the parts up.
const SUM_CTAS_PER_SM: usize = 8;

const SUM: Kernel<LinearParams> = Kernel::new("linear", "linear_sum");

/// A weight, as its kernels take it.
pub(super) trait GemmWeight: Copy {
    type Params: Copy + 'static;

    /// The params of a product with it, whose contraction is cut into `splits` parts.
    fn params(self, gemm: &Gemm, partial: *mut f32, splits: usize) -> Self::Params;
}

/// A kernel for tiles of so many tokens.
pub(super) struct Mma<P> {
    pub(super) tokens: usize,
    pub(super) kernel: Kernel<P>,
}

/// The kernels of one kind of weight, for one direction, that take any number of tokens.
pub(super) struct GemmKernels<P> {
    /// FMA: any shape.
    pub(super) simt: Kernel<P>,
    /// FMA, forward, up to [`SIMT_ROWS_TOKENS`] tokens.
    pub(super) simt_rows: Kernel<P>,
    /// Tensor cores, small tiles first.
    pub(super) mma: [Mma<P>; 3],
    /// Tiles of the weight that wait in shared memory.
    pub(super) weight_stages: u32,
}

/// A `GemmKernels` whose kernels are called `<weight>_<…>` in `<file>`.
macro_rules! gemm_kernels {
    ($file:literal, $name:literal, $weight_stages:expr) => {{
        use crate::cuda::launch::gemm::plan::{GemmKernels, Mma};
        macro_rules! mma {
            ($tokens:literal) => {
                Mma { tokens: $tokens, kernel: Kernel::new($file, concat!($name, "_mma", $tokens)) }
            };
        }
        GemmKernels {
            simt: Kernel::new($file, concat!($name, "_simt")),
            simt_rows: Kernel::new($file, concat!($file, "_simt_rows")),
            mma: [mma!(32), mma!(64), mma!(128)],
            weight_stages: $weight_stages,
        }
    }};
}
pub(super) use gemm_kernels;

/// A kernel, how it is launched, and into how many parts the contraction is cut.
pub(super) struct GemmPlan<P: 'static> {
    pub(super) kernel: &'static Kernel<P>,
    pub(super) config: LaunchConfig,
    pub(super) splits: usize,
    /// CTAs leave their parts in scratch, to be added up by a second kernel; otherwise warps of one CTA share them out.
    pub(super) in_scratch: bool,
}

impl<P: Copy> GemmPlan<P> {
    /// Queues the product.
    ///
    /// # Safety
    /// `x` and `out` of `gemm` and `weight` point to live memory, as large as the dimensions of `gemm` say. The plan was
    /// made for this `gemm`.
    pub(super) unsafe fn run<W: GemmWeight<Params = P>>(&self, cuda: &Cuda, gemm: &Gemm, weight: W) -> Result<()> {
        let sum = self.in_scratch && self.splits > 1;
        let partial = if sum { cuda.scratch(Slot::Partial, self.splits * gemm.n * gemm.m)? } else { null_mut() };
        // SAFETY: the matrices and the weight are as this function's contract says; `partial` is `[splits, n, m]`.
        unsafe {
            cuda.launch(self.kernel, gemm.suffix(), weight.params(gemm, partial, self.splits), self.config)?;
            if sum { add_parts(cuda, gemm, partial, self.splits) } else { Ok(()) }
        }
    }
}

/// Queues `out (+)=` the sum of the parts.
///
/// # Safety
/// As for [`GemmPlan::run`]; `partial` is `[splits, n, m]`.
unsafe fn add_parts(cuda: &Cuda, gemm: &Gemm, partial: *mut f32, splits: usize) -> Result<()> {
    let threads = params::GEMM_SUM_THREADS;
    let params = LinearParams {
        x: Matrix::NONE,
        weight: Matrix::NONE,
        out: gemm.out,
        partial,
        n: dim(gemm.n),
        rows: dim(gemm.m),
        cols: 0,
        accumulate: gemm.accumulate.into(),
        splits: dim(splits),
        settled: 0,
    };
    let blocks = (gemm.n * gemm.m).div_ceil(threads as usize).min(cuda.n_sms as usize * SUM_CTAS_PER_SM);
    // SAFETY: the kernel reads `partial` and writes `out` within `n`, `rows` and `splits`, which this function's
    // contract covers.
    unsafe { cuda.launch(&SUM, gemm.suffix(), params, LaunchConfig::new(dim(blocks), threads)) }
}

/// The tensor cores' kernel with the smallest tile that holds all tokens, or the largest.
pub(super) fn mma<P>(cuda: &Cuda, gemm: &Gemm, kernels: &'static GemmKernels<P>) -> Result<GemmPlan<P>> {
    let [.., largest] = &kernels.mma;
    let Mma { tokens, kernel } = kernels.mma.iter().find(|mma| gemm.n <= mma.tokens).unwrap_or(largest);
    let tiles = gemm.n.div_ceil(*tokens) * gemm.m.div_ceil(MMA_TILE_OUT);
    let splits = parts(cuda.n_sms as usize, tiles, gemm.k.div_ceil(MMA_TILE_K), MMA_TILE_K);
    // Tiles of x, then of the weight, TILE_K elements of two bytes wide.
    let rows = MMA_X_STAGES * tokens + kernels.weight_stages as usize * MMA_TILE_OUT;
    let shared = dim(2 * MMA_TILE_K * rows);
    let grid = [gemm.grid(tiles)?, dim(splits), 1];
    let config = LaunchConfig { grid, threads: params::GEMM_MMA_THREADS, shared };
    Ok(GemmPlan { kernel, config, splits, in_scratch: true })
}

/// The FMA kernel for any shape.
pub(super) fn simt<P>(cuda: &Cuda, gemm: &Gemm, kernels: &'static GemmKernels<P>) -> Result<GemmPlan<P>> {
    let threads = params::GEMM_SIMT_THREADS;
    if !gemm.grad && gemm.n <= SIMT_ROWS_TOKENS {
        let blocks = if gemm.n == 0 { 0 } else { gemm.m.div_ceil(SIMT_WARPS) };
        let config = LaunchConfig::new(dim(blocks), threads);
        return Ok(GemmPlan { kernel: &kernels.simt_rows, config, splits: 1, in_scratch: false });
    }
    let tiles = gemm.n.div_ceil(SIMT_TILE) * gemm.m.div_ceil(SIMT_TILE);
    let splits = parts(cuda.n_sms as usize, tiles, gemm.k.div_ceil(SIMT_TILE_K), SIMT_TILE_K);
    let grid = [gemm.grid(tiles)?, dim(splits), 1];
    let config = LaunchConfig { grid, threads, shared: 0 };
    Ok(GemmPlan { kernel: &kernels.simt, config, splits, in_scratch: true })
}

/// Parts of a contraction of `steps` steps of `step` elements, so that `tiles` output tiles keep all multiprocessors
/// busy. No part is empty.
fn parts(sms: usize, tiles: usize, steps: usize, step: usize) -> usize {
    if tiles == 0 || tiles >= sms {
        return 1;
    }
    let most = (steps * step / MIN_SPLIT).clamp(1, MAX_SPLITS);
    let splits = (CTAS_PER_SM * sms / tiles).clamp(1, most);
    let each = steps.div_ceil(splits).max(1);
    steps.div_ceil(each).max(1)
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn no_part_of_a_contraction_is_empty_or_short() {
        for (tiles, k) in [(1, 64), (1, 65_536), (32, 4096), (32, 12_288), (96, 4096), (131, 12_352), (132, 4096)] {
            let steps = usize::div_ceil(k, 64);
            let parts = parts(132, tiles, steps, 64);
            let each = steps.div_ceil(parts);
            assert!((parts - 1) * each < steps, "{tiles} tiles, k = {k}: {parts} parts of {each} steps");
            assert!(parts == 1 || each * 64 >= 256 && tiles * parts <= 264);
        }
        assert_eq!(parts(132, 32, 192, 64), 8);
        assert_eq!(parts(132, 132, 192, 64), 1);
    }
}
