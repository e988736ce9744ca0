//! `d_xa` and `d_b` from one read of `d_out`.

use super::{
    plan::{self, Launch},
    together,
};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, grid, is_aligned},
        params::{
            LORA_OUT_GRAD_STAGES, LORA_OUT_GRAD_TILES, LORA_WEIGHT_GRAD_COLS, LORA_WEIGHT_GRAD_SUMS,
            LORA_WEIGHT_GRAD_THREADS, LORA_WEIGHT_GRAD_TILE_TOKENS, LoraDownParams, LoraOutGradParams,
            LoraOutGradSumsParams, LoraOutGradsParams, LoraWeightGradParams, MatrixMut,
        },
        scratch::Slot,
    },
    element::{DType, Float},
    error::Result,
};
use core::ffi::c_void;
use std::ptr::null_mut;

/// By columns of r.
static OUT_GRAD: [(u32, Kernel<LoraOutGradsParams>); 2] =
    [(16, Kernel::new("lora_grad", "lora_out_grad16")), (32, Kernel::new("lora_grad", "lora_out_grad32"))];
const OUT_GRAD_SUM: Kernel<LoraOutGradSumsParams> = Kernel::new("lora_grad", "lora_out_grad_sum");

/// What both take, where the kernel of both suits. For wider `r` the parts of `d_xa` are more than what is saved.
pub(super) fn params(
    cuda: &Cuda,
    dtype: DType,
    d_xa: &LoraDownParams,
    d_b: LoraWeightGradParams,
    b: *const c_void,
) -> Option<LoraOutGradParams> {
    let (columns, _) = OUT_GRAD.iter().find(|(columns, _)| d_b.r <= *columns)?;
    let fits = dtype != DType::F32
        && [d_b.cols, d_b.r].iter().all(|len| *len > 0 && len.is_multiple_of(8))
        && [d_b.x, d_b.xa].iter().all(|matrix| matrix.is_aligned(dtype, 16))
        && is_aligned(b, 0, 16)
        && shared_bytes(*columns) as usize <= cuda.max_shared;
    let params = LoraOutGradParams {
        d_b,
        b,
        partial: null_mut(),
        d_xa: d_xa.out,
        d_xa_t: d_xa.out_t,
        beside: MatrixMut::NONE,
        groups: 0,
    };
    fits.then_some(params)
}

/// Bytes of the tiles of `d_out` and `xa`, and of as much of B as a CTA has at most.
fn shared_bytes(columns: u32) -> u32 {
    let stage = LORA_WEIGHT_GRAD_TILE_TOKENS * (LORA_WEIGHT_GRAD_COLS + columns);
    2 * (LORA_OUT_GRAD_STAGES * stage + most_tiles(columns) * LORA_WEIGHT_GRAD_COLS * columns)
}

/// How many tiles of columns a CTA has at most: sums of all of them stay in registers.
fn most_tiles(columns: u32) -> u32 {
    LORA_OUT_GRAD_TILES * 16 / columns
}

/// Tiles of columns and blocks of tokens of a CTA.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cut {
    tiles: u32,
    blocks: u32,
}

/// What is cut: blocks of tokens, and the tiles of each part.
struct Whole<'a> {
    blocks: u32,
    tiles: &'a [u32],
    columns: u32,
    slots: u32,
}

impl Whole<'_> {
    /// What a cut takes, in fractions of a tile: what the CTAs of a slot read and their ends, and the parts to add. It was
    /// fitted to what was measured, and chooses what is at most 6 % slower than the best.
    fn cost(&self, Cut { tiles, blocks }: Cut) -> u32 {
        let (groups, splits) = (self.groups(tiles), self.blocks.div_ceil(blocks));
        let waves = (groups * splits).div_ceil(self.slots);
        let parts = self.columns / 16 * (2 * groups * self.blocks + splits * self.tiles.iter().sum::<u32>());
        waves * self.slots * tiles * (4 * blocks + 1) + parts
    }

    fn groups(&self, tiles: u32) -> u32 {
        self.tiles.iter().map(|part| part.div_ceil(tiles)).sum()
    }

    /// The best of those that fill the slots once, or twice.
    fn best(&self) -> Cut {
        let blocks = |tiles: u32, waves: u32| (self.groups(tiles) * self.blocks).div_ceil(waves * self.slots);
        let tiles = (2..=most_tiles(self.columns)).step_by(2);
        let cuts = tiles.flat_map(|tiles| [1, 2].map(|waves| Cut { tiles, blocks: blocks(tiles, waves) }));
        cuts.min_by_key(|cut| self.cost(*cut)).unwrap_or(Cut { tiles: 2, blocks: 1 })
    }
}

/// The launch for parts of the same tokens, which it cuts.
fn cut(cuda: &Cuda, parts: &mut [LoraOutGradParams]) -> Result<(Launch<LoraOutGradsParams>, LoraOutGradsParams)> {
    let [r, n] = [plan::most(parts, |p| p.d_b.r), plan::most(parts, |p| p.d_b.n)];
    let (columns, kernel) = if r <= OUT_GRAD[0].0 { &OUT_GRAD[0] } else { &OUT_GRAD[1] };
    let tiles = parts.iter().map(|p| p.d_b.cols.div_ceil(LORA_WEIGHT_GRAD_COLS)).collect::<Vec<_>>();
    let shared = shared_bytes(*columns);
    let resident = (cuda.max_shared as u32 / shared).clamp(1, 2);
    let blocks = n.div_ceil(LORA_WEIGHT_GRAD_TILE_TOKENS);
    let Cut { tiles, blocks } = Whole { blocks, tiles: &tiles, columns: *columns, slots: resident * cuda.n_sms }.best();
    let split_len = blocks * LORA_WEIGHT_GRAD_TILE_TOKENS;
    let splits = n.div_ceil(split_len);
    for p in parts.iter_mut() {
        (p.d_b.splits, p.d_b.split_len) = (splits, split_len);
        p.groups = p.d_b.cols.div_ceil(tiles * LORA_WEIGHT_GRAD_COLS);
    }
    place_sums(cuda, parts, *columns)?;
    let grid = [plan::most(parts, |p| p.groups), splits, dim(parts.len())];
    let config = LaunchConfig { grid, threads: LORA_WEIGHT_GRAD_THREADS, shared };
    Ok((Launch { kernel, config }, LoraOutGradsParams { parts: together(parts), tiles, columns: *columns }))
}

