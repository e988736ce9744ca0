use super::{dequantize_rows::CacheParams, dim};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{QK_NORM_ROPE_HEADS, QK_NORM_ROPE_THREADS, QkNormRopeGradParams, QkNormRopeParams},
    },
    element::Float,
    error::Result,
    ops::{Heads, QkNormRope, QkNormRopeGrad},
};

const QK_NORM_ROPE: Kernel<QkNormRopeParams> = Kernel::new("qk_norm_rope", "qk_norm_rope");
const QK_NORM_ROPE_GRAD: Kernel<QkNormRopeGradParams> = Kernel::new("qk_norm_rope", "qk_norm_rope_grad");
/// Heads of one group of lanes.
const HEADS: usize = QK_NORM_ROPE_HEADS as usize;

/// A group of lanes has 16 bytes of each half of a head in each lane. Keys are one part of key/value heads, values
/// another.
fn config<T: Float>(n: usize, heads: &Heads, kv_parts: usize) -> LaunchConfig {
    let jobs = n * (heads.q.div_ceil(HEADS) + kv_parts * heads.kv.div_ceil(HEADS));
    let lanes = heads.dim / 2 * size_of::<T>() / 16;
    LaunchConfig::new(dim((jobs * lanes).div_ceil(QK_NORM_ROPE_THREADS as usize)), QK_NORM_ROPE_THREADS)
}

pub(in crate::cuda) fn qk_norm_rope<T: Float>(cuda: &Cuda, mut op: QkNormRope<'_, Cuda, T>) -> Result<()> {
    let (n, row) = (op.qkv.shape()[0], op.heads.kv * op.heads.dim);
    let cache = op.cache.as_mut().map_or(CacheParams::NONE, |cache| CacheParams::new(&mut cache.kv));
    let params = QkNormRopeParams {
        qkv: op.qkv.matrix(),
        q_weight: op.q_weight.ptr() as _,
        k_weight: op.k_weight.ptr() as _,
        positions: op.positions.ptr() as _,
        cos: op.cos.ptr() as _,
        sin: op.sin.ptr() as _,
        q: op.q.matrix(),
        k: op.k.matrix(),
        seqs: op.cache.as_ref().map_or(0, |cache| cache.seqs.ptr()) as _,
        k_cache: cache.k,
        v_cache: cache.v,
        k_scales: cache.k_scales,
        v_scales: cache.v_scales,
        n_seqs: op.cache.as_ref().map_or(0, |cache| dim(cache.kv.len() / (cache.capacity * row))),
        capacity: op.cache.as_ref().map_or(0, |cache| dim(cache.capacity)),
        n: dim(n),
        q_heads: dim(op.heads.q),
        kv_heads: dim(op.heads.kv),
        dim: dim(op.heads.dim),
        max_positions: dim(op.cos.len() / (op.heads.dim / 2)),
        eps: op.eps,
    };
    let kv_parts = if op.cache.is_some() { 2 } else { 1 };
    // SAFETY: `QkNormRope::verify` checked every shape; the kernel clamps positions to the table and leaves out rows that
    // fall outside the cache.
    unsafe { cuda.launch(&QK_NORM_ROPE, T::DTYPE.suffix(), params, config::<T>(n, &op.heads, kv_parts)) }
}

pub(in crate::cuda) fn qk_norm_rope_grad<T: Float>(cuda: &Cuda, mut op: QkNormRopeGrad<'_, Cuda, T>) -> Result<()> {
    let n = op.qkv.shape()[0];
    let params = QkNormRopeGradParams {
        qkv: op.qkv.matrix(),
        q_weight: op.q_weight.ptr() as _,
        k_weight: op.k_weight.ptr() as _,
        positions: op.positions.ptr() as _,
        cos: op.cos.ptr() as _,
        sin: op.sin.ptr() as _,
        d_q: op.d_q.matrix(),
        d_k: op.d_k.matrix(),
        d_qk: op.d_qk.matrix(),
        n: dim(n),
        q_heads: dim(op.heads.q),
        kv_heads: dim(op.heads.kv),
        dim: dim(op.heads.dim),
        max_positions: dim(op.cos.len() / (op.heads.dim / 2)),
        eps: op.eps,
    };
    // SAFETY: `QkNormRopeGrad::verify` checked every shape; the kernel clamps positions to the table.
    unsafe { cuda.launch(&QK_NORM_ROPE_GRAD, T::DTYPE.suffix(), params, config::<T>(n, &op.heads, 1)) }
}
