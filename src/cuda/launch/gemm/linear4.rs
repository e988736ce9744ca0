//! | tokens | weight and alignment | kernel |
//! |---|---|---|
//! | up to 16, forward | inputs % 256 = 0, 16 outputs and more, blocks of 64 and more | `few`: reads the codes once, as operand A of the tensor cores |
//! | up to [`FUSED`] | inputs % 32 = 0 | `tensor`: decodes tiles into shared memory |
//! | more | inputs % 8 = 0 | decoded to scratch, then as a dense weight |
//! | up to 8, forward | any, and f32 | `any_rows`: one warp for each output |
//! | more, or a gradient | any, and f32 | `any`: FMA |
//!
//! The first three are for bf16 and f16, with `x`, its rows and the codes aligned to 16 bytes.

use super::{
    super::{dequantize::decode, weight4},
    Cuda, FEW, Kernel, Kernels, LaunchConfig, Plan, Product, dim, linear,
};
use crate::{
    DType, Float, Result,
    cuda::{
        params::{DequantizeParams, Linear4Params, Weight4Params},
        scratch::Slot,
    },
    ops::{Linear4, Linear4Grad},
    quant::{GROUP, Scales, Weight4, n_blocks},
};
use std::ops::Range;

/// The most tokens of the kernels that decode inside. Decoding to memory costs 2.5 bytes of traffic for each weight,
/// whatever the number of tokens; decoding inside costs tensor-core time for each token.
const FUSED: usize = 256;
/// The most bytes of decoded weight at a time: the largest weight of Qwen3-8B in one piece.
const SCRATCH: usize = 192 << 20;

const fn kernel(name: &'static str) -> Kernel<Linear4Params> {
    Kernel::new("linear4", name)
}

const FORWARD: Kernels<Linear4Params> = Kernels {
    any: kernel("linear4_any"),
    any_rows: kernel("linear4_any_rows"),
    tensor: [kernel("linear4_tensor32"), kernel("linear4_tensor64"), kernel("linear4_tensor128")],
    weight_stages: 2,
};
const GRAD: Kernels<Linear4Params> = Kernels {
    any: kernel("linear4_grad_any"),
    any_rows: kernel("linear4_any_rows"),
    tensor: [kernel("linear4_grad_tensor32"), kernel("linear4_grad_tensor64"), kernel("linear4_grad_tensor128")],
    weight_stages: 2,
};

/// The kernels for few tokens on one kind of GPU.
struct Few {
    up_to_8: Kernel<Linear4Params>,
    up_to_16: Kernel<Linear4Params>,
    warps: usize,
    /// Dynamic shared memory: the table, and each warp's stages of 2 KiB.
    shared: usize,
}

/// kernels/few4.cuh: the contraction's step.
const UNIT_K: usize = 256;
const TABLE: usize = 64 << 10;
const STAGE: usize = 2 << 10;
/// Static shared memory of these kernels: the dynamic map.
const STATIC: usize = 1 << 10;
const FEW_KERNELS: [Few; 2] = [
    Few {
        up_to_8: kernel("linear4_few8"),
        up_to_16: kernel("linear4_few16"),
        warps: 16,
        shared: TABLE + 16 * 3 * STAGE,
    },
    Few {
        up_to_8: kernel("linear4_few8_small"),
        up_to_16: kernel("linear4_few16_small"),
        warps: 8,
        shared: TABLE + 8 * 2 * STAGE,
    },
];

pub(in crate::cuda) fn linear4<T: Float, O: Float>(cuda: &Cuda, mut op: Linear4<'_, Cuda, T, O>) -> Result<()> {
    let product = Product::new(false, &op.x, &mut op.out, op.accumulate);
    // SAFETY: `Linear4::verify` checked the shapes of `x`, `out` and the weight against each other.
    unsafe { coded(cuda, &product, &op.weight) }
}

pub(in crate::cuda) fn linear4_grad<T: Float>(cuda: &Cuda, mut op: Linear4Grad<'_, Cuda, T>) -> Result<()> {
    let product = Product::new(true, &op.d_out, &mut op.d_x, op.accumulate);
    // SAFETY: `Linear4Grad::verify` checked the shapes of `d_out`, `d_x` and the weight against each other.
    unsafe { coded(cuda, &product, &op.weight) }
}

/// # Safety
/// `product` points to live memory, as long as its dimensions say, and those fit the weight.
unsafe fn coded(cuda: &Cuda, product: &Product, weight: &Weight4<'_, Cuda>) -> Result<()> {
    let kernels = if product.grad { &GRAD } else { &FORWARD };
    let codes = weight4(weight);
    let aligned = product.k > 0 && product.x_is_aligned() && (codes.codes as usize).is_multiple_of(16);
    let few = FEW_KERNELS.iter().find(|few| few.shared + STATIC <= cuda.max_shared);
    // SAFETY: the caller's word, for all of these.
    unsafe {
        match few {
            Some(few) if aligned && takes_few(product, weight) => few_tokens(cuda, product, codes, few),
            _ if aligned && product.n > FUSED && weight.cols.is_multiple_of(8) => decoded(cuda, product, weight),
            _ if aligned && weight.cols.is_multiple_of(32) => {
                planned(cuda, product, codes, product.plan_tensor(cuda, kernels))
            }
            _ => planned(cuda, product, codes, product.plan_any(cuda, kernels)),
        }
    }
}

