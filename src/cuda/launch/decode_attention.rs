use super::{Cuda, Kernel, LaunchConfig, dim};
use crate::{
    Float, Result,
    cuda::{
        params::{
            CACHE_APPEND_THREADS, CacheAppendParams, DECODE_ATTENTION_MAX_SPLITS, DECODE_ATTENTION_STATS,
            DECODE_ATTENTION_THREADS, DecodeAttentionParams,
        },
        scratch::Slot,
    },
    ops::{CacheAppend, DecodeAttention, Heads},
};

const CACHE_APPEND: Kernel<CacheAppendParams> = Kernel::new("decode_attention", "cache_append");
/// By query heads of a block (2, 4, 8), then by elements of a head (32, 64, 128).
const DECODE_ATTENTION: [[Kernel<DecodeAttentionParams>; 3]; 3] = [
    [
        Kernel::new("decode_attention", "decode_attention_g2_d32"),
        Kernel::new("decode_attention", "decode_attention_g2_d64"),
        Kernel::new("decode_attention", "decode_attention_g2_d128"),
    ],
    [
        Kernel::new("decode_attention", "decode_attention_g4_d32"),
        Kernel::new("decode_attention", "decode_attention_g4_d64"),
        Kernel::new("decode_attention", "decode_attention_g4_d128"),
    ],
    [
        Kernel::new("decode_attention", "decode_attention_g8_d32"),
        Kernel::new("decode_attention", "decode_attention_g8_d64"),
        Kernel::new("decode_attention", "decode_attention_g8_d128"),
    ],
];
const MAX_SPLITS: usize = DECODE_ATTENTION_MAX_SPLITS as usize;
/// What a split leaves for each head after its `dim` sums.
const STATS: usize = DECODE_ATTENTION_STATS as usize;
/// Fewer keys than this are not worth a block.
const MIN_KEYS: usize = 32;

pub(in crate::cuda) fn cache_append<T: Float>(cuda: &Cuda, mut op: CacheAppend<'_, Cuda, T>) -> Result<()> {
    let [n, width] = op.k.shape();
    let params = CacheAppendParams {
        k: op.k.ptr(),
        v: op.v.ptr(),
        seqs: op.seqs.ptr() as _,
        positions: op.positions.ptr() as _,
        n_seqs: dim(op.k_cache.len() / (op.capacity * width)),
        k_cache: op.k_cache.ptr() as _,
        v_cache: op.v_cache.ptr() as _,
        n: dim(n),
        width: dim(width),
        capacity: dim(op.capacity),
        k_stride: dim(op.k.stride),
        v_stride: dim(op.v.stride),
    };
    // SAFETY: `CacheAppend::verify` checked every shape; the kernel drops rows that fall outside the cache.
    unsafe { cuda.launch(&CACHE_APPEND, T::DTYPE.suffix(), params, LaunchConfig::new(dim(n), CACHE_APPEND_THREADS)) }
}

pub(in crate::cuda) fn decode_attention<T: Float>(cuda: &Cuda, mut op: DecodeAttention<'_, Cuda, T>) -> Result<()> {
    let Heads { q: q_heads, kv: kv_heads, dim: d } = op.heads;
    let n_seqs = op.q.shape()[0];
    let group = q_heads / kv_heads;
    // The kernel for 2, 4 or 8 heads in a block; larger groups are cut into chunks.
    let size = if group <= 2 { 0 } else { usize::from(group > 4) + 1 };
    let jobs = n_seqs * kv_heads * group.div_ceil(2 << size);
    // Two blocks for each multiprocessor: the grid cannot depend on the positions, which only the device knows.
    let splits = (2 * cuda.n_sms as usize).div_ceil(jobs.max(1)).min(op.capacity.div_ceil(MIN_KEYS)).min(MAX_SPLITS);
    let params = DecodeAttentionParams {
        q: op.q.ptr(),
        k_cache: op.k_cache.ptr() as _,
        v_cache: op.v_cache.ptr() as _,
        positions: op.positions.ptr() as _,
        out: op.out.ptr(),
        partial: cuda.scratch(Slot::Partial, n_seqs * q_heads * splits * (d + STATS))?,
        tickets: cuda.scratch(Slot::Tickets, jobs)?,
        n_seqs: dim(n_seqs),
        capacity: dim(op.capacity),
        q_heads: dim(q_heads),
        kv_heads: dim(kv_heads),
        dim: dim(d),
        splits: dim(splits),
        q_stride: dim(op.q.stride),
        out_stride: dim(op.out.stride),
        scale: op.scale,
    };
    let kernel = &DECODE_ATTENTION[size][d.trailing_zeros() as usize - 5];
    // SAFETY: `DecodeAttention::verify` checked every shape; the kernel clamps positions to the capacity.
    unsafe {
        cuda.launch(kernel, T::DTYPE.suffix(), params, LaunchConfig::new(dim(jobs * splits), DECODE_ATTENTION_THREADS))
    }
}
