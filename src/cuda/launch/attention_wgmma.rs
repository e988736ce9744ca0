//! `attention` and `attention_grad` on Hopper, for heads of 64 and 128 elements and matrices that can be moved 16 bytes at a
//! time.

use std::ptr::null_mut;

use super::{copied::Copied, grid};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{
            self, ATTENTION_WGMMA_COPY_COLUMNS, ATTENTION_WGMMA_COPY_ROWS, AttentionGradParams,
            AttentionGradWgmmaParams, AttentionParams, AttentionWgmmaParams, Matrix, TensorMap,
        },
        scratch::Slot,
    },
    element::DType,
    error::Result,
    ops::Heads,
};

/// The same kernel for heads of 64 and 128 elements.
macro_rules! by_head_dim {
    ($file:literal, $name:literal) => {
        [Kernel::new($file, concat!($name, "_d64")), Kernel::new($file, concat!($name, "_d128"))]
    };
}

static FORWARD: [Kernel<AttentionWgmmaParams>; 2] = by_head_dim!("attention_wgmma", "attention_wgmma");
static Q: [Kernel<AttentionGradWgmmaParams>; 2] = by_head_dim!("attention_grad_wgmma", "attention_grad_q_wgmma");
/// `d_k` and `d_v` by clusters of four CTAs, or two, that share the query heads of a key head, or by single ones.
static KV_BY_4: [Kernel<AttentionGradWgmmaParams>; 2] =
    by_head_dim!("attention_grad_wgmma", "attention_grad_kv_wgmma_x4");
static KV_BY_2: [Kernel<AttentionGradWgmmaParams>; 2] =
    by_head_dim!("attention_grad_wgmma", "attention_grad_kv_wgmma_x2");
static KV: [Kernel<AttentionGradWgmmaParams>; 2] = by_head_dim!("attention_grad_wgmma", "attention_grad_kv_wgmma");
/// All three gradients for long sequences, but for `d_q` as sums, by clusters of two CTAs or by single ones, and `d_q` of these.
static SUMS_BY_2: [Kernel<AttentionGradWgmmaParams>; 2] =
    by_head_dim!("attention_grad_wgmma", "attention_grad_sums_x2");
static SUMS: [Kernel<AttentionGradWgmmaParams>; 2] = by_head_dim!("attention_grad_wgmma", "attention_grad_sums");
static SUMMED: [Kernel<AttentionGradWgmmaParams>; 2] = by_head_dim!("attention_grad_wgmma", "attention_grad_summed");

/// Where kernels for these heads stand, if there are any.
fn index(heads: &Heads) -> Option<usize> {
    [64, 128].iter().position(|&dim| dim == heads.dim)
}

/// The kernel for these heads, where this build has it for this GPU.
pub(super) fn forward_kernel(
    cuda: &Cuda,
    heads: &Heads,
    suffix: &'static str,
) -> Result<Option<&'static Kernel<AttentionWgmmaParams>>> {
    let Some(kernel) = index(heads).map(|i| &FORWARD[i]) else { return Ok(None) };
    Ok(cuda.has(kernel, suffix)?.then_some(kernel))
}