/// Gives all parts of all sums their room.
fn place_sums(cuda: &Cuda, parts: &mut [LoraOutGradParams], columns: u32) -> Result<()> {
    let lens = |p: &LoraOutGradParams| {
        let LoraWeightGradParams { n, cols, r, splits, .. } = p.d_b;
        [[p.groups, n, columns], [splits, r, cols]]
            .map(|shape| shape.iter().map(|len| *len as usize).product::<usize>())
    };
    let total = parts.iter().flat_map(lens).sum();
    let mut next = cuda.scratch::<f32>(Slot::Partial, total)?;
    for p in parts {
        let [of_d_xa, of_d_b] = lens(p);
        (p.partial, p.d_b.partial) = (next, next.wrapping_add(of_d_xa));
        next = next.wrapping_add(of_d_xa + of_d_b);
    }
    Ok(())
}

/// The sums that `d_xa` and `d_b` of up to [`super::PARTS`] adapters are made of, parts of which there are.
#[derive(Clone, Copy)]
pub(in crate::cuda::launch::gemm) struct Sums {
    params: LoraOutGradSumsParams,
    count: u32,
}

impl Sums {
    /// The parameters and all CTAs of what adds them, of [`LORA_WEIGHT_GRAD_THREADS`] threads, where `beside` says where each
    /// `d_xa` goes as well.
    pub(in crate::cuda::launch::gemm) fn beside(
        mut self,
        beside: impl Fn(MatrixMut) -> MatrixMut,
    ) -> (LoraOutGradSumsParams, u32) {
        for part in &mut self.params.of.parts {
            part.beside = beside(part.d_xa);
        }
        (self.params, self.ctas())
    }

    /// Columns of `d_xa`.
    pub(in crate::cuda::launch::gemm) fn columns(&self) -> usize {
        self.params.of.parts[..self.count as usize].iter().map(|part| part.d_b.r as usize).sum()
    }

    fn ctas(&self) -> u32 {
        2 * self.count * self.params.blocks
    }

    /// Queues what adds them.
    ///
    /// # Safety
    /// The parts are there, of ops that were verified, and nothing has taken their scratch since.
    pub(in crate::cuda::launch::gemm) unsafe fn launch<T: Float>(self, cuda: &Cuda) -> Result<()> {
        let config = LaunchConfig::new(self.ctas(), LORA_WEIGHT_GRAD_THREADS);
        // SAFETY: this function's contract is that of `Cuda::launch`.
        unsafe { cuda.launch(&OUT_GRAD_SUM, T::DTYPE.suffix(), self.params, config) }
    }
}

/// Queues the parts of `d_xa` and `d_b` of up to [`super::PARTS`] adapters, whose sums are left to do.
///
/// # Safety
/// [`params`] made them of ops that were verified, with room for `d_xa_t`.
pub(super) unsafe fn launch<T: Float>(cuda: &Cuda, parts: &mut [LoraOutGradParams]) -> Result<Sums> {
    let (Launch { kernel, config }, of) = cut(cuda, parts)?;
    let threads = |p: &LoraOutGradParams| {
        let of_d_xa = p.d_xa_t.stride as usize * of.columns as usize / 4;
        of_d_xa.max(p.d_b.r.div_ceil(LORA_WEIGHT_GRAD_SUMS) as usize * p.d_b.cols as usize)
    };
    let most = parts.iter().map(threads).max().unwrap_or(0);
    let blocks = grid("lora_grad", &[most], 2 * parts.len() * most.div_ceil(LORA_WEIGHT_GRAD_THREADS as usize))?;
    // SAFETY: the matrices are as this function's contract says, the sums have their room, and `params` checked what the
    // kernel demands beyond.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), of, config)? };
    let count = dim(parts.len());
    Ok(Sums { params: LoraOutGradSumsParams { of, blocks: blocks / (2 * count) }, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On an H200: tiles and blocks of a CTA.
    fn tiles_and_blocks(tokens: u32, columns: u32, parts: &[u32]) -> [u32; 2] {
        let blocks = tokens.div_ceil(LORA_WEIGHT_GRAD_TILE_TOKENS);
        let Cut { tiles, blocks } = Whole { blocks, tiles: parts, columns, slots: 264 }.best();
        [tiles, blocks]
    }

    #[test]
    fn d_out_is_cut_as_was_measured_to_be_best_or_nearly() {
        let of = |parts: &[u32]| [512, 2048, 8192].map(|tokens| tiles_and_blocks(tokens, 16, parts));
        assert_eq!(of(&[64]), [[2, 1], [2, 2], [4, 4]]);
        assert_eq!(of(&[64, 16, 16]), [[2, 1], [4, 2], [4, 6]]);
        assert_eq!(of(&[192, 192]), [[6, 1], [6, 4], [6, 16]]);
        assert_eq!(tiles_and_blocks(8192, 32, &[192, 192]), [4, 12]);
    }
}
