//! `linear4` and its gradient for few tokens on Hopper: which tile a product is done by, and how its work is cut.

use crate::cuda::{
    kernel::Kernel,
    params::{self, Linear4WgmmaParams},
};

pub(super) const STAGE_K: usize = params::LINEAR4_WGMMA_STAGE_K as usize;
pub(super) const X_K: usize = params::LINEAR4_WGMMA_X_K as usize;
pub(super) const STAGE_ROWS: usize = params::LINEAR4_GRAD_WGMMA_STAGE_ROWS as usize;
/// The inputs of a weight must be a multiple: a stage forward, and a tile of the gradient.
pub(super) const COLS: usize = params::LINEAR4_GRAD_WGMMA_COLS as usize;
const _: () = assert!(COLS == STAGE_K && STAGE_ROWS == X_K);
const MAX_SPLITS: usize = params::LINEAR4_WGMMA_MAX_SPLITS as usize;
/// A tile of `few` for so many tokens takes all of `STAGE_K` at a time, for more half of it.
const WHOLE_TOKENS: usize = params::LINEAR4_FEW_WHOLE_TOKENS as usize;
/// What exchanging parts of tiles in scratch takes where no other tile hides it, in the tiles' unit of time.
const EXCHANGE_TIME: usize = 200;
/// What SwiGLU adds to a product where it is a kernel of its own.
const SWIGLU_TIME: usize = 200;

/// The CTAs that share an output tile along the contraction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sharing {
    /// As many as the multiprocessors have room for; they add their parts up in scratch.
    Scratch,
    /// So many, a cluster. All tiles are done at the same time, so there are few of them.
    Cluster(usize),
}

/// A kernel for output tiles of this size; `rows` are those of the transposed output.
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) tokens: usize,
    pub(super) sharing: Sharing,
    pub(super) threads: u32,
    /// What a stage of the contraction takes, and what does not depend on it, measured on an H200 (the gradient's on an
    /// H100): hundredths of a microsecond.
    stage_time: usize,
    fixed_time: usize,
    pub(super) kernel: Kernel<Linear4WgmmaParams>,
    /// The same, whose rows are as many of gate as of up: what it stores is SwiGLU of both.
    pub(super) gated: Option<Kernel<Linear4WgmmaParams>>,
}

macro_rules! tile {
    ($file:literal, $name:literal, $sharing:expr, $rows:literal x $tokens:literal, $threads:expr, $fixed:literal + $stage:literal, $gated:expr) => {
        Tile {
            rows: $rows,
            tokens: $tokens,
            sharing: $sharing,
            threads: $threads,
            stage_time: $stage,
            fixed_time: $fixed,
            kernel: Kernel::new($file, concat!($name, "_", $rows, "x", $tokens)),
            gated: $gated,
        }
    };
    ($rows:literal x $tokens:literal, $time:literal) => {
        // The warps that multiply, and those that fetch.
        tile!("linear4_wgmma", "linear4_wgmma", Sharing::Scratch, $rows x $tokens, $rows * 2 + 128, 650 + $time, None)
    };
    (grad $rows:literal x $tokens:literal, $time:literal) => {
        tile!("linear4_grad_wgmma", "linear4_grad_wgmma", Sharing::Scratch, $rows x $tokens,
            params::LINEAR4_GRAD_WGMMA_THREADS, 650 + $time, None)
    };
    // Four warpgroups multiply 64 or 128 rows, three 192.
    (few $rows:literal x $tokens:literal, $fixed:literal + $stage:literal) => {
        tile!("linear4_wgmma", "linear4_few", Sharing::Cluster(1), $rows x $tokens,
            if $rows == 192 { 512 } else { 640 }, $fixed + $stage,
            Some(Kernel::new("linear4_wgmma", concat!("linear4_few_swiglu_", $rows, "x", $tokens))))
    };
    (few of two $rows:literal x $tokens:literal, $fixed:literal + $stage:literal) => {
        tile!("linear4_wgmma", "linear4_few2", Sharing::Cluster(2), $rows x $tokens, 640, $fixed + $stage, None)
    };
}

static TILES: [Tile; 5] =
    [tile!(192 x 32, 150), tile!(192 x 64, 180), tile!(192 x 96, 220), tile!(192 x 128, 250), tile!(128 x 256, 330)];
