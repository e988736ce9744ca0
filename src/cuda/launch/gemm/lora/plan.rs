//! Which kernel of the adapter, and with what grid.

use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, grid, is_aligned},
        params::{
            self, LoraDownParams, LoraDownsParams, LoraSkinnyParams, LoraSwigluDownParams, LoraSwigluGradParams,
            LoraUpParams, LoraUpsParams, LoraWeightGradParams, LoraWeightGradsParams,
        },
    },
    element::DType,
    error::Result,
};

/// A kernel and its grid. The third dimension counts parts, or factors, of which a launch takes several.
pub(super) struct Launch<P: 'static> {
    pub(super) kernel: &'static Kernel<P>,
    pub(super) config: LaunchConfig,
}

/// The largest of what the parts of a launch have.
pub(super) fn most<P>(parts: &[P], of: impl Fn(&P) -> u32) -> u32 {
    parts.iter().map(of).max().unwrap_or(0)
}

/// The forms of a kernel that has so many columns of r at a time in registers.
struct Sized<P> {
    cols: u32,
    plain: Kernel<P>,
    dropout: Kernel<P>,
}

impl<P> Sized<P> {
    fn kernel(&self, dropout: bool) -> &Kernel<P> {
        if dropout { &self.dropout } else { &self.plain }
    }
}

/// The [`Sized`] of a kernel by the number in its name.
macro_rules! sized {
    ($file:literal, $name:literal, $cols:literal) => {
        Sized {
            cols: $cols,
            plain: Kernel::new($file, concat!($name, $cols)),
            dropout: Kernel::new($file, concat!($name, $cols, "_drop")),
        }
    };
}

