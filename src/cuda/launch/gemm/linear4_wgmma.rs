//! `linear4` and its gradient for few tokens on Hopper: which tile, how its work is cut, and what the copy engine has to
//! know.

use super::Gemm;
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
/// weight is small (16 tokens on an H100: gate and up 38 us here, 53 there; q, k, v 21 and 20).
const TOKENS: RangeInclusive<usize> = 17..=1024;
const TOKENS_OF_LARGE: RangeInclusive<usize> = 9..=1024;
/// A large weight has so many numbers.
const LARGE: usize = 1 << 25;
/// Of the gradient. At 1,024 tokens decoding once takes as long, at 768 it is faster.
const GRAD_TOKENS: RangeInclusive<usize> = 1..=512;
const STAGE_K: usize = params::LINEAR4_WGMMA_STAGE_K as usize;
const X_K: usize = params::LINEAR4_WGMMA_X_K as usize;
const STAGE_ROWS: usize = params::LINEAR4_GRAD_WGMMA_STAGE_ROWS as usize;
/// The inputs of a weight must be a multiple: a stage forward, and a tile of the gradient.
const COLS: usize = params::LINEAR4_GRAD_WGMMA_COLS as usize;
const _: () = assert!(COLS == STAGE_K && STAGE_ROWS == X_K);
const MAX_SPLITS: usize = params::LINEAR4_WGMMA_MAX_SPLITS as usize;
/// How often a CTA asks whether the others of its tile are done before it leaves its share to them: about 50 us.
const PATIENCE: u32 = 64;

/// The CTAs that share an output tile along the contraction.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sharing {
    /// As many as the multiprocessors have room for; they add their parts up in scratch.
    Scratch,
    /// So many, a cluster. All tiles are done at the same time, so there are few of them.
    Cluster(usize),
}

/// A kernel for output tiles of this size; `rows` are those of the transposed output.
struct Tile {
    rows: usize,
    tokens: usize,
    sharing: Sharing,
    threads: u32,
    /// What a stage of the contraction takes, and what does not depend on it, measured on an H200 (the gradient's on an
    /// H100): hundredths of a microsecond.
    stage_time: usize,
    fixed_time: usize,
    kernel: Kernel<Linear4WgmmaParams>,
}

macro_rules! tile {
    ($file:literal, $name:literal, $sharing:expr, $rows:literal x $tokens:literal, $threads:expr, $fixed:literal + $stage:literal) => {
        Tile {
            rows: $rows,
            tokens: $tokens,
            sharing: $sharing,
            threads: $threads,
            stage_time: $stage,
            fixed_time: $fixed,
            kernel: Kernel::new($file, concat!($name, "_", $rows, "x", $tokens)),
        }
    };
    ($rows:literal x $tokens:literal, $time:literal) => {
        // The warps that multiply, and those that fetch.
        tile!("linear4_wgmma", "linear4_wgmma", Sharing::Scratch, $rows x $tokens, $rows * 2 + 128, 650 + $time)
    };
    (grad $rows:literal x $tokens:literal, $time:literal) => {
        tile!("linear4_grad_wgmma", "linear4_grad_wgmma", Sharing::Scratch, $rows x $tokens,
            params::LINEAR4_GRAD_WGMMA_THREADS, 650 + $time)
    };
    (few $name:literal, $ctas:literal, $rows:literal x $tokens:literal, $fixed:literal + $stage:literal) => {
        // Four warpgroups multiply 64 rows, three 192.
        tile!("linear4_wgmma", $name, Sharing::Cluster($ctas), $rows x $tokens,
            if $rows == 64 { 640 } else { 512 }, $fixed + $stage)
    };
}

static TILES: [Tile; 5] =
    [tile!(192 x 32, 150), tile!(192 x 64, 180), tile!(192 x 96, 220), tile!(192 x 128, 250), tile!(128 x 256, 330)];
static GRAD_TILES: [Tile; 2] = [tile!(grad 256 x 64, 62), tile!(grad 256 x 128, 82)];
/// Forward, of the weight alone (linear4_few.cuh).
static FEW_TILES: [Tile; 6] = [
    tile!(few "linear4_few", 1, 192 x 32, 470 + 122),
    tile!(few "linear4_few", 1, 192 x 64, 460 + 160),
    tile!(few "linear4_few", 1, 64 x 32, 400 + 47),
    tile!(few "linear4_few", 1, 64 x 64, 400 + 60),
    tile!(few "linear4_few2", 2, 64 x 32, 440 + 47),
    tile!(few "linear4_few2", 2, 64 x 64, 430 + 58),
];

