//! One to eight tokens on GPUs with bulk copies: which kernel, and how the weight is dealt out.

use super::{Gemm, SKINNY_ROWS, linear4::few_blocks, plan::GemmWeight};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, is_aligned, weight4},
        params::{self, GemvCut, Linear4Params},
    },
    error::Result,
    quant::{Scales, Weight4},
};
use std::ptr::null_mut;

/// The columns of a warp.
const UNIT_K: usize = params::LINEAR4_SKINNY_UNIT_K as usize;
const WARPS: usize = params::LINEAR4_GEMV_WARPS as usize;
const STAGE_TILES: usize = params::LINEAR4_GEMV_STAGE_TILES as usize;
const SUM_TILES: usize = params::LINEAR4_GEMV_SUM_TILES as usize;
const SCALE_PAD: usize = params::LINEAR4_GEMV_SCALE_PAD as usize;
/// What holds the scales of one or two groups of tiles.
const NESTED_BYTES: usize = (params::LINEAR4_GEMV_SCALES_BYTES - 2 * params::LINEAR4_GEMV_GROUPS_BYTES) as usize;
const PLAIN_BYTES: usize = params::LINEAR4_GEMV_PLAIN_SCALES_BYTES as usize;

/// The kernels for one token, for two, and for three to eight.
static NESTED: [Kernel<Linear4Params>; 3] = [
    Kernel::new("linear4", "linear4_gemv1"),
    Kernel::new("linear4", "linear4_gemv2"),
    Kernel::new("linear4", "linear4_gemv8"),
];
/// The same for scales in f32.
static PLAIN: [Kernel<Linear4Params>; 3] = [
    Kernel::new("linear4", "linear4_gemv1_plain"),
    Kernel::new("linear4", "linear4_gemv2_plain"),
    Kernel::new("linear4", "linear4_gemv8_plain"),
];

/// Of three to eight tokens: threads, shared memory, and what of it is not dynamic.
pub(super) const EIGHT: [u32; 3] = [params::LINEAR4_GEMV8_THREADS, params::LINEAR4_GEMV8_SHARED, 0];

/// The kernel for this product, its threads, its shared memory and what it has of it that is not dynamic.
fn kernel(gemm: &Gemm, weight: &Weight4<'_, Cuda>) -> Option<(&'static Kernel<Linear4Params>, [u32; 3])> {
    let [one, two, eight] = if matches!(weight.scales, Scales::Nested { .. }) { &NESTED } else { &PLAIN };
    let small = [params::LINEAR4_GEMV_THREADS, params::LINEAR4_GEMV_SHARED, params::LINEAR4_GEMV_STATIC_BYTES];
    match gemm.n {
        1 => Some((one, small)),
        2 => Some((two, small)),
        3..=8 => Some((eight, EIGHT)),
        _ => None,
    }
}

/// Queues a product whose `x` and codes are aligned to 16 bytes. False: there is no kernel for it, or for this GPU.
///
/// # Safety
/// As for [`super::plan::GemmPlan::run`].
pub(super) unsafe fn run(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>) -> Result<bool> {
    let Some((kernel, [threads, shared, static_bytes])) = kernel(gemm, weight) else { return Ok(false) };
    if gemm.grad || !fits(cuda, weight, shared + static_bytes) || !cuda.has(kernel, gemm.suffix())? {
        return Ok(false);
    }
    let params = params(cuda, gemm, weight, 1);
    let config = config(cuda, weight.rows, threads, shared);
    // SAFETY: the matrices and the weight are as this function's contract says; `fits` checked what else is demanded.
    unsafe { cuda.launch(kernel, gemm.suffix(), params, config)? };
    Ok(true)
}

/// How a kernel is launched, for so many rows: those of one half, where a CTA has the same of both.
pub(super) fn config(cuda: &Cuda, rows: usize, threads: u32, shared: u32) -> LaunchConfig {
    let blocks = dim(rows / SKINNY_ROWS).min(cuda.n_sms);
    LaunchConfig { grid: [blocks, 1, 1], threads, shared }
}

