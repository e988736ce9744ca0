//! The gradients of both factors and of the adapter's input.

use super::{
    dropout::dropout_params,
    plan::{self, Launch},
};
use crate::{
    buffer::{Mat, MatMut},
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        launch::{dim, grid},
        params::{
            LORA_TRANSPOSE_MATRICES, LORA_TRANSPOSE_THREADS, LORA_TRANSPOSE_TILE, LORA_WEIGHT_GRAD_THREADS,
            LoraDownParams, LoraTransposeParams, LoraUpParams, LoraWeightGradParams, Matrix, MatrixMut,
            TransposeParams,
        },
        scratch::Slot,
    },
    element::{Element, Float},
    error::Result,
    ops::{Dropout, LoraGrad},
};
use core::ffi::c_void;
use std::ptr::null_mut;

const TRANSPOSE: Kernel<LoraTransposeParams> = Kernel::new("lora_grad", "lora_transpose");
const WEIGHT_GRAD_SUM: Kernel<LoraWeightGradParams> = Kernel::new("lora_grad", "lora_weight_grad_sum");

/// Scratch of the backward pass: what the kernels read transposed.
struct Transposed {
    /// `[in, r]`.
    a: MatrixMut,
    /// `[r, out]`.
    b: MatrixMut,
    /// `[r, n]`, with zeros up to whole tiles of tokens.
    xa: MatrixMut,
    /// The same.
    d_xa: MatrixMut,
}

impl Transposed {
    fn new<T: Element>(cuda: &Cuda, n: usize, k: usize, r: usize, out: usize) -> Result<Self> {
        let n_padded = n.next_multiple_of(LORA_TRANSPOSE_TILE as usize);
        let lens = [k * r, r * out, r * n_padded, r * n_padded].map(|len| (len * size_of::<T>()).next_multiple_of(256));
        let start = cuda.scratch::<u8>(Slot::Adapter, lens.iter().sum())?;
        let at = |i: usize, stride| {
            let ptr = start.wrapping_add(lens[..i].iter().sum()).cast();
            MatrixMut { ptr, stride: dim(stride) }
        };
        Ok(Transposed { a: at(0, r), b: at(1, out), xa: at(2, n_padded), d_xa: at(3, n_padded) })
    }
}

/// `x` `[rows, cols]` to `out` `[cols, out.stride]`.
fn transpose(x: Matrix, [rows, cols]: [usize; 2], out: MatrixMut) -> TransposeParams {
    TransposeParams { x, out, rows: dim(rows), cols: dim(cols) }
}

/// The transposes of A (where its gradient is asked for), B and xa.
fn transposes<T: Float>(op: &LoraGrad<'_, Cuda, T>, scratch: &Transposed) -> LoraTransposeParams {
    let ([n, k], [_, r], [_, out]) = (op.x.shape(), op.xa.shape(), op.d_out.shape());
    let a = match op.d_x {
        Some(_) => transpose(Matrix { ptr: op.a.ptr() as _, stride: dim(k) }, [r, k], scratch.a),
        None => transpose(Matrix::NONE, [0, 0], MatrixMut::NONE),
    };
    let b = transpose(Matrix { ptr: op.b.ptr() as _, stride: dim(r) }, [out, r], scratch.b);
    LoraTransposeParams { matrices: [a, b, transpose(op.xa.matrix(), [n, r], scratch.xa)] }
}

fn transposes_config(p: &LoraTransposeParams) -> LaunchConfig {
    let tiles = |len: u32| len.div_ceil(LORA_TRANSPOSE_TILE) as usize;
    let blocks = p.matrices.iter().map(|m| tiles(m.cols) * tiles(m.out.stride)).max().unwrap_or(0).min(1024);
    LaunchConfig { grid: [dim(blocks), LORA_TRANSPOSE_MATRICES, 1], threads: LORA_TRANSPOSE_THREADS, shared: 0 }
}

/// `d_xa`, also transposed.
fn d_xa_params<T: Float>(op: &mut LoraGrad<'_, Cuda, T>, scratch: &Transposed) -> LoraDownParams {
    let [n, out] = op.d_out.shape();
    LoraDownParams {
        x: op.d_out.matrix(),
        a: scratch.b.ptr,
        out: op.d_xa.matrix(),
        out_t: scratch.d_xa,
        n: dim(n),
        cols: dim(out),
        r: dim(op.xa.shape()[1]),
        scale: op.scale,
        dropout: dropout_params(None).0,
    }
}

