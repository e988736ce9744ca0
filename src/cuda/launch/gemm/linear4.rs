//! | tokens | weight and alignment | kernel |
//! |---|---|---|
//! | up to 8, forward | inputs % 256 = 0, outputs % 16 = 0, blocks of 64, a GPU with bulk copies | `gemv`: as `skinny`, but a warp of its own copies the codes, before x is there |
//! | up to 16, forward | inputs % 256 = 0, 16 outputs and more, blocks of 64 and more | `skinny`: reads the codes once, as operand A of the tensor cores |
//! | 17 (large weights: 9) to 1024 forward, up to 512 in a gradient, on Hopper | inputs % 256 = 0, blocks of 64 and more | `wgmma`: decodes into the registers that are operand A |
//! | up to [`FUSED_TOKENS`] | inputs % 32 = 0 | `mma`: dequantizes tiles into shared memory |
//! | more | inputs % 8 = 0 | dequantized to scratch, then as a dense weight |
//! | up to 8, forward | any, and f32 | `simt_rows`: one warp for each output |
//! | more, or a gradient | any, and f32 | `simt`: FMA |
//!
//! The first five are for bf16 and f16, with `x`, its rows and the codes aligned to 16 bytes.

use super::{
    Gemm, SKINNY_ROWS, gemv,
    linear::{self, Dense},
    linear4_wgmma,
    plan::{self, GemmKernels, GemmPlan, GemmWeight, gemm_kernels},
};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dequantize::launch_dequantize, dim, is_aligned, weight4},
        params::{self, DequantizeParams, GemvCut, Linear4Params, MatrixMut, Weight4Params},
        scratch::Slot,
    },
    element::{DType, Float},
    error::Result,
    ops::{Linear4, Linear4Grad},
    quant::{GROUP, Scales, Weight4, n_blocks},
};
use std::ops::Range;

/// The most tokens of the kernels that dequantize inside. Dequantizing to memory costs 2.5 bytes of traffic for each
/// weight, whatever the number of tokens; doing it inside costs tensor-core time for each token.
const FUSED_TOKENS: usize = 256;
/// The most bytes of dequantized weight at a time: the largest weight of Qwen3-8B in one piece, and adapters beside it.
pub(super) const MAX_DEQUANTIZED: usize = 208 << 20;

const FORWARD: GemmKernels<Linear4Params> = gemm_kernels!("linear4", "linear4", params::GEMM_MMA_QUANTIZED_STAGES);
const GRAD: GemmKernels<Linear4Params> = gemm_kernels!("linear4", "linear4_grad", params::GEMM_MMA_QUANTIZED_STAGES);

/// The kernels for up to 16 tokens on one kind of GPU.
struct Skinny {
    up_to_8: Kernel<Linear4Params>,
    up_to_16: Kernel<Linear4Params>,
    threads: u32,
    /// Units of each warp in shared memory.
    stages: u32,
}

/// The contraction's step.
const UNIT_K: usize = params::LINEAR4_SKINNY_UNIT_K as usize;
/// What takes most shared memory first.
static SKINNY: [Skinny; 2] = [
    Skinny {
        up_to_8: Kernel::new("linear4", "linear4_skinny8"),
        up_to_16: Kernel::new("linear4", "linear4_skinny16"),
        threads: params::LINEAR4_SKINNY_THREADS,
        stages: params::LINEAR4_SKINNY_STAGES,
    },
    Skinny {
        up_to_8: Kernel::new("linear4", "linear4_skinny8_small"),
        up_to_16: Kernel::new("linear4", "linear4_skinny16_small"),
        threads: params::LINEAR4_SKINNY_SMALL_THREADS,
        stages: params::LINEAR4_SKINNY_SMALL_STAGES,
    },
];

impl Skinny {
    fn warps(&self) -> usize {
        self.threads as usize / 32
    }

    /// Dynamic shared memory: the table, and each warp's units.
    fn shared(&self) -> u32 {
        params::LINEAR4_SKINNY_TABLE_BYTES + self.threads / 32 * self.stages * params::LINEAR4_SKINNY_UNIT_BYTES
    }
}

impl GemmWeight for Weight4Params {
    type Params = Linear4Params;

    fn params(self, gemm: &Gemm, partial: *mut f32, splits: usize) -> Linear4Params {
        Linear4Params {
            x: gemm.x,
            weight: self,
            out: gemm.out,
            partial,
            n: dim(gemm.n),
            accumulate: gemm.accumulate.into(),
            splits: dim(splits),
            cut: GemvCut::NONE,
        }
    }
}