/// The smallest that holds `r` columns, or the largest.
fn smallest<P>(kernels: &'static [Sized<P>], r: u32) -> &'static Sized<P> {
    kernels.iter().find(|kernel| r <= kernel.cols).unwrap_or(&kernels[kernels.len() - 1])
}

static DOWN: [Sized<LoraDownsParams>; 3] =
    [sized!("lora", "lora_down", 8), sized!("lora", "lora_down", 16), sized!("lora", "lora_down", 32)];
static DOWN_SKINNY: [Sized<LoraDownsParams>; 3] = [
    sized!("lora", "lora_down_skinny", 8),
    sized!("lora", "lora_down_skinny", 16),
    sized!("lora", "lora_down_skinny", 32),
];
/// Without more columns: those would take more registers than 32 warps leave.
static DOWN_LONE: [Sized<LoraDownsParams>; 2] =
    [sized!("lora", "lora_down_lone", 8), sized!("lora", "lora_down_lone", 16)];
static DOWN_CLUSTER: [Sized<LoraDownsParams>; 3] = [
    sized!("lora", "lora_down_cluster", 8),
    sized!("lora", "lora_down_cluster", 16),
    sized!("lora", "lora_down_cluster", 32),
];
const DOWN_SIMT: Kernel<LoraDownsParams> = Kernel::new("lora", "lora_down_simt");
static SWIGLU_DOWN: Sized<LoraSwigluDownParams> = sized!("lora", "lora_swiglu_down", 16);
/// By parts that add to the same output, with dropout.
static UP_TOGETHER: [Kernel<LoraUpsParams>; params::LORA_UP_TOGETHER as usize] = [
    Kernel::new("lora", "lora_up_together1"),
    Kernel::new("lora", "lora_up_together2"),
    Kernel::new("lora", "lora_up_together3"),
];
static UP: [Sized<LoraUpsParams>; 3] =
    [sized!("lora", "lora_up", 16), sized!("lora", "lora_up", 32), sized!("lora", "lora_up", 64)];
const UP_SIMT: Kernel<LoraUpsParams> = Kernel::new("lora", "lora_up_simt");
/// By columns of r, without dropout.
static SKINNY: [(u32, Kernel<LoraSkinnyParams>); 3] = [
    (16, Kernel::new("lora", "lora_skinny16")),
    (32, Kernel::new("lora", "lora_skinny32")),
    (params::LORA_SKINNY_MAX_R, Kernel::new("lora", "lora_skinny64")),
];
static SWIGLU_GRAD: [Sized<LoraSwigluGradParams>; 4] = [
    sized!("lora_grad", "lora_swiglu_grad", 16),
    sized!("lora_grad", "lora_swiglu_grad", 32),
    sized!("lora_grad", "lora_swiglu_grad", 64),
    sized!("lora_grad", "lora_swiglu_grad", 128),
];
static WEIGHT_GRAD_TILES: [Sized<LoraWeightGradsParams>; 4] = [
    sized!("lora_grad", "lora_weight_grad_tiles", 16),
    sized!("lora_grad", "lora_weight_grad_tiles", 32),
    sized!("lora_grad", "lora_weight_grad_tiles", 64),
    sized!("lora_grad", "lora_weight_grad_tiles", 128),
];
static WEIGHT_GRAD: [Sized<LoraWeightGradsParams>; 2] =
    [sized!("lora_grad", "lora_weight_grad", 16), sized!("lora_grad", "lora_weight_grad", 32)];
const WEIGHT_GRAD_SIMT: Kernel<LoraWeightGradsParams> = Kernel::new("lora_grad", "lora_weight_grad_simt");

const F32: u32 = size_of::<f32>() as u32;

/// May the tensor cores' form of `lora_down` be used?
fn down_fits_tensor_cores(dtype: DType, p: &LoraDownParams) -> bool {
    dtype != DType::F32
        && p.cols.is_multiple_of(8)
        && p.x.is_aligned(dtype, 16)
        && is_aligned(p.a, 0, 16)
        && p.r.checked_mul(p.cols).is_some()
}

/// May the tensor cores' form of `lora_up` be used?
fn up_fits_tensor_cores(dtype: DType, p: &LoraUpParams) -> bool {
    dtype != DType::F32
        && p.cols.is_multiple_of(8)
        && p.r.is_multiple_of(4)
        && p.xa.is_aligned(dtype, 8)
        && p.out.is_aligned(dtype, 16)
        && is_aligned(p.b, 0, 8)
}

/// For parts with the same number of tokens.
pub(super) fn down(cuda: &Cuda, dtype: DType, parts: &[LoraDownParams]) -> Result<Launch<LoraDownsParams>> {
    let rows = most(parts, |p| p.n.max(p.out_t.stride));
    let [cols, r] = [most(parts, |p| p.cols), most(parts, |p| p.r)];
    let grid = |blocks| grid("lora", &[rows, cols, r].map(|d| d as usize), blocks);
    let z = dim(parts.len());
    if !parts.iter().all(|p| down_fits_tensor_cores(dtype, p)) {
        let blocks = grid(rows.div_ceil(params::LORA_DOWN_SIMT_WARPS) as usize)?;
        let grid = [blocks, r.div_ceil(params::LORA_DOWN_SIMT_COLS), z];
        let config = LaunchConfig { grid, threads: 32 * params::LORA_DOWN_SIMT_WARPS, shared: 0 };
        return Ok(Launch { kernel: &DOWN_SIMT, config });
    }
    let dropout = parts.iter().any(|p| p.dropout.threshold != 0);
    if rows as usize > params::LORA_DOWN_FEW_TOKENS as usize * cuda.n_sms as usize {
        let sized = smallest(&DOWN, r);
        let blocks = rows.div_ceil(params::LORA_DOWN_TOKENS) as usize * r.div_ceil(sized.cols) as usize;
        let shared = params::LORA_DOWN_WARPS * params::LORA_DOWN_TOKENS * sized.cols * F32;
        let config =
            LaunchConfig { grid: [grid(blocks * parts.len())?, 1, 1], threads: 32 * params::LORA_DOWN_WARPS, shared };
        return Ok(Launch { kernel: sized.kernel(dropout), config });
    }
    let few = Few { rows: rows.div_ceil(params::LORA_DOWN_FEW_TOKENS), r, parts: z, wide: cols >= WIDE };
    let hopper = cuda.has(&DOWN_CLUSTER[0].plain, dtype.suffix())?;
    let (kernels, warps, ctas): (&[_], _, _) = match hopper {
        true if few.suits_cluster(cuda.n_sms) => {
            (&DOWN_CLUSTER, params::LORA_DOWN_CLUSTER_WARPS, params::LORA_DOWN_CLUSTER)
        }
        true if few.suits_lone(cuda.n_sms) => (&DOWN_LONE, params::LORA_DOWN_LONE_WARPS, 1),
        _ => (&DOWN_SKINNY, params::LORA_DOWN_SKINNY_WARPS, 1),
    };
    let sized = smallest(kernels, r);
    // The sums of each warp.
    let shared = warps * params::LORA_DOWN_FEW_TOKENS * sized.cols * F32;
    let blocks = grid(few.rows as usize * r.div_ceil(sized.cols) as usize * ctas as usize)?;
    let config = LaunchConfig { grid: [blocks, 1, z], threads: 32 * warps, shared };
    Ok(Launch { kernel: sized.kernel(dropout), config })
}

/// Columns from which on a cluster shares them out, where it has its multiprocessors to itself twice over.
const WIDE: u32 = 8192;

/// What decides how few tokens are taken: tiles of them, columns of r, parts, and whether x is wide.
struct Few {
    rows: u32,
    r: u32,
    parts: u32,
    wide: bool,
}

impl Few {
    /// CTAs of a kernel with so many columns of r.
    fn ctas(&self, cols: u32) -> u32 {
        self.rows.saturating_mul(self.parts).saturating_mul(self.r.div_ceil(cols))
    }

    fn suits_cluster(&self, n_sms: u32) -> bool {
        let resident = if self.wide { 2 } else { 1 };
        self.ctas(smallest(&DOWN_CLUSTER, self.r).cols).saturating_mul(params::LORA_DOWN_CLUSTER) <= resident * n_sms
    }

    fn suits_lone(&self, n_sms: u32) -> bool {
        self.r <= DOWN_LONE[1].cols && self.ctas(DOWN_LONE[1].cols) <= n_sms
    }
}

/// SwiGLU and `lora_down` of its output in one, where that suits. A CTA has a multiprocessor to itself: the last round of them
/// has to be full, or nearly.
pub(super) fn swiglu_down(
    cuda: &Cuda,
    dtype: DType,
    LoraSwigluDownParams { swiglu, down }: &LoraSwigluDownParams,
) -> Option<Launch<LoraSwigluDownParams>> {
    let (warps, tokens) = (params::LORA_SWIGLU_DOWN_WARPS, params::LORA_SWIGLU_DOWN_TOKENS);
    let blocks = down.n.div_ceil(tokens);
    let full = 5 * blocks >= 4 * blocks.next_multiple_of(cuda.n_sms);
    let fits = full
        && down.r <= SWIGLU_DOWN.cols
        && down_fits_tensor_cores(dtype, down)
        && swiglu.gate_up.is_aligned(dtype, 16);
    let shared = warps * tokens * SWIGLU_DOWN.cols * F32;
    let config = LaunchConfig { grid: [blocks, 1, 1], threads: 32 * warps, shared };
    fits.then(|| Launch { kernel: SWIGLU_DOWN.kernel(down.dropout.threshold != 0), config })
}

/// So many columns of r at most, since B of all parts is in registers.
const UP_TOGETHER_R: u32 = 16;

/// For parts with the same number of tokens, whose outputs are apart, or, `in_turn`, the same.
pub(super) fn up(dtype: DType, parts: &[LoraUpParams], in_turn: bool) -> Result<Launch<LoraUpsParams>> {
    let [n, cols, r] = [most(parts, |p| p.n), most(parts, |p| p.cols), most(parts, |p| p.r)];
    let across = cols.div_ceil(params::LORA_UP_COLS) as usize;
    let dropout = parts.iter().any(|p| p.dropout.threshold != 0);
    let together = UP_TOGETHER.get(parts.len() - 1).filter(|_| in_turn && dropout && r <= UP_TOGETHER_R);
    let (kernel, down) = match parts.iter().all(|p| up_fits_tensor_cores(dtype, p)) {
        true => (together.unwrap_or(smallest(&UP, r).kernel(dropout)), n.div_ceil(params::LORA_UP_TOKENS)),
        false => (&UP_SIMT, n),
    };
    let blocks = grid("lora", &[n, cols, r].map(|d| d as usize), down as usize * across)?;
    let grid = [blocks, 1, if in_turn { 1 } else { dim(parts.len()) }];
    Ok(Launch { kernel, config: LaunchConfig { grid, threads: params::LORA_UP_THREADS, shared: 0 } })
}

/// Both in one launch, where there are few tokens and CTAs can see each other's memory.
pub(super) fn skinny(cuda: &Cuda, dtype: DType, p: &LoraSkinnyParams) -> Result<Option<Launch<LoraSkinnyParams>>> {
    let LoraSkinnyParams { down, up } = p;
    let (tokens, cluster, warps) = (params::LORA_SKINNY_TOKENS, params::LORA_SKINNY_CLUSTER, params::LORA_SKINNY_WARPS);
    let Some((cols, kernel)) = SKINNY.iter().find(|(cols, _)| down.r <= *cols) else { return Ok(None) };
    let fits = down.n <= tokens * cuda.n_sms / cluster
        && down.dropout.threshold == 0
        && down_fits_tensor_cores(dtype, down)
        && up_fits_tensor_cores(dtype, up);
    if !fits || !cuda.has(kernel, dtype.suffix())? {
        return Ok(None);
    }
    // The sums of each warp and of the CTA, and xa rounded.
    let shared = cols * tokens * ((warps + 1) * F32 + dtype.bytes() as u32);
    let blocks = down.n.div_ceil(tokens) * cluster;
    Ok(Some(Launch { kernel, config: LaunchConfig { grid: [blocks, 1, 1], threads: 32 * warps, shared } }))
}

/// How many parts to cut the tokens into, so that `tiles` CTAs for each part fill the multiprocessors evenly, of which each
/// runs `resident` at once.
fn splits(cuda: &Cuda, resident: usize, tiles: usize, n: usize) -> usize {
    /// Tokens that are worth a CTA.
    const TOKENS: usize = 128;
    let slots = resident * cuda.n_sms as usize;
    let fill = |waves: &usize| (waves * slots / tiles * tiles) * 100 / (waves * slots);
    let waves = (1..=4).rev().max_by_key(fill).unwrap_or(1);
    (waves * slots / tiles).clamp(1, n.div_ceil(TOKENS))
}

/// How many parts the tokens are cut into, and how many there are in each, whole runs of `run` but for the last.
fn parts_of(cuda: &Cuda, resident: usize, tiles: usize, n: usize, run: u32) -> [u32; 2] {
    let len = n.div_ceil(splits(cuda, resident, tiles, n)).next_multiple_of(run as usize);
    [dim(n.div_ceil(len)), dim(len)]
}

/// Whether the tensor cores take it.
fn factor_fits(dtype: DType, p: &LoraWeightGradParams) -> bool {
    dtype != DType::F32
        && p.cols.is_multiple_of(8)
        && p.x.is_aligned(dtype, 16)
        && p.xa_t.is_aligned(dtype, 16)
        && p.r <= params::LORA_WEIGHT_GRAD_MAX_R
}

/// Bytes of `stages` tiles of x, and of xa.
fn tile_bytes(stages: u32, r: u32) -> u32 {
    stages * params::LORA_WEIGHT_GRAD_TILE_TOKENS * (params::LORA_WEIGHT_GRAD_COLS + r) * 2
}

/// The form by way of shared memory, where that is better and there is room.
fn tiled(cuda: &Cuda, factors: &[LoraWeightGradParams]) -> Option<&'static Sized<LoraWeightGradsParams>> {
    /// With dropout and few columns of r, the form that drops elements in registers wins from more tokens on.
    const DROPPED_TOKENS: u32 = 4096;
    let [n, r] = [most(factors, |p| p.n), most(factors, |p| p.r)];
    let narrow = r <= WEIGHT_GRAD_TILES[0].cols && factors.iter().any(|p| p.dropout.threshold != 0);
    let sized = WEIGHT_GRAD_TILES.iter().find(|sized| r <= sized.cols)?;
    let fits = tile_bytes(params::LORA_WEIGHT_GRAD_STAGES, sized.cols) as usize <= cuda.max_shared;
    (fits && !(narrow && n > DROPPED_TOKENS)).then_some(sized)
}

