use super::{by_head_dim, dim, head_dim_index};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{
            DECODE_ATTENTION_MAX_SPLITS, DECODE_ATTENTION_STATS, DECODE_ATTENTION_THREADS, DecodeAttentionParams,
        },
        scratch::Slot,
    },
    element::Float,
    error::Result,
    ops::{DecodeAttention, Heads},
};

/// The most query heads of a block, and the kernels for that.
macro_rules! by_group {
    ($heads:literal) => {
        ($heads, by_head_dim!("decode_attention", "decode_attention_g", $heads))
    };
}
static DECODE_ATTENTION: [(usize, [Kernel<DecodeAttentionParams>; 3]); 3] = [by_group!(2), by_group!(4), by_group!(8)];
const MAX_SPLITS: usize = DECODE_ATTENTION_MAX_SPLITS as usize;
/// What a split leaves for each head after its `dim` sums.
const STATS: usize = DECODE_ATTENTION_STATS as usize;
/// Fewer keys than this are not worth a block.
const MIN_KEYS: usize = 32;

pub(in crate::cuda) fn decode_attention<T: Float>(cuda: &Cuda, mut op: DecodeAttention<'_, Cuda, T>) -> Result<()> {
    let Heads { q: q_heads, kv: kv_heads, dim: d } = op.heads;
    let n_seqs = op.q.shape()[0];
    let group = q_heads / kv_heads;
    // Larger groups are cut into chunks.
    let [.., largest] = &DECODE_ATTENTION;
    let (size, kernels) = DECODE_ATTENTION.iter().find(|(size, _)| group <= *size).unwrap_or(largest);
    let jobs = n_seqs * kv_heads * group.div_ceil(*size);
    // Two blocks for each multiprocessor: the grid cannot depend on the positions, which only the device knows.
    let splits = (2 * cuda.n_sms as usize).div_ceil(jobs.max(1)).min(op.capacity.div_ceil(MIN_KEYS)).min(MAX_SPLITS);
    let params = DecodeAttentionParams {
        q: op.q.matrix(),
        k_cache: op.k_cache.ptr() as _,
        v_cache: op.v_cache.ptr() as _,
        positions: op.positions.ptr() as _,
        out: op.out.matrix(),
        partial: cuda.scratch(Slot::Partial, n_seqs * q_heads * splits * (d + STATS))?,
        tickets: cuda.scratch(Slot::Tickets, jobs)?,
        n_seqs: dim(n_seqs),
        capacity: dim(op.capacity),
        q_heads: dim(q_heads),
        kv_heads: dim(kv_heads),
        dim: dim(d),
        splits: dim(splits),
        scale: op.scale,
    };
    let kernel = &kernels[head_dim_index(&op.heads)];
    // SAFETY: `DecodeAttention::verify` checked every shape; the kernel clamps positions to the capacity.
    unsafe {
        cuda.launch(kernel, T::DTYPE.suffix(), params, LaunchConfig::new(dim(jobs * splits), DECODE_ATTENTION_THREADS))
    }
}