/// The kernels of the gradient for heads of one size.
pub(super) struct GradKernels {
    /// By one CTA for a key head, by two and by four.
    kv: [&'static Kernel<AttentionGradWgmmaParams>; 3],
    q: &'static Kernel<AttentionGradWgmmaParams>,
    /// By one CTA for a key head, and by two.
    sums: [&'static Kernel<AttentionGradWgmmaParams>; 2],
    summed: &'static Kernel<AttentionGradWgmmaParams>,
}

/// The same of the gradient.
pub(super) fn grad_kernels(cuda: &Cuda, heads: &Heads, suffix: &'static str) -> Result<Option<GradKernels>> {
    let Some(i) = index(heads) else { return Ok(None) };
    let kernels = GradKernels {
        kv: [&KV[i], &KV_BY_2[i], &KV_BY_4[i]],
        q: &Q[i],
        sums: [&SUMS[i], &SUMS_BY_2[i]],
        summed: &SUMMED[i],
    };
    Ok(cuda.has(kernels.q, suffix)?.then_some(kernels))
}

/// Where the kernel for so many CTAs stands: they are a power of two.
fn place(shares: usize) -> usize {
    shares.ilog2() as usize
}

/// `rows` rows of `heads` heads, as the copy engine sees them.
fn copied(matrix: Matrix, dtype: DType, rows: u32, heads: u32, dim: u32) -> Result<TensorMap> {
    let tile = [ATTENTION_WGMMA_COPY_ROWS, ATTENTION_WGMMA_COPY_COLUMNS].map(|d| d as usize);
    Copied::of(matrix, dtype, [rows as usize, (heads * dim) as usize]).in_tiles(tile)
}

/// Blocks of rows of the longest sequence, for each head and sequence.
fn blocks(op: &'static str, max_len: u32, rows: u32, heads: u32, n_seqs: u32) -> Result<u32> {
    let [max_len, rows, heads, n_seqs] = [max_len, rows, heads, n_seqs].map(|d| d as usize);
    grid(op, &[max_len, heads, n_seqs], max_len.div_ceil(rows).saturating_mul(heads * n_seqs))
}

fn launch(blocks: u32) -> LaunchConfig {
    let (threads, shared) = (params::ATTENTION_WGMMA_THREADS, params::ATTENTION_WGMMA_SHARED_BYTES);
    LaunchConfig { grid: [blocks, 1, 1], threads, shared }
}

/// # Safety
/// `params` are those of a verified op, for whose heads `kernel` is.
pub(super) unsafe fn forward(
    cuda: &Cuda,
    kernel: &Kernel<AttentionWgmmaParams>,
    params: AttentionParams,
    dtype: DType,
) -> Result<()> {
    let AttentionParams { n, n_prefix, n_seqs, max_len, q_heads, kv_heads, dim, .. } = params;
    if n == 0 {
        return Ok(()); // the copy engine knows no empty matrix
    }
    let map = |matrix, heads| copied(matrix, dtype, n, heads, dim);
    let (k, v) = (map(params.k, kv_heads)?, map(params.v, kv_heads)?);
    let (prefix_k, prefix_v) = if n_prefix == 0 {
        (k, v) // which no tile is taken from
    } else {
        let map = |matrix| copied(matrix, dtype, n_prefix, kv_heads, dim);
        (map(params.prefix_k)?, map(params.prefix_v)?)
    };
    let ticket = cuda.scratch(Slot::Tickets, 1)?;
    let jobs = blocks("attention", max_len, params::ATTENTION_WGMMA_QUERIES, q_heads, n_seqs)?;
    let params =
        AttentionWgmmaParams { q: map(params.q, q_heads)?, k, v, prefix_k, prefix_v, attention: params, ticket };
    // SAFETY: as this function's contract says; the scratch has the one counter.
    unsafe { cuda.launch(kernel, dtype.suffix(), params, launch(jobs.min(cuda.n_sms))) }
}

/// The gradient, in errors.
const OP: &str = "attention_grad";

/// How many CTAs share the heads of a group: so many that each multiprocessor has two at most.
fn shares(group: usize, jobs: usize, sms: usize) -> usize {
    let fits = |&shares: &usize| group.is_multiple_of(shares) && jobs * shares <= 2 * sms;
    [4, 2].into_iter().find(fits).unwrap_or(1)
}

/// Are sums of `d_q` in memory worth their pass, for sequences of up to so many tokens?
///
/// Measured on an H200 with 32 and 8 heads (docs/attention.md): 4 sequences of 2,048 tokens are 10 % faster, 8 of 1,024 2 %,
/// 16 of 512 23 % slower; by two CTAs for a key head one of 2,048 is faster, one of 1,024 slower.
fn takes_sums(max_len: usize, shares: usize) -> bool {
    shares <= 2 && max_len >= 1024 * shares
}

/// Elements of `d_q`'s sums: each sequence has a row to spare.
fn sums_len(params: &AttentionGradParams) -> usize {
    let [rows, seqs, heads, dim] = [params.n, params.n_seqs, params.q_heads, params.dim].map(|d| d as usize);
    (rows + seqs) * heads * dim
}

/// `d_q`, `d_k` and `d_v`; `delta` is there.
///
/// # Safety
/// `params` are those of a verified op, for whose heads `kernels` are.
pub(super) unsafe fn grad(cuda: &Cuda, kernels: GradKernels, params: AttentionGradParams, dtype: DType) -> Result<()> {
    let AttentionGradParams { n, n_seqs, max_len, q_heads, kv_heads, dim, .. } = params;
    if n == 0 {
        return Ok(());
    }
    let map = |matrix, heads| copied(matrix, dtype, n, heads, dim);
    let all = AttentionGradWgmmaParams {
        q: map(params.q, q_heads)?,
        k: map(params.k, kv_heads)?,
        v: map(params.v, kv_heads)?,
        d_out: map(params.d_out, q_heads)?,
        grad: params,
        sums: null_mut(),
        tiles: 0,
        turns: null_mut(),
        ticket: cuda.scratch(Slot::Tickets, 1)?,
    };
    let tiles = blocks(OP, max_len, params::ATTENTION_GRAD_WGMMA_KEYS, kv_heads, n_seqs)?;
    // Of sequences of all lengths there are fewer tiles than of so many of the longest.
    let jobs = (n / params::ATTENTION_GRAD_WGMMA_KEYS + n_seqs).saturating_mul(kv_heads).min(tiles);
    let shares = shares((q_heads / kv_heads) as usize, jobs as usize, cuda.n_sms as usize);
    let kv_blocks = grid(OP, &[max_len as usize, kv_heads as usize, n_seqs as usize], tiles as usize * shares)?;
    // SAFETY: as this function's contract says.
    unsafe {
        match takes_sums(max_len as usize, shares) {
            true => grad_by_sums(cuda, kernels, all, kv_blocks, shares, dtype),
            false => grad_by_heads(cuda, kernels, all, kv_blocks, shares, dtype),
        }
    }
}

/// `d_k` and `d_v` by `kv_blocks` CTAs, `shares` of which share a key head, then `d_q`.
///
/// # Safety
/// As that of `grad`; the one counter is there.
unsafe fn grad_by_heads(
    cuda: &Cuda,
    kernels: GradKernels,
    params: AttentionGradWgmmaParams,
    kv_blocks: u32,
    shares: usize,
    dtype: DType,
) -> Result<()> {
    let AttentionGradParams { n_seqs, max_len, q_heads, .. } = params.grad;
    let q_jobs = blocks(OP, max_len, params::ATTENTION_GRAD_Q_WGMMA_QUERIES, q_heads, n_seqs)?;
    // SAFETY: as this function's contract says.
    unsafe {
        cuda.launch(kernels.kv[place(shares)], dtype.suffix(), params, launch(kv_blocks))?;
        cuda.launch(kernels.q, dtype.suffix(), params, launch(q_jobs.min(cuda.n_sms)))
    }
}

/// All three by `kv_blocks` CTAs, that of `d_q` as sums, and `d_q` of these.
///
/// # Safety
/// As that of `grad`.
unsafe fn grad_by_sums(
    cuda: &Cuda,
    kernels: GradKernels,
    mut params: AttentionGradWgmmaParams,
    kv_blocks: u32,
    shares: usize,
    dtype: DType,
) -> Result<()> {
    let AttentionGradParams { n_seqs, max_len, q_heads, dim, .. } = params.grad;
    params.sums = cuda.scratch(Slot::Partial, sums_len(&params.grad))?;
    params.tiles = max_len.div_ceil(params::ATTENTION_GRAD_WGMMA_QUERIES);
    let turns = [n_seqs, params.tiles, q_heads].iter().map(|&d| d as usize).product::<usize>();
    params.ticket = cuda.scratch(Slot::Tickets, 1 + turns)?;
    params.turns = params.ticket.wrapping_add(1);
    let tiles = blocks(OP, max_len, params::ATTENTION_GRAD_WGMMA_QUERIES, q_heads, n_seqs)?;
    let summed = LaunchConfig {
        grid: [tiles, 1, 1],
        threads: params::ATTENTION_GRAD_SUMS_THREADS,
        shared: params::ATTENTION_GRAD_WGMMA_QUERIES * dim * 2,
    };
    // SAFETY: as this function's contract says; the scratch has as many sums, turns and tickets as the kernels count,
    // which take no more of a sequence than `max_len`.
    unsafe {
        cuda.launch(kernels.sums[place(shares)], dtype.suffix(), params, launch(kv_blocks))?;
        cuda.launch(kernels.summed, dtype.suffix(), params, summed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_for_many_tiles_of_long_sequences() {
        assert!(takes_sums(1024, 1) && takes_sums(2048, 2));
        assert!(!takes_sums(512, 1) && !takes_sums(1024, 2) && !takes_sums(8192, 4));
    }

    #[test]
    fn few_tiles_are_shared_by_more_ctas() {
        let shares = |group, jobs| shares(group, jobs, 132);
        assert_eq!([32, 66, 67, 132, 133].map(|jobs| shares(4, jobs)), [4, 4, 2, 2, 1]);
        assert_eq!([1, 2, 5, 6].map(|group| shares(group, 1)), [1, 2, 1, 2]);
    }
}