/// The first of them, which says whether a GPU has all, and the others; `more`: for a contraction that is not all the
/// weight's.
fn tiles(grad: bool, more: bool) -> (&'static Tile, impl Iterator<Item = &'static Tile>) {
    let [first, others @ ..] = &TILES;
    let [first_grad, others_grad @ ..] = &GRAD_TILES;
    let few: &[Tile] = if grad || more { &[] } else { &FEW_TILES };
    let (first, others): (_, &[Tile]) = if grad { (first_grad, others_grad) } else { (first, others) };
    (first, others.iter().chain(few))
}

/// A product in tiles, and those in units, of which each CTA takes every `n_sms`th: first whole tiles, then, where they
/// do not fill the multiprocessors once more, parts of the contraction of the rest.
#[derive(Debug, PartialEq)]
struct Cut {
    token_tiles: usize,
    tiles: usize,
    /// The tiles that are not split.
    whole: usize,
    splits: usize,
}

impl Cut {
    /// `shape`: tokens, rows of the transposed output, stages of the contraction.
    fn new(tile: &Tile, [n, rows, stages]: [usize; 3], sms: usize) -> Self {
        let token_tiles = n.div_ceil(tile.tokens);
        let tiles = token_tiles * rows.div_ceil(tile.rows);
        let (splits, filled) = match tile.sharing {
            Sharing::Scratch => ((sms / (tiles % sms).max(1)).min(stages).min(MAX_SPLITS), tiles / sms * sms),
            Sharing::Cluster(ctas) => (ctas, 0),
        };
        let whole = if splits > 1 { filled } else { tiles };
        Cut { token_tiles, tiles, whole, splits }
    }

    /// Whether this is how a tile's kernel can do it.
    fn suits(&self, tile: &Tile, stages: usize, sms: usize) -> bool {
        let at_once = self.token_tiles == 1 && self.units() <= sms && self.splits <= stages;
        tile.sharing == Sharing::Scratch || at_once
    }

    fn split(&self) -> usize {
        self.tiles - self.whole
    }

    fn units(&self) -> usize {
        self.whole + self.split() * self.splits
    }

    /// The stages of the CTA that has most.
    fn longest(&self, stages: usize, sms: usize) -> usize {
        let parts = if self.split() > 0 { stages.div_ceil(self.splits) } else { 0 };
        self.whole.div_ceil(sms) * stages + parts
    }
}

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

/// The tile that is expected to be the fastest.
fn choose(grad: bool, more: bool, shape: [usize; 3], sms: usize) -> (&'static Tile, Cut) {
    let with_cut = |tile: &'static Tile| (tile, Cut::new(tile, shape, sms));
    let time = |(tile, cut): &(&Tile, Cut)| tile.fixed_time + tile.stage_time * cut.longest(shape[2], sms);
    let (first, others) = tiles(grad, more);
    let suitable = others.map(with_cut).filter(|(tile, cut)| cut.suits(tile, shape[2], sms));
    suitable.fold(with_cut(first), |best, next| if time(&next) < time(&best) { next } else { best })
}

/// Does the kernel take this product, whose `x` and codes are aligned to 16 bytes?
pub(super) fn fits(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>) -> Result<bool> {
    // The kernel counts blocks of 64 in 32 bits.
    let few_blocks = u32::try_from(weight.rows * weight.cols / 64).is_ok();
    let shape = weight.rows > 0 && weight.cols.is_multiple_of(COLS) && weight.block_size >= 64 && few_blocks;
    let params = weight4(weight);
    let scales = is_aligned(params.absmax_codes.cast(), 0, 4) && is_aligned(params.groups.cast(), 0, 8);
    let tokens = match (gemm.grad, weight.rows * weight.cols >= LARGE) {
        (true, _) => GRAD_TOKENS,
        (false, true) => TOKENS_OF_LARGE,
        (false, false) => TOKENS,
    };
    let aligned = !gemm.grad || gemm.out.is_aligned(gemm.output, 8);
    let (any, _) = tiles(gemm.grad, false);
    Ok(tokens.contains(&gemm.n) && shape && scales && aligned && cuda.has(&any.kernel, gemm.suffix())?)
}

/// Queues a product that [`fits`]; with more of the contraction, `gemm.k` counts that, too.
///
/// # Safety
/// As for [`super::plan::GemmPlan::run`]; `x` and the codes are aligned to 16 bytes, `more`, as long as its `k` and the
/// weight say, to 8.
pub(super) unsafe fn run(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>, more: Option<More>) -> Result<()> {
    let more_k = more.as_ref().map_or(0, |more| more.k);
    let (tile, cut) = choose(gemm.grad, more.is_some(), shape_of(gemm, more_k), cuda.n_sms as usize);
    let params = params_of(cuda, gemm, weight4(weight), more, tile, &cut)?;
    let grid = [gemm.grid(cut.units())?.min(cuda.n_sms), 1, 1];
    let config = LaunchConfig { grid, threads: tile.threads, shared: params::LINEAR4_WGMMA_SHARED_BYTES };
    // SAFETY: the matrices and the weight are as this function's contract says, the scratch is as large as `cut` needs.
    unsafe { cuda.launch(&tile.kernel, gemm.suffix(), params, config) }
}