impl GemvCut {
    const NONE: Self = GemvCut { steps: 0, parts: 0, tiles: 0, each: 0, more: 0, group: 0, scale_bytes: 0 };
}

pub(in crate::cuda) fn linear4<T: Float, O: Float>(cuda: &Cuda, mut op: Linear4<'_, Cuda, T, O>) -> Result<()> {
    let gemm = Gemm::new("linear4", false, &op.x, &mut op.out, op.accumulate);
    // SAFETY: `Linear4::verify` checked the shapes of `x`, `out` and the weight against each other.
    unsafe { quantized(cuda, &gemm, &op.weight) }
}

pub(in crate::cuda) fn linear4_grad<T: Float>(cuda: &Cuda, mut op: Linear4Grad<'_, Cuda, T>) -> Result<()> {
    let gemm = Gemm::new("linear4_grad", true, &op.d_out, &mut op.d_x, op.accumulate);
    // SAFETY: `Linear4Grad::verify` checked the shapes of `d_out`, `d_x` and the weight against each other.
    unsafe { quantized(cuda, &gemm, &op.weight) }
}

/// Queues a product with a 4-bit weight, by the table above.
///
/// # Safety
/// As for [`GemmPlan::run`].
unsafe fn quantized(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>) -> Result<()> {
    let kernels = if gemm.grad { &GRAD } else { &FORWARD };
    let codes = weight4(weight);
    let aligned = gemm.x_fits_tensor_cores() && is_aligned(codes.codes.cast(), 0, 16);
    if aligned && linear4_wgmma::fits(cuda, gemm, weight)? {
        // SAFETY: this function's contract is that of `run`, and `aligned` says what else it demands.
        return unsafe { linear4_wgmma::run(cuda, gemm, weight, None) };
    }
    // SAFETY: this function's contract is that of `run`, and `aligned` says what else it demands.
    if aligned && unsafe { gemv::run(cuda, gemm, weight)? } {
        return Ok(());
    }
    let skinny = if aligned { skinny(cuda, gemm, weight) } else { None };
    let plan = match skinny {
        Some(plan) => plan,
        _ if aligned && gemm.n > FUSED_TOKENS && weight.cols.is_multiple_of(8) => {
            // SAFETY: this function's contract is that of `dequantize_first`.
            return unsafe { dequantize_first(cuda, gemm, weight) };
        }
        _ if aligned && weight.cols.is_multiple_of(32) => plan::mma(cuda, gemm, kernels)?,
        _ => plan::simt(cuda, gemm, kernels)?,
    };
    // SAFETY: this function's contract is that of `run`; the plan was made for this product, and by the shape and the
    // alignment that its kernel demands.
    unsafe { plan.run(cuda, gemm, codes) }
}

/// Whether the blocks of 64 can be counted in 32 bits, as the kernels for few tokens do.
pub(super) fn few_blocks(weight: &Weight4<'_, Cuda>) -> bool {
    u32::try_from(weight.rows * weight.cols / 64).is_ok()
}

/// The plan for up to 16 tokens, for the shapes and GPUs that have one.
fn skinny(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>) -> Option<GemmPlan<Linear4Params>> {
    let shape = weight.rows >= SKINNY_ROWS && weight.cols.is_multiple_of(UNIT_K) && weight.block_size >= 64;
    if !gemm.is_skinny() || !shape || !few_blocks(weight) {
        return None;
    }
    let fits = |skinny: &&Skinny| (skinny.shared() + params::LINEAR4_SKINNY_STATIC_BYTES) as usize <= cuda.max_shared;
    let skinny = SKINNY.iter().find(fits)?;
    let (tiles, sms) = (gemm.m.div_ceil(SKINNY_ROWS), cuda.n_sms as usize);
    let (splits, groups) = share_tiles(tiles, gemm.k / UNIT_K, skinny.warps(), sms);
    let blocks = if gemm.n == 0 { 0 } else { groups.min(sms) };
    let config = LaunchConfig { grid: [dim(blocks), 1, 1], threads: skinny.threads, shared: skinny.shared() };
    let kernel = if gemm.n <= 8 { &skinny.up_to_8 } else { &skinny.up_to_16 };
    Some(GemmPlan { kernel, config, splits, in_scratch: false })
}

