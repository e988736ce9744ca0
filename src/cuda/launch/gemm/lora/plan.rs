//! Which kernel of the adapter, and with what grid.

use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, grid, is_aligned},
        params::{
            self, LoraDownParams, LoraDownsParams, LoraSkinnyParams, LoraSwigluGradParams, LoraUpParams, LoraUpsParams,
            LoraWeightGradParams, LoraWeightGradsParams,
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
fn most<P>(parts: &[P], of: impl Fn(&P) -> u32) -> u32 {
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
const DOWN_SIMT: Kernel<LoraDownsParams> = Kernel::new("lora", "lora_down_simt");
static UP: [Sized<LoraUpsParams>; 3] =
    [sized!("lora", "lora_up", 16), sized!("lora", "lora_up", 32), sized!("lora", "lora_up", 64)];
const UP_SIMT: Kernel<LoraUpsParams> = Kernel::new("lora", "lora_up_simt");
/// By columns of r, without dropout.
static SKINNY: [(u32, Kernel<LoraSkinnyParams>); 3] = [
    (16, Kernel::new("lora", "lora_skinny16")),
    (32, Kernel::new("lora", "lora_skinny32")),
    (params::LORA_SKINNY_MAX_R, Kernel::new("lora", "lora_skinny64")),
];
static SWIGLU_GRAD: Sized<LoraSwigluGradParams> = sized!("lora_grad", "lora_swiglu_grad", 16);
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
    let skinny = rows as usize <= params::LORA_DOWN_SKINNY_TOKENS as usize * cuda.n_sms as usize;
    let (kernels, tokens, warps) = match skinny {
        true => (&DOWN_SKINNY, params::LORA_DOWN_SKINNY_TOKENS, params::LORA_DOWN_SKINNY_WARPS),
        false => (&DOWN, params::LORA_DOWN_TOKENS, params::LORA_DOWN_WARPS),
    };
    let sized = smallest(kernels, r);
    let blocks = grid(rows.div_ceil(tokens) as usize * r.div_ceil(sized.cols) as usize)?;
    // The sums of each warp.
    let shared = warps * tokens * sized.cols * F32;
    let grid = if skinny { [blocks, 1, z] } else { [grid(blocks as usize * parts.len())?, 1, 1] };
    let config = LaunchConfig { grid, threads: 32 * warps, shared };
    Ok(Launch { kernel: sized.kernel(parts.iter().any(|p| p.dropout.threshold != 0)), config })
}

/// For parts with the same number of tokens, whose outputs are apart, or, `in_turn`, the same.
pub(super) fn up(dtype: DType, parts: &[LoraUpParams], in_turn: bool) -> Result<Launch<LoraUpsParams>> {
    let [n, cols, r] = [most(parts, |p| p.n), most(parts, |p| p.cols), most(parts, |p| p.r)];
    let across = cols.div_ceil(params::LORA_UP_COLS) as usize;
    let dropout = parts.iter().any(|p| p.dropout.threshold != 0);
    let (kernel, down) = match parts.iter().all(|p| up_fits_tensor_cores(dtype, p)) {
        true => (smallest(&UP, r).kernel(dropout), n.div_ceil(params::LORA_UP_TOKENS)),
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

/// How many parts to cut the tokens into, so that `tiles` CTAs for each part fill the multiprocessors evenly.
fn splits(cuda: &Cuda, tiles: usize, n: usize) -> usize {
    /// CTAs that a multiprocessor runs at once.
    const RESIDENT: usize = 2;
    /// Tokens that are worth a CTA.
    const TOKENS: usize = 128;
    let slots = RESIDENT * cuda.n_sms as usize;
    let fill = |waves: &usize| (waves * slots / tiles * tiles) * 100 / (waves * slots);
    let waves = (1..=4).rev().max_by_key(fill).unwrap_or(1);
    (waves * slots / tiles).clamp(1, n.div_ceil(TOKENS))
}

/// How many parts the tokens are cut into, and how many there are in each.
fn parts_of(cuda: &Cuda, tiles: usize, n: usize) -> [u32; 2] {
    let len = n.div_ceil(splits(cuda, tiles, n)).next_multiple_of(params::LORA_WEIGHT_GRAD_RUN as usize);
    [dim(n.div_ceil(len)), dim(len)]
}

/// For `n` tokens and more SwiGLU's gradient and that of the factor behind it are one kernel: at 512 two are a little
/// faster, at 2048 one is by a fifth.
const THROUGH_TOKENS: u32 = 1024;

/// SwiGLU's gradient with that of a factor, where that suits; sets the factor's `splits` and `split_len`.
pub(super) fn swiglu_grad(
    cuda: &Cuda,
    dtype: DType,
    LoraSwigluGradParams { swiglu, factor }: &mut LoraSwigluGradParams,
) -> Option<Launch<LoraSwigluGradParams>> {
    let fits = dtype != DType::F32
        && factor.n >= THROUGH_TOKENS
        && factor.cols.is_multiple_of(8)
        && swiglu.gate_up.is_aligned(dtype, 16)
        && swiglu.d_out.is_aligned(dtype, 16)
        && factor.xa_t.is_aligned(dtype, 8)
        && factor.r <= SWIGLU_GRAD.cols;
    if !fits {
        return None;
    }
    let tiles = factor.cols.div_ceil(params::LORA_WEIGHT_GRAD_COLS);
    [factor.splits, factor.split_len] = parts_of(cuda, tiles as usize, factor.n as usize);
    let shared = SWIGLU_GRAD.cols * params::LORA_WEIGHT_GRAD_COLS * F32;
    let config = LaunchConfig { grid: [tiles, factor.splits, 1], threads: params::LORA_WEIGHT_GRAD_THREADS, shared };
    Some(Launch { kernel: SWIGLU_GRAD.kernel(factor.dropout.threshold != 0), config })
}

/// Sets `splits` and `split_len` of factors with the same number of tokens.
pub(super) fn weight_grad(
    cuda: &Cuda,
    dtype: DType,
    factors: &mut [LoraWeightGradParams],
) -> Launch<LoraWeightGradsParams> {
    let fits = |p: &LoraWeightGradParams| {
        dtype != DType::F32
            && p.cols.is_multiple_of(8)
            && p.x.is_aligned(dtype, 16)
            && p.xa_t.is_aligned(dtype, 8)
            && p.r <= params::LORA_WEIGHT_GRAD_MAX_R
    };
    let tensor_cores = factors.iter().all(fits);
    let threads = params::LORA_WEIGHT_GRAD_THREADS;
    let tile = if tensor_cores { params::LORA_WEIGHT_GRAD_COLS } else { threads };
    let tiles = factors.iter().map(|p| p.cols.div_ceil(tile) as usize).sum::<usize>().max(1);
    let n = most(factors, |p| p.n) as usize;
    let [splits, split_len] = parts_of(cuda, tiles, n);
    factors.iter_mut().for_each(|p| (p.splits, p.split_len) = (splits, split_len));
    let [widest, r] = [most(factors, |p| p.cols.div_ceil(tile)), most(factors, |p| p.r)];
    let [y, z] = [splits, dim(factors.len())];
    if !tensor_cores {
        let grid = [widest * r.div_ceil(params::LORA_WEIGHT_GRAD_SIMT_COLS), y, z];
        return Launch { kernel: &WEIGHT_GRAD_SIMT, config: LaunchConfig { grid, threads, shared: 0 } };
    }
    let sized = smallest(&WEIGHT_GRAD, r);
    let chunks = |p: &LoraWeightGradParams| p.r.div_ceil(sized.cols).next_power_of_two();
    // Where every warp has columns of r of its own there is nothing to hand over.
    let handed = |p: &LoraWeightGradParams| Some(chunks(p)).filter(|chunks| *chunks < params::LORA_WEIGHT_GRAD_WARPS);
    let shared = most(factors, |p| handed(p).unwrap_or(0)) * sized.cols * params::LORA_WEIGHT_GRAD_COLS * F32;
    let config = LaunchConfig { grid: [widest * z, y, 1], threads, shared };
    Launch { kernel: sized.kernel(factors.iter().any(|p| p.dropout.threshold != 0)), config }
}