static GRAD_TILES: [Tile; 2] = [tile!(grad 256 x 64, 62), tile!(grad 256 x 128, 82)];
/// Forward, of the weight alone (linear4_few.cuh).
static FEW_TILES: [Tile; 13] = [
    tile!(few 192 x 16, 440 + 104),
    tile!(few 192 x 32, 450 + 116),
    tile!(few 192 x 64, 450 + 151),
    tile!(few 192 x 96, 450 + 199),
    tile!(few 192 x 128, 450 + 235),
    tile!(few 64 x 16, 400 + 41),
    tile!(few 64 x 32, 400 + 46),
    tile!(few 64 x 64, 400 + 58),
    tile!(few of two 64 x 16, 440 + 42),
    tile!(few of two 64 x 32, 440 + 48),
    tile!(few of two 64 x 64, 430 + 60),
    tile!(few of two 128 x 96, 440 + 149),
    tile!(few of two 128 x 128, 440 + 171),
];

/// One of them, which says whether a GPU has all.
pub(super) fn any_tile(grad: bool) -> &'static Tile {
    let ([tile, ..], [grad_tile, ..]) = (&TILES, &GRAD_TILES);
    if grad { grad_tile } else { tile }
}

/// The tiles of a product; `more`: for a contraction that is not all the weight's.
fn tiles(grad: bool, more: bool) -> impl Iterator<Item = &'static Tile> {
    let few: &[Tile] = if grad || more { &[] } else { &FEW_TILES };
    let all: &[Tile] = if grad { &GRAD_TILES } else { &TILES };
    all.iter().chain(few)
}

/// A product in tiles, and those in units, of which each CTA takes every `n_sms`th: first whole tiles, then, where they
/// do not fill the multiprocessors once more, parts of the contraction of the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut {
    pub(super) token_tiles: usize,
    tiles: usize,
    /// The tiles that are not split.
    pub(super) whole: usize,
    pub(super) splits: usize,
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

    pub(super) fn split(&self) -> usize {
        self.tiles - self.whole
    }

    pub(super) fn units(&self) -> usize {
        self.whole + self.split() * self.splits
    }

    /// The stages of the CTA that has most.
    fn longest(&self, stages: usize, sms: usize) -> usize {
        let parts = if self.split() > 0 { stages.div_ceil(self.splits) } else { 0 };
        self.whole.div_ceil(sms) * stages + parts
    }

    fn exchange_time(&self, tile: &Tile) -> usize {
        if tile.sharing == Sharing::Scratch && self.whole == 0 { EXCHANGE_TIME } else { 0 }
    }
}

/// How a product is done.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) tile: &'static Tile,
    pub(super) cut: Cut,
    gated: bool,
    /// What it is expected to take, in the tiles' unit.
    time: usize,
}

impl Plan {
    fn of(tile: &'static Tile, shape: [usize; 3], sms: usize) -> Self {
        let cut = Cut::new(tile, shape, sms);
        let time = tile.fixed_time + tile.stage_time * cut.longest(shape[2], sms) + cut.exchange_time(tile);
        Plan { tile, cut, gated: false, time }
    }

    /// By each tile that suits.
    fn all(tiles: impl Iterator<Item = &'static Tile>, shape: [usize; 3], sms: usize) -> impl Iterator<Item = Self> {
        let plans = tiles.map(move |tile| Plan::of(tile, shape, sms));
        plans.filter(move |plan| plan.cut.suits(plan.tile, shape[2], sms))
    }

    /// By the tile that is expected to be the fastest. The first, whose parts meet in scratch, suits every product.
    pub(super) fn new(grad: bool, more: bool, shape: [usize; 3], sms: usize) -> Self {
        let first = Plan::of(any_tile(grad), shape, sms);
        let faster = |best: Plan, next: Plan| if next.time < best.time { next } else { best };
        Plan::all(tiles(grad, more), shape, sms).fold(first, faster)
    }

