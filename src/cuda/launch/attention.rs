use super::{Cuda, Kernel, LaunchConfig, dim};
use crate::{
    DType, Float, Result,
    cuda::params::{AttentionGradParams, AttentionParams},
    ops::{Attention, AttentionGrad, Heads},
};
use core::ffi::c_void;

type Forward = Kernel<AttentionParams>;
type Grad = Kernel<AttentionGradParams>;

/// The same kernel for heads of 32, 64 and 128 elements.
macro_rules! by_dim {
    ($file:literal, $name:literal) => {
        [
            Kernel::new($file, concat!($name, "_d32")),
            Kernel::new($file, concat!($name, "_d64")),
            Kernel::new($file, concat!($name, "_d128")),
        ]
    };
}
const PLAIN: [Forward; 3] = by_dim!("attention", "attention_plain");
const WARPS: [Forward; 3] = by_dim!("attention", "attention");
const GROUPS: [Forward; 3] = by_dim!("attention", "attention_wide");
const DELTA: [Grad; 3] = by_dim!("attention_grad", "attention_delta");
const KV_PLAIN: [Grad; 3] = by_dim!("attention_grad", "attention_grad_kv_plain");
const KV_WARPS: [Grad; 3] = by_dim!("attention_grad", "attention_grad_kv");
const KV_GROUPS: [Grad; 3] = by_dim!("attention_grad", "attention_grad_kv_wide");
const Q_PLAIN: [Grad; 3] = by_dim!("attention_grad", "attention_grad_q_plain");
const Q_WARPS: [Grad; 3] = by_dim!("attention_grad", "attention_grad_q");
const Q_GROUPS: [Grad; 3] = by_dim!("attention_grad", "attention_grad_q_wide");

/// The kernels that can run an op.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Engine {
    /// Any type, any alignment.
    Plain,
    /// `mma.sync`.
    Warps,
    /// `wgmma`.
    Groups,
}

/// Rows of one block in the plain kernels: one for each warp.
const PLAIN_ROWS: usize = 4;
const PLAIN_THREADS: u32 = 128;

/// Where the kernels for this head dimension stand in the tables above.
fn index(heads: &Heads) -> usize {
    match heads.dim {
        32 => 0,
        64 => 1,
        _ => 2,
    }
}

fn engine<T: Float, P>(cuda: &Cuda, groups: &Kernel<P>, mats: &[(*const c_void, usize)]) -> Result<Engine> {
    let aligned = |(ptr, stride): &(*const c_void, usize)| {
        ptr.addr().is_multiple_of(16) && (stride * size_of::<T>()).is_multiple_of(16)
    };
    if T::DTYPE == DType::F32 || !mats.iter().all(aligned) {
        return Ok(Engine::Plain);
    }
    Ok(if cuda.has(groups, T::DTYPE.suffix())? { Engine::Groups } else { Engine::Warps })
}

/// Blocks of `rows` rows for every head and sequence; `bytes` of shared memory.
fn blocks(max_len: usize, rows: usize, jobs: usize, threads: u32, bytes: usize) -> LaunchConfig {
    // The driver refuses a grid that is too large.
    let grid = u32::try_from(max_len.div_ceil(rows).saturating_mul(jobs)).unwrap_or(u32::MAX);
    LaunchConfig { grid: [grid, 1, 1], threads, shared: dim(bytes) }
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
    let i = index(&op.heads);
    let jobs = n_seqs * q_heads;
    // Tiles in shared memory, as in the kernels: queries, and two stages of keys and values.
    let bytes = |queries: usize, keys: usize| (queries + 4 * keys) * d * size_of::<T>();
    let (kernel, shape) = match engine::<T, _>(cuda, &GROUPS[i], &mats)? {
        Engine::Plain => (&PLAIN[i], blocks(max_len, PLAIN_ROWS, jobs, PLAIN_THREADS, 0)),
        Engine::Warps => (&WARPS[i], blocks(max_len, 128, jobs, 128, bytes(128, 64))),
        Engine::Groups => (&GROUPS[i], blocks(max_len, 128, jobs, 256, bytes(128, 128))),
    };
    // SAFETY: `Attention::verify` checked every shape; the kernels clamp `cu_seqlens` to `n`.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, shape) }
}

pub(in crate::cuda) fn attention_grad<T: Float>(cuda: &Cuda, mut op: AttentionGrad<'_, Cuda, T>) -> Result<()> {
    let Heads { q: q_heads, kv: kv_heads, dim: d } = op.heads;
    let n_seqs = op.cu_seqlens.len() - 1;
    let max_len = op.max_len.min(op.q.shape()[0]);
    let i = index(&op.heads);
    let (params, mats) = grad_params(&mut op, max_len);
    let delta = LaunchConfig::new(dim((op.q.shape()[0] * q_heads).div_ceil(PLAIN_ROWS)), PLAIN_THREADS);
    let (kv_jobs, q_jobs) = (n_seqs * kv_heads, n_seqs * q_heads);
    // Tiles in shared memory, as in the kernels: one pair, two stages of the other, and its lse and delta.
    let bytes = |own: usize, other: usize| (2 * own + 4 * other) * d * size_of::<T>();
    let rows = 4 * 64 * size_of::<f32>();
    let (kv, q) = match engine::<T, _>(cuda, &KV_GROUPS[i], &mats)? {
        Engine::Plain => (
            (&KV_PLAIN[i], blocks(max_len, PLAIN_ROWS, kv_jobs, PLAIN_THREADS, 0)),
            (&Q_PLAIN[i], blocks(max_len, PLAIN_ROWS, q_jobs, PLAIN_THREADS, 0)),
        ),
        Engine::Warps => (
            (&KV_WARPS[i], blocks(max_len, 64, kv_jobs, 128, bytes(64, 64) + rows)),
            (&Q_WARPS[i], blocks(max_len, 128, q_jobs, 128, bytes(128, 32))),
        ),
        Engine::Groups => (
            (&KV_GROUPS[i], blocks(max_len, 128, kv_jobs, 256, bytes(128, 64) + rows)),
            (&Q_GROUPS[i], blocks(max_len, 128, q_jobs, 256, bytes(128, 64))),
        ),
    };
    for (kernel, shape) in [(&DELTA[i], delta), kv, q] {
        // SAFETY: `AttentionGrad::verify` checked every shape; the kernels clamp `cu_seqlens` to `n`.
        unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, shape) }?;
    }
    Ok(())
}

/// The parameters, and every matrix that the tiled kernels move.
fn grad_params<T: Float>(
    op: &mut AttentionGrad<'_, Cuda, T>,
    max_len: usize,
) -> (AttentionGradParams, [(*const c_void, usize); 7]) {
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
    (params, mats)
}
