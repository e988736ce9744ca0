use std::ptr::null;

use super::{attention_wgmma, by_head_dim, dim, grid, head_dim_index};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{self, ATTENTION_MMA_THREADS, ATTENTION_STAGES, AttentionGradParams, AttentionParams, Matrix},
    },
    element::{DType, Float},
    error::Result,
    ops::{Attention, AttentionGrad, Heads},
};

type Forward = Kernel<AttentionParams>;
type Grad = Kernel<AttentionGradParams>;

const SIMT: [Forward; 3] = by_head_dim!("attention", "attention_simt");
const MMA: [Forward; 3] = by_head_dim!("attention", "attention_mma");
const DELTA: [Grad; 3] = by_head_dim!("attention_grad", "attention_delta");
const KV_SIMT: [Grad; 3] = by_head_dim!("attention_grad", "attention_grad_kv_simt");
const KV_MMA: [Grad; 3] = by_head_dim!("attention_grad", "attention_grad_kv_mma");
const Q_SIMT: [Grad; 3] = by_head_dim!("attention_grad", "attention_grad_q_simt");
const Q_MMA: [Grad; 3] = by_head_dim!("attention_grad", "attention_grad_q_mma");

/// Can these matrices, all that tiles are made of, be moved 16 bytes at a time and multiplied by tensor cores?
fn takes_tiles(dtype: DType, matrices: &[Matrix]) -> bool {
    dtype != DType::F32 && matrices.iter().all(|matrix| matrix.is_aligned(dtype, 16))
}

/// What a grid counts: blocks of rows of the longest sequence, for each of these heads and sequences.
struct Work {
    op: &'static str,
    max_len: usize,
    heads: usize,
    n_seqs: usize,
}

impl Work {
    fn grid(&self, rows: u32) -> Result<[u32; 3]> {
        let blocks = self.max_len.div_ceil(rows as usize).saturating_mul(self.heads * self.n_seqs);
        Ok([grid(self.op, &[self.max_len, self.heads, self.n_seqs], blocks)?, 1, 1])
    }

    /// One row to a warp.
    fn simt(&self) -> Result<LaunchConfig> {
        let warps = params::ATTENTION_SIMT_WARPS;
        Ok(LaunchConfig { grid: self.grid(warps)?, threads: 32 * warps, shared: 0 })
    }

    /// `rows` rows to a CTA, by `mma.sync`.
    fn mma(&self, rows: u32, shared: u32) -> Result<LaunchConfig> {
        Ok(LaunchConfig { grid: self.grid(rows)?, threads: ATTENTION_MMA_THREADS, shared })
    }
}

/// Bytes of `rows` rows of a head, as tiles have them.
fn rows_bytes(heads: &Heads, rows: u32) -> u32 {
    rows * dim(heads.dim) * 2
}

pub(in crate::cuda) fn attention<T: Float>(cuda: &Cuda, mut op: Attention<'_, Cuda, T>) -> Result<()> {
    let heads = op.heads;
    let (n, n_seqs) = (op.q.shape()[0], op.cu_seqlens.len() - 1);
    let max_len = op.max_len.min(n);
    let prefix = op.prefix.as_ref();
    let params = AttentionParams {
        q: op.q.matrix(),
        k: op.k.matrix(),
        v: op.v.matrix(),
        cu_seqlens: op.cu_seqlens.ptr() as _,
        prefix_k: prefix.map_or(Matrix::NONE, |prefix| prefix.k.matrix()),
        prefix_v: prefix.map_or(Matrix::NONE, |prefix| prefix.v.matrix()),
        prefixes: prefix.map_or(null(), |prefix| prefix.rows.ptr() as _),
        out: op.out.matrix(),
        lse: op.lse.ptr() as _,
        n: dim(n),
        n_prefix: dim(prefix.map_or(0, |prefix| prefix.k.shape()[0])),
        n_seqs: dim(n_seqs),
        max_len: dim(max_len),
        q_heads: dim(heads.q),
        kv_heads: dim(heads.kv),
        dim: dim(heads.dim),
        scale: op.scale,
    };
    let work = Work { op: "attention", max_len, heads: heads.q, n_seqs };
    let matrices = [params.q, params.k, params.v, params.prefix_k, params.prefix_v, params.out.as_const()];
    let suffix = T::DTYPE.suffix();
    let i = head_dim_index(&heads);
    let (kernel, config) = if !takes_tiles(T::DTYPE, &matrices) {
        (&SIMT[i], work.simt()?)
    } else if let Some(kernel) = attention_wgmma::forward_kernel(cuda, &heads, suffix)? {
        // SAFETY: `Attention::verify` checked every shape.
        return unsafe { attention_wgmma::forward(cuda, kernel, params, T::DTYPE) };
    } else {
        (&MMA[i], mma(&work, &heads)?)
    };
    // SAFETY: `Attention::verify` checked every shape; the kernels clamp `cu_seqlens` to `n` and `prefixes` to `n_prefix`.
    unsafe { cuda.launch(kernel, suffix, params, config) }
}