/// Whether the kernels, with so much shared memory, take this weight, beside the alignment of its codes.
pub(super) fn fits(cuda: &Cuda, weight: &Weight4<'_, Cuda>, shared: u32) -> bool {
    let shared = shared as usize <= cuda.max_shared;
    let aligned = match weight.scales {
        Scales::Nested { codes, groups } => is_aligned(codes.ptr() as _, 0, 4) && is_aligned(groups.ptr() as _, 0, 8),
        Scales::Plain(absmax) => is_aligned(absmax.ptr() as _, 0, 4),
    };
    let cols = weight.cols.is_multiple_of(UNIT_K) && weight.cols <= params::LINEAR4_GEMV_MAX_COLS as usize;
    let rows = weight.rows.is_multiple_of(SKINNY_ROWS) && weight.rows > 0 && weight.cols > 0;
    shared && aligned && cols && rows && weight.block_size == 64 && few_blocks(weight)
}

/// `halves`: 2 where a CTA has the same rows of two halves of the weight.
pub(super) fn params(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>, halves: usize) -> Linear4Params {
    let (scales, bytes, room) = match weight.scales {
        Scales::Nested { codes, .. } => (codes.ptr(), 1, NESTED_BYTES),
        Scales::Plain(absmax) => (absmax.ptr(), 4, PLAIN_BYTES),
    };
    let row = weight.cols / weight.block_size * bytes;
    let shape = Shape {
        units: weight.cols / UNIT_K,
        tiles: weight.rows / SKINNY_ROWS / halves,
        // What three tokens and more leave in shared memory is not counted in groups.
        sums: if gemm.n > 2 { STAGE_TILES } else { SUM_TILES / gemm.n / halves },
        scales: room / (halves * SKINNY_ROWS * (row + SCALE_PAD)),
        ctas: cuda.n_sms as usize,
    };
    let scale_bytes = if row.is_multiple_of(16) && is_aligned(scales as _, 0, 16) { 16 } else { 4 };
    let mut params = weight4(weight).params(gemm, null_mut(), 1);
    params.cut = GemvCut { scale_bytes, ..shape.cut() };
    params
}

/// What a weight is dealt out by.
struct Shape {
    /// Of the columns, each the share of a warp.
    units: usize,
    /// Of 16 rows.
    tiles: usize,
    /// How many tiles there is room for the sums of, and for the scales of, at a time.
    sums: usize,
    scales: usize,
    ctas: usize,
}

impl Shape {
    fn cut(&self) -> GemvCut {
        let steps = self.units.div_ceil(WARPS).max(1);
        let parts = self.units.div_ceil(steps).max(1);
        let tiles = if parts > WARPS / 2 { 1 } else { (WARPS / parts).min(STAGE_TILES).min(self.sums) };
        let ctas = self.ctas.min(self.tiles).max(1);
        let (each, more) = (self.tiles / ctas, self.tiles % ctas);
        let all = self.tiles.div_ceil(ctas);
        // A group after the first has its scales fetched while that is worked on, so there is room for half.
        let part = (self.sums.min(self.scales / 2) / tiles).max(1) * tiles;
        let group = if all <= self.sums.min(self.scales) { all } else { part };
        let [steps, parts, tiles, each, more, group] = [steps, parts, tiles, each, more, group].map(dim);
        GemvCut { steps, parts, tiles, each, more, group, scale_bytes: 4 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(rows: usize, cols: usize, halves: usize) -> [u32; 6] {
        let shape = Shape {
            units: cols / UNIT_K,
            tiles: rows / SKINNY_ROWS / halves,
            sums: SUM_TILES / halves,
            scales: NESTED_BYTES / (halves * SKINNY_ROWS * (cols / 64 + SCALE_PAD)),
            ctas: 132,
        };
        let GemvCut { steps, parts, tiles, each, more, group, .. } = shape.cut();
        [steps, parts, tiles, each, more, group]
    }

    #[test]
    fn a_group_has_what_there_is_room_for() {
        // q, k, v; o; gate and up; down of Qwen3-8B: one group for each CTA.
        assert_eq!(cut(6144, 4096, 1), [1, 16, 1, 2, 120, 3]);
        assert_eq!(cut(4096, 4096, 1), [1, 16, 1, 1, 124, 2]);
        assert_eq!(cut(24_576, 4096, 2), [1, 16, 1, 5, 108, 6]);
        assert_eq!(cut(4096, 12_288, 1), [3, 16, 1, 1, 124, 2]);
        // The head: several groups, and the sums are what there is room for, or scales, twice.
        assert_eq!(cut(151_936, 4096, 1), [1, 16, 1, 71, 124, 6]);
        // Narrow: several tiles are in a stage.
        assert_eq!(cut(4096, 1024, 1), [1, 4, 4, 1, 124, 2]);
        assert_eq!(cut(16, 256, 1), [1, 1, 4, 1, 0, 1]);
    }
}