    /// With SwiGLU, where a tile that has it takes no longer than the fastest and SwiGLU by itself.
    pub(super) fn gated(shape: [usize; 3], sms: usize) -> Option<Self> {
        let most = Plan::new(false, false, shape, sms).time + SWIGLU_TIME;
        let tiles = FEW_TILES.iter().filter(|tile| tile.gated.is_some());
        let plan = Plan::all(tiles, shape, sms).min_by_key(|plan| plan.time).filter(|plan| plan.time <= most)?;
        Some(Plan { gated: true, ..plan })
    }

    /// Of the weight's bytes.
    pub(super) fn codes_tile(&self, grad: bool) -> [usize; 2] {
        let halved = matches!(self.tile.sharing, Sharing::Cluster(_)) && self.tile.tokens > WHOLE_TOKENS;
        match grad {
            true => [STAGE_ROWS, COLS / 2],
            false => [self.tile.rows / (1 + usize::from(self.gated)), STAGE_K / 2 / (1 + usize::from(halved))],
        }
    }
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
            let Plan { tile, cut, .. } = Plan::new(false, more, [n, rows, cols / STAGE_K], 132);
            (tile.rows, tile.tokens, cut.whole, cut.split(), cut.splits)
        };
        let chosen = |n, rows, cols| chosen_with(false, n, rows, cols);
        assert_eq!(chosen(17, 24_576, 4096), (192, 32, 128, 0, 1));
        assert_eq!(chosen(32, 6144, 4096), (64, 32, 96, 0, 1));
        assert_eq!(chosen(33, 4096, 12_288), (64, 64, 0, 64, 2));
        assert_eq!(chosen(64, 4096, 4096), (64, 64, 0, 64, 2));
        assert_eq!(chosen_with(true, 64, 6144, 4096), (192, 64, 0, 32, 4));
        assert_eq!(chosen(9, 24_576, 4096), (192, 16, 128, 0, 1));
        assert_eq!(chosen(16, 6144, 4096), (64, 16, 96, 0, 1));
        assert_eq!(chosen(16, 4096, 4096), (64, 16, 0, 64, 2));
        assert_eq!(chosen(96, 24_576, 4096), (192, 96, 128, 0, 1));
        assert_eq!(chosen(128, 6144, 4096), (128, 128, 0, 48, 2));
        let sharing = |n, rows, cols| Plan::new(false, false, [n, rows, cols / STAGE_K], 132).tile.sharing;
        assert_eq!(sharing(64, 24_576, 4096), Sharing::Cluster(1));
        assert_eq!(sharing(128, 24_576, 4096), Sharing::Cluster(1));
        assert_eq!(sharing(64, 25_600, 5120), Sharing::Scratch);
        assert_eq!(chosen(96, 4096, 4096), (192, 96, 0, 22, 6));
        assert_eq!(chosen(128, 4096, 12_288), (192, 128, 0, 22, 6));
        assert_eq!(sharing(128, 4096, 12_288), Sharing::Scratch);
        let gated = |n, rows, cols| Plan::gated([n, rows, cols / STAGE_K], 132).map(|plan| plan.codes_tile(false));
        assert_eq!(gated(64, 24_576, 4096), Some([96, 128]));
        assert_eq!(gated(128, 24_576, 4096), Some([96, 64]));
        assert_eq!(gated(17, 6144, 1024), Some([32, 128]));
        assert_eq!(gated(64, 12_288, 2048), Some([96, 128]));
        assert_eq!(gated(64, 25_600, 5120), None);
        assert_eq!(gated(129, 6144, 1024), None);
        assert_eq!(chosen(256, 6144, 4096), (192, 128, 0, 64, 2));
        assert_eq!(chosen(256, 24_576, 4096), (128, 256, 132, 60, 2));
        assert_eq!(chosen(1024, 24_576, 4096), (128, 256, 768, 0, 1));
        let chosen = |n, rows, cols| {
            let Plan { tile, cut, .. } = Plan::new(true, false, [n, cols, rows / STAGE_ROWS], 132);
            (tile.tokens, cut.whole, cut.split(), cut.splits)
        };
        assert_eq!(chosen(17, 24_576, 4096), (64, 0, 16, 8));
        assert_eq!(chosen(100, 4096, 12_288), (128, 0, 48, 2));
        assert_eq!(chosen(192, 4096, 12_288), (64, 132, 12, 8));
        assert_eq!(chosen(512, 4096, 4096), (128, 0, 64, 2));
    }
}