/// Sets `splits` and `split_len` of factors with the same number of tokens.
pub(super) fn weight_grad(
    cuda: &Cuda,
    dtype: DType,
    factors: &mut [LoraWeightGradParams],
) -> Launch<LoraWeightGradsParams> {
    let tensor_cores = factors.iter().all(|p| factor_fits(dtype, p));
    let tiled = tiled(cuda, factors).filter(|_| tensor_cores);
    let threads = params::LORA_WEIGHT_GRAD_THREADS;
    let tile = if tensor_cores { params::LORA_WEIGHT_GRAD_COLS } else { threads };
    let tiles = factors.iter().map(|p| p.cols.div_ceil(tile) as usize).sum::<usize>().max(1);
    let n = most(factors, |p| p.n) as usize;
    let [splits, split_len] = match tiled {
        Some(sized) => {
            // What shared memory leaves room for.
            let resident = if sized.cols <= 32 { 3 } else { 2 };
            parts_of(cuda, resident, tiles, n, params::LORA_WEIGHT_GRAD_TILE_TOKENS)
        }
        None => parts_of(cuda, 2, tiles, n, params::LORA_WEIGHT_GRAD_RUN),
    };
    factors.iter_mut().for_each(|p| (p.splits, p.split_len) = (splits, split_len));
    let [widest, r] = [most(factors, |p| p.cols.div_ceil(tile)), most(factors, |p| p.r)];
    let [y, z] = [splits, dim(factors.len())];
    if !tensor_cores {
        let grid = [widest * r.div_ceil(params::LORA_WEIGHT_GRAD_SIMT_COLS), y, z];
        return Launch { kernel: &WEIGHT_GRAD_SIMT, config: LaunchConfig { grid, threads, shared: 0 } };
    }
    let sized = tiled.unwrap_or_else(|| smallest(&WEIGHT_GRAD, r));
    let shared = match tiled {
        Some(_) => tile_bytes(params::LORA_WEIGHT_GRAD_STAGES, sized.cols),
        None => most(factors, |p| handed_over(p, sized.cols)),
    };
    let config = LaunchConfig { grid: [widest * z, y, 1], threads, shared };
    Launch { kernel: sized.kernel(factors.iter().any(|p| p.dropout.threshold != 0)), config }
}