/// How many of a CTA's warps share the contraction, of `units` units, of one of `tiles` tiles, and how many groups of
/// tiles that makes: what takes a warp the fewest steps, and of those what adds up the fewest warps.
fn share_tiles(tiles: usize, units: usize, warps: usize, sms: usize) -> (usize, usize) {
    let choice = |sharing: usize| (sharing, tiles.div_ceil(warps / sharing));
    let steps = |&(sharing, groups): &(usize, usize)| groups.div_ceil(sms) * units.div_ceil(sharing);
    let powers = (0..=warps.ilog2()).map(|p| choice(1 << p));
    powers.min_by_key(steps).unwrap_or_else(|| choice(1))
}

/// Dequantizes rows of the weight to scratch, and multiplies with them.
///
/// # Safety
/// As for [`GemmPlan::run`].
unsafe fn dequantize_first(cuda: &Cuda, gemm: &Gemm, weight: &Weight4<'_, Cuda>) -> Result<()> {
    let step = rows_at_a_time(weight, weight.cols, gemm.input);
    for first in (0..weight.rows).step_by(step) {
        let rows = first..weight.rows.min(first + step);
        let bytes = rows.len() * weight.cols * gemm.input.bytes();
        let scratch = cuda.scratch::<u8>(Slot::Weight, bytes)?.cast();
        let out = MatrixMut { ptr: scratch, stride: dim(weight.cols) };
        let dequantize = DequantizeParams { weight: weight4(&rows_of(weight, rows.clone())), out };
        // SAFETY: the scratch holds these rows of the weight, and the columns that belong to them are in the matrices
        // that this function's contract is about.
        unsafe {
            launch_dequantize(cuda, gemm.input, dequantize)?;
            linear::dense(cuda, &part_of(gemm, rows), Dense::new(out.as_const()))?;
        }
    }
    Ok(())
}

/// The part of a product that these rows of the weight have in it: outputs, in a gradient a part of the contraction.
pub(super) fn part_of(gemm: &Gemm, rows: Range<usize>) -> Gemm {
    let mut part = *gemm;
    if gemm.grad {
        part.k = rows.len();
        part.x.ptr = gemm.x.ptr.wrapping_byte_add(rows.start * gemm.input.bytes());
        part.accumulate |= rows.start > 0;
    } else {
        part.m = rows.len();
        part.out.ptr = gemm.out.ptr.wrapping_byte_add(rows.start * gemm.output.bytes());
    }
    part
}

/// As many rows as the scratch holds, `pitch` elements each, so that the part after them begins with a nested group and
/// at 16 bytes.
pub(super) fn rows_at_a_time(weight: &Weight4<'_, Cuda>, pitch: usize, dtype: DType) -> usize {
    let group = weight.block_size * GROUP;
    // Both powers of two.
    let step = (group >> weight.cols.trailing_zeros().min(group.trailing_zeros())).max(8);
    let most = MAX_DEQUANTIZED / (pitch * dtype.bytes()).max(1);
    (most / step * step).max(step)
}

/// Rows of a weight; the first begins a nested group.
pub(super) fn rows_of<'a>(weight: &Weight4<'a, Cuda>, rows: Range<usize>) -> Weight4<'a, Cuda> {
    let elements = rows.start * weight.cols..rows.end * weight.cols;
    let blocks = elements.start / weight.block_size..n_blocks(elements.end, weight.block_size);
    let scales = match weight.scales {
        Scales::Plain(absmax) => Scales::Plain(absmax.at(blocks)),
        Scales::Nested { codes, groups } => Scales::Nested {
            groups: groups.at(blocks.start / GROUP..blocks.end.div_ceil(GROUP)),
            codes: codes.at(blocks),
        },
    };
    let codes = weight.codes.at(elements.start / 2..elements.end.div_ceil(2));
    Weight4 { rows: rows.len(), codes, scales, ..*weight }
}

#[cfg(test)]
mod tests {
    use super::share_tiles;

    #[test]
    fn warps_share_a_tile_as_far_as_that_saves_steps() {
        // o of Qwen3-8B: 256 tiles of 16 units; 128 pairs of tiles keep 132 multiprocessors as busy as 256 tiles do.
        assert_eq!(share_tiles(256, 16, 16, 132), (8, 128));
        // qkv: 384 tiles in 3 rounds, rather than 192 pairs in 2 rounds of 2 steps.
        assert_eq!(share_tiles(384, 16, 16, 132), (16, 384));
        // One short tile.
        assert_eq!(share_tiles(1, 1, 16, 132), (1, 1));
        assert_eq!(share_tiles(1, 48, 8, 132), (8, 1));
    }
}