fn mma(work: &Work, heads: &Heads) -> Result<LaunchConfig> {
    use params::{ATTENTION_MMA_KEYS as KEYS, ATTENTION_MMA_QUERIES as QUERIES};
    work.mma(QUERIES, rows_bytes(heads, QUERIES + 2 * ATTENTION_STAGES * KEYS))
}

/// Keys and values, and stages of queries, their gradients, their lse and delta.
fn kv_bytes(heads: &Heads, keys: u32, queries: u32) -> u32 {
    let lse_and_delta = 2 * queries * size_of::<f32>() as u32;
    rows_bytes(heads, 2 * keys) + ATTENTION_STAGES * (rows_bytes(heads, 2 * queries) + lse_and_delta)
}

fn kv_mma(work: &Work, heads: &Heads) -> Result<LaunchConfig> {
    use params::{ATTENTION_GRAD_KV_MMA_KEYS as KEYS, ATTENTION_GRAD_KV_MMA_QUERIES as QUERIES};
    work.mma(KEYS, kv_bytes(heads, KEYS, QUERIES))
}

fn q_mma(work: &Work, heads: &Heads) -> Result<LaunchConfig> {
    use params::{ATTENTION_GRAD_Q_MMA_KEYS as KEYS, ATTENTION_GRAD_Q_MMA_QUERIES as QUERIES};
    work.mma(QUERIES, rows_bytes(heads, 2 * QUERIES + 2 * ATTENTION_STAGES * KEYS))
}

/// Groups of lanes, each with 16 bytes of a row's head.
fn delta(dtype: DType, params: &AttentionGradParams) -> Result<LaunchConfig> {
    const THREADS: usize = 32 * params::ATTENTION_SIMT_WARPS as usize;
    let [rows, heads, dim] = [params.n, params.q_heads, params.dim].map(|d| d as usize);
    let blocks = (rows * heads).saturating_mul(dim * dtype.bytes() / 16).div_ceil(THREADS);
    Ok(LaunchConfig::new(grid("attention_grad", &[rows, heads, dim], blocks)?, THREADS as u32))
}

pub(in crate::cuda) fn attention_grad<T: Float>(cuda: &Cuda, mut op: AttentionGrad<'_, Cuda, T>) -> Result<()> {
    let heads = op.heads;
    let params = grad_params(&mut op);
    let (n_seqs, max_len) = (params.n_seqs as usize, params.max_len as usize);
    let kv = Work { op: "attention_grad", max_len, heads: heads.kv, n_seqs };
    let q = Work { op: "attention_grad", max_len, heads: heads.q, n_seqs };
    let suffix = T::DTYPE.suffix();
    let i = head_dim_index(&heads);
    // All that the tiled kernels move.
    let matrices = [params.q, params.k, params.v, params.d_out]
        .into_iter()
        .chain([params.d_q, params.d_k, params.d_v].map(params::MatrixMut::as_const))
        .collect::<Vec<_>>();
    // SAFETY: `AttentionGrad::verify` checked every shape; the kernels clamp `cu_seqlens` to `n`.
    unsafe { cuda.launch(&DELTA[i], suffix, params, delta(T::DTYPE, &params)?) }?;
    let (kv, q) = if !takes_tiles(T::DTYPE, &matrices) {
        ((&KV_SIMT[i], kv.simt()?), (&Q_SIMT[i], q.simt()?))
    } else if let Some(kernels) = attention_wgmma::grad_kernels(cuda, &heads, suffix)? {
        // SAFETY: `AttentionGrad::verify` checked every shape.
        return unsafe { attention_wgmma::grad(cuda, kernels, params, T::DTYPE) };
    } else {
        ((&KV_MMA[i], kv_mma(&kv, &heads)?), (&Q_MMA[i], q_mma(&q, &heads)?))
    };
    for (kernel, config) in [kv, q] {
        // SAFETY: `AttentionGrad::verify` checked every shape; the kernels clamp `cu_seqlens` to `n`.
        unsafe { cuda.launch(kernel, suffix, params, config) }?;
    }
    Ok(())
}

fn grad_params<T: Float>(op: &mut AttentionGrad<'_, Cuda, T>) -> AttentionGradParams {
    let n = op.q.shape()[0];
    AttentionGradParams {
        q: op.q.matrix(),
        k: op.k.matrix(),
        v: op.v.matrix(),
        out: op.out.matrix(),
        d_out: op.d_out.matrix(),
        cu_seqlens: op.cu_seqlens.ptr() as _,
        lse: op.lse.ptr() as _,
        delta: op.delta.ptr() as _,
        d_q: op.d_q.matrix(),
        d_k: op.d_k.matrix(),
        d_v: op.d_v.matrix(),
        n: dim(n),
        n_seqs: dim(op.cu_seqlens.len() - 1),
        max_len: dim(op.max_len.min(n)),
        q_heads: dim(op.heads.q),
        kv_heads: dim(op.heads.kv),
        dim: dim(op.heads.dim),
        scale: op.scale,
    }
}