/// Bytes of the sums that groups of warps hand over. Where every warp has columns of r of its own there are none.
fn handed_over(p: &LoraWeightGradParams, cols: u32) -> u32 {
    let chunks = p.r.div_ceil(cols).next_power_of_two();
    if chunks < params::LORA_WEIGHT_GRAD_WARPS { chunks * cols * params::LORA_WEIGHT_GRAD_COLS * F32 } else { 0 }
}

/// For so many tokens and more SwiGLU's gradient and that of the factor behind it are one kernel: at 768 two are a little
/// faster, at 1024 one is by a tenth, at 8192 by a quarter.
const THROUGH_TOKENS: u32 = 1024;

/// Does the kernel of SwiGLU's gradient, with dropout, add to `d_out` what the adapter does?
pub(super) fn swiglu_grad_adds(factor: &LoraWeightGradParams) -> bool {
    factor.dropout.threshold != 0 && factor.r <= params::LORA_SWIGLU_GRAD_ADDED_R
}

/// SwiGLU's gradient with that of a factor, where that suits; sets the factor's `splits` and `split_len`.
pub(super) fn swiglu_grad(
    cuda: &Cuda,
    dtype: DType,
    LoraSwigluGradParams { swiglu, factor, a }: &mut LoraSwigluGradParams,
) -> Option<Launch<LoraSwigluGradParams>> {
    /// Tiles: one is multiplied, one is made.
    const STAGES: u32 = 2;
    let sized = SWIGLU_GRAD.iter().find(|sized| factor.r <= sized.cols)?;
    let adds = swiglu_grad_adds(factor);
    let of_a = if adds { 2 * sized.cols * params::LORA_WEIGHT_GRAD_COLS } else { 0 };
    let shared = tile_bytes(STAGES, sized.cols) + of_a;
    let aligned = [swiglu.gate_up, swiglu.d_out].iter().all(|matrix| matrix.is_aligned(dtype, 16));
    let fits = factor_fits(dtype, factor) && aligned && shared as usize <= cuda.max_shared;
    if factor.n < THROUGH_TOKENS || !fits || adds && a.is_null() {
        return None;
    }
    let tiles = factor.cols.div_ceil(params::LORA_WEIGHT_GRAD_COLS);
    let run = params::LORA_WEIGHT_GRAD_TILE_TOKENS;
    [factor.splits, factor.split_len] = parts_of(cuda, 2, tiles as usize, factor.n as usize, run);
    let config = LaunchConfig { grid: [tiles, factor.splits, 1], threads: params::LORA_WEIGHT_GRAD_THREADS, shared };
    Some(Launch { kernel: sized.kernel(factor.dropout.threshold != 0), config })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On an H200: `c` a cluster, `l` alone on a multiprocessor, `s` neither.
    fn form(tokens: u32, r: u32, parts: u32, wide: bool) -> char {
        let few = Few { rows: tokens.div_ceil(params::LORA_DOWN_FEW_TOKENS), r, parts, wide };
        match (few.suits_cluster(132), few.suits_lone(132)) {
            (true, _) => 'c',
            (_, true) => 'l',
            _ => 's',
        }
    }

    #[test]
    fn down_has_the_form_that_was_measured_to_win() {
        let of = |r, parts, wide| [128, 256, 512, 1024, 2048].map(|tokens| form(tokens, r, parts, wide));
        assert_eq!(of(16, 1, false), ['c', 'c', 'l', 'l', 'l']);
        assert_eq!(of(16, 3, false), ['l', 'l', 'l', 's', 's']);
        assert_eq!(of(16, 1, true), ['c', 'c', 'c', 'l', 'l']);
        assert_eq!(of(16, 2, true), ['c', 'c', 'l', 'l', 's']);
        assert_eq!(of(64, 1, false), ['c', 's', 's', 's', 's']);
        assert_eq!(of(64, 1, true), ['c', 'c', 's', 's', 's']);
    }
}
