use super::{by_head_dim, dequantize_rows::CacheParams, dim, head_dim_index, is_aligned};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{self, DecodeAttentionParams},
        scratch::Slot,
    },
    element::{DType, Float},
    error::Result,
    ops::{DecodeAttention, Heads},
};

/// For any type and alignment.
static SIMT: [Kernel<DecodeAttentionParams>; 3] = by_head_dim!("decode_attention", "decode_attention_simt");
/// By the tensor cores, for heads of 64 and 128.
static MMA: [Kernel<DecodeAttentionParams>; 2] = [
    Kernel::new("decode_attention", "decode_attention_mma_d64"),
    Kernel::new("decode_attention", "decode_attention_mma_d128"),
];
/// The same for a cache in 8 bits.
static INT8_SIMT: [Kernel<DecodeAttentionParams>; 3] =
    by_head_dim!("decode_attention_int8", "decode_attention_int8_simt");
/// For heads of 128.
static INT8_MMA: Kernel<DecodeAttentionParams> = Kernel::new("decode_attention_int8", "decode_attention_int8_mma_d128");
/// The most query heads of a job; larger groups are cut.
const HEADS: usize = params::DECODE_ATTENTION_HEADS as usize;
/// The most blocks of a job.
const MAX_SPLITS: usize = params::DECODE_ATTENTION_MAX_SPLITS as usize;
/// Splits that are merged at a time.
const MERGED: usize = params::DECODE_ATTENTION_MERGED as usize;
/// What a split leaves for each head after its `dim` sums.
const STATS: usize = params::DECODE_ATTENTION_STATS as usize;
/// Warps of a block.
const WARPS: usize = params::DECODE_ATTENTION_THREADS as usize / 32;

pub(in crate::cuda) fn decode_attention<T: Float>(cuda: &Cuda, mut op: DecodeAttention<'_, Cuda, T>) -> Result<()> {
    let Heads { q: q_heads, kv: kv_heads, dim: d } = op.heads;
    let n_seqs = op.qkv.shape()[0];
    let jobs = n_seqs * kv_heads * (q_heads / kv_heads).div_ceil(HEADS);
    let cache = CacheParams::new(&mut op.cache);
    let int8 = !cache.k_scales.is_null();
    let tile = if int8 { params::DECODE_ATTENTION_INT8_TILE } else { params::DECODE_ATTENTION_TILE };
    let splits = splits(2 * cuda.n_sms as usize / jobs.max(1), op.capacity.div_ceil(WARPS * tile as usize));
    let mut params = DecodeAttentionParams {
        qkv: op.qkv.matrix(),
        q_weight: op.q_weight.ptr() as _,
        k_weight: op.k_weight.ptr() as _,
        positions: op.positions.ptr() as _,
        cos: op.cos.ptr() as _,
        sin: op.sin.ptr() as _,
        k_cache: cache.k,
        v_cache: cache.v,
        k_scales: cache.k_scales,
        v_scales: cache.v_scales,
        out: op.out.matrix(),
        partial: cuda.scratch(Slot::Partial, jobs * splits * HEADS * (d + STATS))?,
        tickets: cuda.scratch(Slot::Tickets, jobs)?,
        n_seqs: dim(n_seqs),
        capacity: dim(op.capacity),
        q_heads: dim(q_heads),
        kv_heads: dim(kv_heads),
        dim: dim(d),
        max_positions: dim(op.cos.len() / (d / 2)),
        splits: dim(splits),
        packed: 0,
        settled: op.settled.into(),
        eps: op.eps,
        scale: op.scale,
    };
    let packed = is_packed(&params, T::DTYPE);
    params.packed = u32::from(packed);
    let tensor_cores = packed && T::DTYPE != DType::F32;
    let kernel = match (int8, tensor_cores, head_dim_index(&op.heads)) {
        (false, true, index @ 1..) => &MMA[index - 1],
        (false, _, index) => &SIMT[index],
        (true, true, 2) => &INT8_MMA,
        (true, _, index) => &INT8_SIMT[index],
    };
    let grid = [dim(n_seqs), dim(jobs / n_seqs.max(1)), dim(splits)];
    let config = LaunchConfig { grid, threads: params::DECODE_ATTENTION_THREADS, shared: 0 };
    // SAFETY: `DecodeAttention::verify` checked every shape; the kernel clamps positions to the table and writes none
    // outside the capacity.
    unsafe { cuda.launch(kernel, T::DTYPE.suffix(), params, config) }
}

/// Blocks for each job, of which there would be `room` at once, two on each multiprocessor: the grid cannot depend on the
/// positions, which only the device knows. One has a batch of keys at least, what its warps take at once. A few more
/// than a merge takes at a time would double its time.
fn splits(room: usize, batches: usize) -> usize {
    let whole = if room > MERGED { room - room % MERGED } else { room };
    whole.clamp(1, batches).min(MAX_SPLITS)
}

/// Can everything that is read be moved 16 bytes at a time?
fn is_packed(p: &DecodeAttentionParams, dtype: DType) -> bool {
    let views = [p.k_cache.cast_const(), p.v_cache, p.q_weight.cast(), p.k_weight.cast(), p.cos.cast(), p.sin.cast()];
    views.iter().all(|view| is_aligned(*view, 0, 16)) && p.qkv.is_aligned(dtype, 16)
}
