//! What the backward pass reads transposed.

use super::together;
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::dim,
        params::{
            LORA_TRANSPOSE_MATRICES, LORA_TRANSPOSE_THREADS, LORA_TRANSPOSE_TILE, LoraTransposeParams, Matrix,
            MatrixMut, TransposeParams,
        },
        scratch::Slot,
    },
    element::{Element, Float},
    error::Result,
};

const TRANSPOSE: Kernel<LoraTransposeParams> = Kernel::new("lora_grad", "lora_transpose");

/// Tokens, inputs, rank and outputs of an adapter.
pub(super) struct Shape {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) r: usize,
    pub(super) out: usize,
}

/// Scratch of the backward pass: what the kernels read transposed.
#[derive(Clone, Copy)]
pub(super) struct Transposed {
    /// `[in, r]`.
    pub(super) a: MatrixMut,
    /// `[r, out]`.
    pub(super) b: MatrixMut,
    /// `[r, n]`, with zeros up to whole tiles of tokens.
    pub(super) xa: MatrixMut,
    /// The same.
    pub(super) d_xa: MatrixMut,
}

impl Transposed {
    /// Bytes of each.
    fn lens<T: Element>(shape: &Shape) -> [usize; 4] {
        let Shape { n, k, r, out } = *shape;
        let n_padded = n.next_multiple_of(LORA_TRANSPOSE_TILE as usize);
        [k * r, r * out, r * n_padded, r * n_padded].map(|len| (len * size_of::<T>()).next_multiple_of(256))
    }

    /// Those of several adapters, one after the other.
    pub(super) fn all<T: Element>(cuda: &Cuda, shapes: &[Shape]) -> Result<Vec<Self>> {
        let bytes = |shape| Self::lens::<T>(shape).iter().sum::<usize>();
        let mut next = cuda.scratch::<u8>(Slot::Adapter, shapes.iter().map(bytes).sum())?;
        let place = |shape| {
            let start = next;
            next = start.wrapping_add(bytes(shape));
            Self::at::<T>(start, shape)
        };
        Ok(shapes.iter().map(place).collect())
    }

    fn at<T: Element>(start: *mut u8, shape: &Shape) -> Self {
        let lens = Self::lens::<T>(shape);
        let at = |i: usize, stride| {
            let ptr = start.wrapping_add(lens[..i].iter().sum()).cast();
            MatrixMut { ptr, stride: dim(stride) }
        };
        let n_padded = shape.n.next_multiple_of(LORA_TRANSPOSE_TILE as usize);
        Transposed { a: at(0, shape.r), b: at(1, shape.out), xa: at(2, n_padded), d_xa: at(3, n_padded) }
    }
}

/// `x` `[rows, cols]` to `out` `[cols, out.stride]`.
pub(super) fn transpose(x: Matrix, [rows, cols]: [usize; 2], out: MatrixMut) -> TransposeParams {
    TransposeParams { x, out, rows: dim(rows), cols: dim(cols) }
}

pub(super) const MATRICES: usize = LORA_TRANSPOSE_MATRICES as usize;

fn transposes_config(matrices: &[TransposeParams]) -> LaunchConfig {
    let tiles = |len: u32| len.div_ceil(LORA_TRANSPOSE_TILE) as usize;
    let blocks = matrices.iter().map(|m| tiles(m.cols) * tiles(m.out.stride)).max().unwrap_or(0).min(1024);
    LaunchConfig { grid: [dim(blocks), dim(matrices.len()), 1], threads: LORA_TRANSPOSE_THREADS, shared: 0 }
}

/// Queues all that there is to transpose.
///
/// # Safety
/// The matrices are live and as large as the dimensions say.
pub(super) unsafe fn launch<T: Float>(cuda: &Cuda, matrices: &[TransposeParams]) -> Result<()> {
    let config = transposes_config(matrices);
    if config.grid[0] == 0 {
        return Ok(());
    }
    let params = LoraTransposeParams { matrices: together(matrices) };
    // SAFETY: this function's contract is that of `Cuda::launch`.
    unsafe { cuda.launch(&TRANSPOSE, T::DTYPE.suffix(), params, config) }
}
