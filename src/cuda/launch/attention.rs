use super::{Cuda, Kernel, Shape, dim};
use crate::{
    DType, Float, Result,
    cuda::params::{AttentionGradParams, AttentionParams},
    ops::{Attention, AttentionGrad, Heads},
};
use core::ffi::c_void;

type Forward = Kernel<AttentionParams>;
type Grad = Kernel<AttentionGradParams>;

/// The same kernel for heads of 32, 64 and 128 elements.
const TILED: [Forward; 3] = [
    Kernel::new("attention", "attention_d32"),
    Kernel::new("attention", "attention_d64"),
    Kernel::new("attention", "attention_d128"),
];
const PLAIN: [Forward; 3] = [
    Kernel::new("attention", "attention_plain_d32"),
    Kernel::new("attention", "attention_plain_d64"),
    Kernel::new("attention", "attention_plain_d128"),
];
const DELTA: [Grad; 3] = [
    Kernel::new("attention_grad", "attention_delta_d32"),
    Kernel::new("attention_grad", "attention_delta_d64"),
    Kernel::new("attention_grad", "attention_delta_d128"),
];
const GRAD_KV: [Grad; 3] = [
    Kernel::new("attention_grad", "attention_grad_kv_d32"),
    Kernel::new("attention_grad", "attention_grad_kv_d64"),
    Kernel::new("attention_grad", "attention_grad_kv_d128"),
];
const GRAD_Q: [Grad; 3] = [
    Kernel::new("attention_grad", "attention_grad_q_d32"),
    Kernel::new("attention_grad", "attention_grad_q_d64"),
    Kernel::new("attention_grad", "attention_grad_q_d128"),
];
const GRAD_KV_PLAIN: [Grad; 3] = [
    Kernel::new("attention_grad", "attention_grad_kv_plain_d32"),
    Kernel::new("attention_grad", "attention_grad_kv_plain_d64"),
    Kernel::new("attention_grad", "attention_grad_kv_plain_d128"),
];
const GRAD_Q_PLAIN: [Grad; 3] = [
    Kernel::new("attention_grad", "attention_grad_q_plain_d32"),
    Kernel::new("attention_grad", "attention_grad_q_plain_d64"),
    Kernel::new("attention_grad", "attention_grad_q_plain_d128"),
];

const THREADS: u32 = 128;
/// Rows of one block in the plain kernels: one for each warp.
const PLAIN_ROWS: usize = THREADS as usize / 32;
/// Tiles of the forward kernel and of the gradients, as in the kernels.
const QUERIES: usize = 128;
const KEYS: usize = 64;
const GRAD_TILE: usize = 64;
const GRAD_Q_KEYS: usize = 32;

/// Where the kernels for this head dimension stand in the tables above.
fn index(heads: &Heads) -> usize {
    match heads.dim {
        32 => 0,
        64 => 1,
        _ => 2,
    }
}

/// May every matrix be moved 16 bytes at a time, and multiplied by tensor cores?
fn tiled<T: Float>(mats: &[(*const c_void, usize)]) -> bool {
    let aligned = |(ptr, stride): &(*const c_void, usize)| {
        ptr.addr().is_multiple_of(16) && (stride * size_of::<T>()).is_multiple_of(16)
    };
    T::DTYPE != DType::F32 && mats.iter().all(aligned)
}

/// What `rows` of tiles of every head and sequence need; `bytes` of shared memory.
fn blocks(max_len: usize, rows: usize, sequences: usize, heads: usize, bytes: usize) -> Shape {
    let count = max_len.div_ceil(rows).saturating_mul(sequences).saturating_mul(heads);
    // The driver refuses a grid that is too large.
    let grid = u32::try_from(count).unwrap_or(u32::MAX);
    Shape { grid: [grid, 1, 1], threads: THREADS, shared: dim(bytes) }
}