/// The gradient of a factor: the sum over tokens of `xaᵀ · drop(x)`.
fn factor_params<T: Float>(
    x: &Mat<'_, Cuda, T>,
    xa: &Mat<'_, Cuda, T>,
    xa_t: MatrixMut,
    out: u64,
    dropout: Option<Dropout>,
) -> LoraWeightGradParams {
    let (dropout, keep_scale) = dropout_params(dropout);
    LoraWeightGradParams {
        x: x.matrix(),
        xa: xa.matrix(),
        xa_t: xa_t.as_const(),
        partial: null_mut(),
        out: out as _,
        n: dim(x.shape()[0]),
        cols: dim(x.shape()[1]),
        r: dim(xa.shape()[1]),
        splits: 0,
        split_len: 0,
        transposed: 0,
        scale: keep_scale,
        dropout,
    }
}

/// `d_x += drop(d_xa · A)`.
fn d_x_params<T: Float>(
    d_xa: &Mat<'_, Cuda, T>,
    mut d_x: MatMut<'_, Cuda, T>,
    a_t: *const c_void,
    dropout: Option<Dropout>,
) -> LoraUpParams {
    let (dropout, keep_scale) = dropout_params(dropout);
    LoraUpParams {
        xa: d_xa.matrix(),
        b: a_t,
        out: d_x.matrix(),
        n: dim(d_x.shape()[0]),
        cols: dim(d_x.shape()[1]),
        r: dim(d_xa.shape()[1]),
        scale: keep_scale,
        dropout,
    }
}

/// Queues the gradient of a factor: parts of the tokens, then their sum.
///
/// # Safety
/// The matrices in `p` are live and as large as its dimensions say; `partial` is set here.
unsafe fn launch_weight_grad<T: Float>(cuda: &Cuda, mut p: LoraWeightGradParams) -> Result<()> {
    if p.cols == 0 {
        return Ok(());
    }
    let Launch { kernel, config } = plan::weight_grad(cuda, T::DTYPE, &mut p);
    let len = p.r as usize * p.cols as usize;
    p.partial = cuda.scratch(Slot::Partial, p.splits as usize * len)?;
    let blocks = grid("lora_grad", &[p.r as usize, p.cols as usize], len.div_ceil(LORA_WEIGHT_GRAD_THREADS as usize))?;
    // SAFETY: the matrices are as this function's contract says, `partial` has room for `splits` parts, and
    // `plan::weight_grad` checked what the kernel demands beyond.
    unsafe {
        cuda.launch(kernel, T::DTYPE.suffix(), p, config)?;
        cuda.launch(&WEIGHT_GRAD_SUM, "", p, LaunchConfig::new(blocks, LORA_WEIGHT_GRAD_THREADS))
    }
}

pub(in crate::cuda) fn lora_grad<T: Float>(cuda: &Cuda, mut op: LoraGrad<'_, Cuda, T>) -> Result<()> {
    let ([n, k], [_, r], [_, out]) = (op.x.shape(), op.xa.shape(), op.d_out.shape());
    if n == 0 || r == 0 {
        return Ok(());
    }
    let suffix = T::DTYPE.suffix();
    let scratch = Transposed::new::<T>(cuda, n, k, r, out)?;
    let transposes = transposes(&op, &scratch);
    let d_xa = d_xa_params(&mut op, &scratch);
    let down = plan::down(cuda, T::DTYPE, &d_xa)?;
    let d_b = LoraWeightGradParams {
        transposed: 1,
        scale: op.scale,
        ..factor_params(&op.d_out, &op.xa, scratch.xa, op.d_b.ptr(), None)
    };
    let d_a = factor_params(&op.x, &op.d_xa.mat(), scratch.d_xa, op.d_a.ptr(), op.dropout);
    // SAFETY: `LoraGrad::verify` checked every shape, `Transposed::new` made room for what is written transposed, and
    // `plan::down` checked what its kernel demands beyond.
    unsafe {
        cuda.launch(&TRANSPOSE, suffix, transposes, transposes_config(&transposes))?;
        cuda.launch(down.kernel, suffix, d_xa, down.config)?;
        launch_weight_grad::<T>(cuda, d_b)?;
        launch_weight_grad::<T>(cuda, d_a)?;
    }
    let Some(d_x) = op.d_x else { return Ok(()) };
    let d_x = d_x_params(&op.d_xa.mat(), d_x, scratch.a.ptr, op.dropout);
    let up = plan::up(T::DTYPE, &d_x)?;
    // SAFETY: `LoraGrad::verify` checked the shape of `d_x`, the first launch above wrote A transposed to scratch, and
    // `plan::up` checked what its kernel demands beyond.
    unsafe { cuda.launch(up.kernel, suffix, d_x, up.config) }
}
