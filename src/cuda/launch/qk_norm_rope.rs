use super::{Cuda, Kernel, LaunchConfig, dim};
use crate::{
    Float, Result,
    cuda::params::{QK_NORM_ROPE_HEADS, QK_NORM_ROPE_THREADS, QkNormRopeGradParams, QkNormRopeParams},
    ops::{Heads, QkNormRope, QkNormRopeGrad},
};

const QK_NORM_ROPE: Kernel<QkNormRopeParams> = Kernel::new("qk_norm_rope", "qk_norm_rope");
const QK_NORM_ROPE_GRAD: Kernel<QkNormRopeGradParams> = Kernel::new("qk_norm_rope", "qk_norm_rope_grad");
/// Heads of one group of lanes.
const HEADS: usize = QK_NORM_ROPE_HEADS as usize;

/// A group of lanes has 16 bytes of each half of a head in each lane.
fn config<T: Float>(n: usize, heads: &Heads) -> LaunchConfig {
    let jobs = n * (heads.q.div_ceil(HEADS) + heads.kv.div_ceil(HEADS));
    let lanes = heads.dim / 2 * size_of::<T>() / 16;
    LaunchConfig::new(dim((jobs * lanes).div_ceil(QK_NORM_ROPE_THREADS as usize)), QK_NORM_ROPE_THREADS)
}

pub(in crate::cuda) fn qk_norm_rope<T: Float>(cuda: &Cuda, mut op: QkNormRope<'_, Cuda, T>) -> Result<()> {
    let n = op.qkv.shape()[0];
    let params = QkNormRopeParams {
        qkv: op.qkv.matrix(),
        q_weight: op.q_weight.ptr() as _,
        k_weight: op.k_weight.ptr() as _,
        positions: op.positions.ptr() as _,
        cos: op.cos.ptr() as _,
        sin: op.sin.ptr() as _,
        q: op.q.matrix(),
        k: op.k.matrix(),
        n: dim(n),
        q_heads: dim(op.heads.q),
        kv_heads: dim(op.heads.kv),
        dim: dim(op.heads.dim),
        max_positions: dim(op.cos.len() / (op.heads.dim / 2)),
        eps: op.eps,
    };
    // SAFETY: `QkNormRope::verify` checked every shape; the kernel clamps positions to the table.
    unsafe { cuda.launch(&QK_NORM_ROPE, T::DTYPE.suffix(), params, config::<T>(n, &op.heads)) }
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
    unsafe { cuda.launch(&QK_NORM_ROPE_GRAD, T::DTYPE.suffix(), params, config::<T>(n, &op.heads)) }
}