fn takes_few(product: &Product, weight: &Weight4<'_, Cuda>) -> bool {
    let shape = weight.rows >= 16 && weight.cols.is_multiple_of(UNIT_K) && weight.block_size >= 64;
    // The kernel counts blocks of 64 in 32 bits.
    !product.grad && product.n <= FEW && shape && u32::try_from(weight.rows * weight.cols / 64).is_ok()
}

fn params(product: &Product, weight: Weight4Params) -> Linear4Params {
    Linear4Params {
        x: product.x,
        weight,
        out: product.out,
        partial: std::ptr::null_mut(),
        n: dim(product.n),
        x_stride: dim(product.x_stride),
        out_stride: dim(product.out_stride),
        accumulate: product.accumulate.into(),
        splits: 1,
    }
}

/// # Safety
/// As for [`coded`].
unsafe fn planned(cuda: &Cuda, product: &Product, weight: Weight4Params, plan: Plan<'_, Linear4Params>) -> Result<()> {
    let partial = product.partial(cuda, plan.splits)?;
    let params = Linear4Params { partial, splits: dim(plan.splits), ..params(product, weight) };
    // SAFETY: the caller's word; `partial` is `[splits, n, m]`.
    unsafe {
        cuda.launch(plan.kernel, product.suffix(), params, plan.shape)?;
        product.add_parts(cuda, partial, plan.splits)
    }
}

/// # Safety
/// As for [`coded`].
unsafe fn few_tokens(cuda: &Cuda, product: &Product, weight: Weight4Params, few: &Few) -> Result<()> {
    let (tiles, sms) = (product.m.div_ceil(16), cuda.n_sms as usize);
    let (sharing, groups) = share_tiles(tiles, product.k / UNIT_K, few.warps, sms);
    let params = Linear4Params { splits: dim(sharing), ..params(product, weight) };
    let blocks = if product.n == 0 { 0 } else { groups.min(sms) };
    let shape = LaunchConfig { grid: [dim(blocks), 1, 1], threads: dim(few.warps * 32), shared: dim(few.shared) };
    let kernel = if product.n <= 8 { &few.up_to_8 } else { &few.up_to_16 };
    // SAFETY: the caller's word.
    unsafe { cuda.launch(kernel, product.suffix(), params, shape) }
}

/// How many of a CTA's warps share the contraction, of `units` units, of one of `tiles` tiles, and how many groups of
/// tiles that makes: what takes a warp the fewest steps, and of those what adds up the fewest warps.
fn share_tiles(tiles: usize, units: usize, warps: usize, sms: usize) -> (usize, usize) {
    let choice = |sharing: usize| (sharing, tiles.div_ceil(warps / sharing));
    let steps = |&(sharing, groups): &(usize, usize)| groups.div_ceil(sms) * units.div_ceil(sharing);
    let powers = (0..=warps.ilog2()).map(|p| choice(1 << p));
    powers.min_by_key(steps).unwrap_or_else(|| choice(1))
}

/// Decodes rows of the weight to scratch, and multiplies with them.
///
/// # Safety
/// As for [`coded`].
unsafe fn decoded(cuda: &Cuda, product: &Product, weight: &Weight4<'_, Cuda>) -> Result<()> {
    let step = rows_at_a_time(weight, product.input);
    for first in (0..weight.rows).step_by(step) {
        let rows = first..weight.rows.min(first + step);
        let part = rows_of(weight, rows.clone());
        let bytes = rows.len() * weight.cols * product.input.bytes();
        let scratch = cuda.scratch::<u8>(Slot::Weight, bytes)?;
        let offset = first * if product.grad { product.input.bytes() } else { product.output.bytes() };
        let mut product = *product;
        if product.grad {
            product.k = rows.len();
            product.x = product.x.wrapping_byte_add(offset);
            product.accumulate |= first > 0;
        } else {
            product.m = rows.len();
            product.out = product.out.wrapping_byte_add(offset);
        }
        // SAFETY: the scratch holds these rows; the product's columns `rows` are in the caller's matrix.
        unsafe {
            decode(cuda, product.input, DequantizeParams { weight: weight4(&part), out: scratch.cast() })?;
            linear::dense(cuda, &product, scratch.cast())?;
        }
    }
    Ok(())
}

/// As many rows as the scratch holds, so that the part after them begins with a nested group and at 16 bytes.
fn rows_at_a_time(weight: &Weight4<'_, Cuda>, dtype: DType) -> usize {
    let group = weight.block_size * GROUP;
    // Both powers of two.
    let step = (group >> weight.cols.trailing_zeros().min(group.trailing_zeros())).max(8);
    let most = SCRATCH / (weight.cols * dtype.bytes()).max(1);
    (most / step * step).max(step)
}

/// Rows of a weight; the first begins a nested group.
fn rows_of<'a>(weight: &Weight4<'a, Cuda>, rows: Range<usize>) -> Weight4<'a, Cuda> {
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