pub(in crate::cuda) fn attention<T: Float>(cuda: &Cuda, mut op: Attention<'_, Cuda, T>) -> Result<()> {
    let Heads { q: q_heads, kv: kv_heads, dim: d } = op.heads;
    let n = op.q.shape()[0];
    let n_seqs = op.cu_seqlens.len() - 1;
    let max_len = op.max_len.min(n);
    let params = AttentionParams {
        q: op.q.ptr(),
        k: op.k.ptr(),
        v: op.v.ptr(),
        cu_seqlens: op.cu_seqlens.ptr() as _,
        out: op.out.ptr(),
        lse: op.lse.ptr() as _,
        n: dim(n),
        n_seqs: dim(n_seqs),
        max_len: dim(max_len),
        q_heads: dim(q_heads),
        kv_heads: dim(kv_heads),
        dim: dim(d),
        q_stride: dim(op.q.stride),
        k_stride: dim(op.k.stride),
        v_stride: dim(op.v.stride),
        out_stride: dim(op.out.stride),
        scale: op.scale,
    };
    let mats = [
        (params.q, op.q.stride),
        (params.k, op.k.stride),
        (params.v, op.v.stride),
        (params.out.cast_const(), op.out.stride),
    ];
    let (kernel, shape) = if tiled::<T>(&mats) {
        let bytes = (QUERIES + 4 * KEYS) * d * size_of::<T>();
        (&TILED[index(&op.heads)], blocks(max_len, QUERIES, n_seqs, q_heads, bytes))
    } else {
        (&PLAIN[index(&op.heads)], blocks(max_len, PLAIN_ROWS, n_seqs, q_heads, 0))
    };
    // SAFETY: `Attention::verify` checked every shape; the kernels clamp `cu_seqlens` to `n`.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, shape) }
}

pub(in crate::cuda) fn attention_grad<T: Float>(cuda: &Cuda, mut op: AttentionGrad<'_, Cuda, T>) -> Result<()> {
    let Heads { q: q_heads, kv: kv_heads, dim: d } = op.heads;
    let n_seqs = op.cu_seqlens.len() - 1;
    let max_len = op.max_len.min(op.q.shape()[0]);
    let i = index(&op.heads);
    let (params, tiled) = grad_params(&mut op, max_len);
    let delta = Shape::new(dim((op.q.shape()[0] * q_heads).div_ceil(PLAIN_ROWS)), THREADS);
    let (kv, q) = if tiled {
        let kv_bytes = 6 * GRAD_TILE * d * size_of::<T>() + 4 * GRAD_TILE * size_of::<f32>();
        let q_bytes = (2 * QUERIES + 4 * GRAD_Q_KEYS) * d * size_of::<T>();
        (
            (&GRAD_KV[i], blocks(max_len, GRAD_TILE, n_seqs, kv_heads, kv_bytes)),
            (&GRAD_Q[i], blocks(max_len, QUERIES, n_seqs, q_heads, q_bytes)),
        )
    } else {
        (
            (&GRAD_KV_PLAIN[i], blocks(max_len, PLAIN_ROWS, n_seqs, kv_heads, 0)),
            (&GRAD_Q_PLAIN[i], blocks(max_len, PLAIN_ROWS, n_seqs, q_heads, 0)),
        )
    };
    for (kernel, shape) in [(&DELTA[i], delta), kv, q] {
        // SAFETY: `AttentionGrad::verify` checked every shape; the kernels clamp `cu_seqlens` to `n`.
        unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, shape) }?;
    }
    Ok(())
}

/// The parameters, and whether the tiled kernels can take them.
fn grad_params<T: Float>(op: &mut AttentionGrad<'_, Cuda, T>, max_len: usize) -> (AttentionGradParams, bool) {
    let params = AttentionGradParams {
        q: op.q.ptr(),
        k: op.k.ptr(),
        v: op.v.ptr(),
        out: op.out.ptr(),
        d_out: op.d_out.ptr(),
        cu_seqlens: op.cu_seqlens.ptr() as _,
        lse: op.lse.ptr() as _,
        delta: op.delta.ptr() as _,
        d_q: op.d_q.ptr(),
        d_k: op.d_k.ptr(),
        d_v: op.d_v.ptr(),
        n: dim(op.q.shape()[0]),
        n_seqs: dim(op.cu_seqlens.len() - 1),
        max_len: dim(max_len),
        q_heads: dim(op.heads.q),
        kv_heads: dim(op.heads.kv),
        dim: dim(op.heads.dim),
        q_stride: dim(op.q.stride),
        k_stride: dim(op.k.stride),
        v_stride: dim(op.v.stride),
        out_stride: dim(op.out.stride),
        d_out_stride: dim(op.d_out.stride),
        d_q_stride: dim(op.d_q.stride),
        d_k_stride: dim(op.d_k.stride),
        d_v_stride: dim(op.d_v.stride),
        scale: op.scale,
    };
    let mats = [
        (params.q, op.q.stride),
        (params.k, op.k.stride),
        (params.v, op.v.stride),
        (params.d_out, op.d_out.stride),
        (params.d_q.cast_const(), op.d_q.stride),
        (params.d_k.cast_const(), op.d_k.stride),
        (params.d_v.cast_const(), op.d_v.stride),
    ];
    (params, tiled::<T>(&mats))
}