fn params_of(
    cuda: &Cuda,
    gemm: &Gemm,
    weight: Weight4Params,
    more: Option<More>,
    tile: &Tile,
    cut: &Cut,
) -> Result<Linear4WgmmaParams> {
    let (rows, cols) = (weight.rows as usize, weight.cols as usize);
    let x = Copied::of(gemm.x, gemm.input, [gemm.n, gemm.k]);
    let (codes_tile, x_cols) =
        if gemm.grad { ([STAGE_ROWS, COLS / 2], STAGE_ROWS) } else { ([tile.rows, STAGE_K / 2], X_K) };
    let codes = Copied::bytes(weight.codes, [rows, cols / 2]);
    let (partial, tickets) = match (tile.sharing, cut.split()) {
        (Sharing::Cluster(_), _) | (_, 0) => (null_mut(), null_mut()),
        (Sharing::Scratch, split) => (
            cuda.scratch(Slot::Partial, split * cut.splits * tile.rows * tile.tokens)?,
            cuda.scratch(Slot::Tickets, split * 2)?,
        ),
    };
    Ok(Linear4WgmmaParams {
        codes: codes.in_tiles(codes_tile)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tile_is_cut_once_and_no_part_is_empty() {
        for sms in [1, 78, 114, 132] {
            for (n, rows, stages) in [(17, 1, 1), (33, 200, 2), (64, 4096, 16), (300, 24_576, 16), (1024, 4096, 48)] {
                for tile in TILES.iter().chain(&GRAD_TILES).chain(&FEW_TILES) {
                    let cut = Cut::new(tile, [n, rows, stages], sms);
                    if !cut.suits(tile, stages, sms) {
                        continue;
                    }
                    assert!(cut.splits >= 1 && cut.splits <= stages.min(MAX_SPLITS), "{cut:?}");
                    assert!(cut.whole <= cut.tiles && (cut.split() == 0 || cut.whole.is_multiple_of(sms)), "{cut:?}");
                    assert!(cut.split() * cut.splits <= sms, "parts of a tile run at the same time: {cut:?}");
                    assert!(cut.longest(stages, sms) >= 1);
                }
            }
        }
    }

    /// The products of Qwen3-8B take what was measured to be the fastest on an H200.
    #[test]
    fn the_fastest_tile_is_chosen() {
        let chosen_with = |more, n, rows, cols| {
            let (tile, cut) = choose(false, more, [n, rows, cols / STAGE_K], 132);
            (tile.rows, tile.tokens, cut.whole, cut.split(), cut.splits)
        };
        let chosen = |n, rows, cols| chosen_with(false, n, rows, cols);
        assert_eq!(chosen(17, 24_576, 4096), (192, 32, 128, 0, 1));
        assert_eq!(chosen(32, 6144, 4096), (64, 32, 96, 0, 1));
        assert_eq!(chosen(33, 4096, 12_288), (64, 64, 0, 64, 2));
        assert_eq!(chosen(64, 4096, 4096), (64, 64, 0, 64, 2));
        assert_eq!(chosen_with(true, 64, 6144, 4096), (192, 64, 0, 32, 4));
        assert_eq!(choose(false, false, [64, 24_576, 16], 132).0.sharing, Sharing::Cluster(1));
        assert_eq!(choose(false, false, [64, 25_600, 20], 132).0.sharing, Sharing::Scratch);
        assert_eq!(chosen(96, 4096, 4096), (192, 96, 0, 22, 6));
        assert_eq!(chosen(128, 4096, 12_288), (192, 128, 0, 22, 6));
        assert_eq!(chosen(256, 6144, 4096), (192, 128, 0, 64, 2));
        assert_eq!(chosen(256, 24_576, 4096), (128, 256, 132, 60, 2));
        assert_eq!(chosen(1024, 24_576, 4096), (128, 256, 768, 0, 1));
        let chosen = |n, rows, cols| {
            let (tile, cut) = choose(true, false, [n, cols, rows / STAGE_ROWS], 132);
            (tile.tokens, cut.whole, cut.split(), cut.splits)
        };
        assert_eq!(chosen(17, 24_576, 4096), (64, 0, 16, 8));
        assert_eq!(chosen(100, 4096, 12_288), (128, 0, 48, 2));
        assert_eq!(chosen(192, 4096, 12_288), (64, 132, 12, 8));
        assert_eq!(chosen(512, 4096, 4096), (128, 0, 64, 2));
    }
}
