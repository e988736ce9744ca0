//! What `linear` and `linear4` share: the shape of a product, and the grids of the kernels that both have.

mod blas;
pub(in crate::cuda) mod linear;
pub(in crate::cuda) mod linear4;
pub(in crate::cuda) mod lora;
pub(in crate::cuda) mod weight_grad;

pub(in crate::cuda) use blas::Blas;
pub use blas::has_cublaslt;

use super::{Cuda, Kernel, LaunchConfig, dim, suffix_out};
use crate::{
    DType, Float, Mat, MatMut, Result,
    cuda::{params::LinearParams, scratch::Slot},
};
use core::ffi::c_void;
use std::ptr::null_mut;

/// The most tokens of the kernels that read the weight once, as operand A.
pub(super) const FEW: usize = 16;
/// The most tokens of the FMA kernel with one warp for each output.
const FEW_ROWS: usize = 8;
/// kernels/tensor.cuh: threads, outputs of a tile, and the contraction's step.
const TENSOR_THREADS: u32 = 256;
const TILE_OUT: usize = 128;
const TILE_K: usize = 64;
/// Tiles of x that wait in shared memory.
const X_STAGES: usize = 3;
/// kernels/simt.cuh: threads, tokens and outputs of a tile, and the contraction's step.
const SIMT_THREADS: u32 = 256;
const SIMT_TILE: usize = 64;
const SIMT_K: usize = 16;
/// CTAs of a product on one multiprocessor.
const CTAS_PER_SM: usize = 2;
/// A contraction is cut into this many parts at most, each of this many elements at least.
const MAX_SPLITS: usize = 16;
const MIN_SPLIT: usize = 256;

const SUM: Kernel<LinearParams> = Kernel::new("linear", "linear_sum");

/// `out (+)= x B`: `x` `[n, k]`, `out` `[n, m]`, `B` the transpose of a weight `[m, k]`; in a gradient a weight `[k, m]`.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) grad: bool,
    pub(super) n: usize,
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) x: *const c_void,
    pub(super) x_stride: usize,
    pub(super) out: *mut c_void,
    pub(super) out_stride: usize,
    pub(super) input: DType,
    pub(super) output: DType,
    pub(super) accumulate: bool,
}

/// The kernels of one weight type, by what they take.
pub(super) struct Kernels<P> {
    /// Any shape.
    pub(super) any: Kernel<P>,
    /// Forward, up to [`FEW_ROWS`] tokens.
    pub(super) any_rows: Kernel<P>,
    /// Tensor cores, with tiles of 32, 64 and 128 tokens.
    pub(super) tensor: [Kernel<P>; 3],
    /// Tiles of the weight that wait in shared memory.
    pub(super) weight_stages: usize,
}

/// How a kernel is launched, and into how many parts the contraction is cut.
pub(super) struct Plan<'k, P> {
    pub(super) kernel: &'k Kernel<P>,
    pub(super) shape: LaunchConfig,
    pub(super) splits: usize,
}

impl Product {
    pub(super) fn new<T: Float, O: Float>(
        grad: bool,
        x: &Mat<'_, Cuda, T>,
        out: &mut MatMut<'_, Cuda, O>,
        accumulate: bool,
    ) -> Self {
        Product {
            grad,
            n: x.shape()[0],
            m: out.shape()[1],
            k: x.shape()[1],
            x: x.ptr(),
            x_stride: x.stride,
            out: out.ptr(),
            out_stride: out.stride,
            input: T::DTYPE,
            output: O::DTYPE,
            accumulate,
        }
    }

    pub(super) fn suffix(&self) -> &'static str {
        suffix_out(self.input, self.output)
    }

    /// May the tensor-core kernels read `x`?
    pub(super) fn x_is_aligned(&self) -> bool {
        self.input != DType::F32 && is_aligned(self.x, self.x_stride, self.input)
    }

    /// The tensor-core kernel with the smallest tile that holds all tokens, or the largest.
    pub(super) fn plan_tensor<'k, P>(&self, cuda: &Cuda, kernels: &'k Kernels<P>) -> Plan<'k, P> {
        let (which, tokens) = match self.n {
            0..=32 => (0, 32),
            33..=64 => (1, 64),
            _ => (2, 128),
        };
        let tiles = self.n.div_ceil(tokens) * self.m.div_ceil(TILE_OUT);
        let splits = parts(cuda.n_sms as usize, tiles, self.k.div_ceil(TILE_K), TILE_K);
        let bytes = 2 * TILE_K * (X_STAGES * tokens + kernels.weight_stages * TILE_OUT);
        let shape = LaunchConfig { grid: [dim(tiles), dim(splits), 1], threads: TENSOR_THREADS, shared: dim(bytes) };
        Plan { kernel: &kernels.tensor[which], shape, splits }
    }

    /// The FMA kernel for any shape.
    pub(super) fn plan_any<'k, P>(&self, cuda: &Cuda, kernels: &'k Kernels<P>) -> Plan<'k, P> {
        if !self.grad && self.n <= FEW_ROWS {
            let blocks = self.m.div_ceil(SIMT_THREADS as usize / 32);
            let blocks = if self.n == 0 { 0 } else { blocks };
            return Plan { kernel: &kernels.any_rows, shape: LaunchConfig::new(dim(blocks), SIMT_THREADS), splits: 1 };
        }
        let tiles = self.n.div_ceil(SIMT_TILE) * self.m.div_ceil(SIMT_TILE);
        let splits = parts(cuda.n_sms as usize, tiles, self.k.div_ceil(SIMT_K), SIMT_K);
        let shape = LaunchConfig { grid: [dim(tiles), dim(splits), 1], threads: SIMT_THREADS, shared: 0 };
        Plan { kernel: &kernels.any, shape, splits }
    }

    /// Where the parts of a contraction go.
    pub(super) fn partial(&self, cuda: &Cuda, splits: usize) -> Result<*mut f32> {
        if splits > 1 { cuda.scratch(Slot::Partial, splits * self.n * self.m) } else { Ok(null_mut()) }
    }

    /// Queues the sum of the parts.
    ///
    /// # Safety
    /// `partial` and `out` are live and as long as the dimensions say.
    pub(super) unsafe fn add_parts(&self, cuda: &Cuda, partial: *mut f32, splits: usize) -> Result<()> {
        if splits == 1 {
            return Ok(());
        }
        /// Threads of a CTA, and CTAs of a multiprocessor.
        const SUM_THREADS: u32 = 256;
        const SUM_BLOCKS: usize = 8;
        let params = LinearParams {
            x: std::ptr::null(),
            weight: std::ptr::null(),
            out: self.out,
            partial,
            n: dim(self.n),
            rows: dim(self.m),
            cols: 0,
            x_stride: 0,
            out_stride: dim(self.out_stride),
            accumulate: self.accumulate.into(),
            splits: dim(splits),
        };
        let blocks = (self.n * self.m).div_ceil(SUM_THREADS as usize).min(cuda.n_sms as usize * SUM_BLOCKS);
        // SAFETY: the caller's word; the kernel reads `partial` and writes `out` within `n`, `rows` and `splits`.
        unsafe { cuda.launch(&SUM, self.suffix(), params, LaunchConfig::new(dim(blocks), SUM_THREADS)) }
    }
}

/// Can rows that start at `ptr`, `stride` elements apart, be moved 16 bytes at a time?
pub(super) fn is_aligned(ptr: *const c_void, stride: usize, dtype: DType) -> bool {
    (ptr as usize).is_multiple_of(16) && (stride * dtype.bytes()).is_multiple_of(16)
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
