use crate::{
    buffer::{View, ViewMut},
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{REDUCE_THREADS, ReduceParams},
        scratch::Slot,
    },
    error::Result,
    ops::{Norm, Sum},
};

const SUM_PARTS: Kernel<ReduceParams> = Kernel::new("reduce", "sum_parts");
const SUM_TOTAL: Kernel<ReduceParams> = Kernel::new("reduce", "sum_total");
const NORM_PARTS: Kernel<ReduceParams> = Kernel::new("reduce", "norm_parts");
const NORM_TOTAL: Kernel<ReduceParams> = Kernel::new("reduce", "norm_total");
/// Elements for each thread before there is a second CTA, and the most CTAs. The split, and with it the order of the
/// sum, depends on the length alone.
const PER_THREAD: usize = 32;
const MAX_BLOCKS: usize = 1024;

fn reduce(
    cuda: &Cuda,
    [parts, total]: [&Kernel<ReduceParams>; 2],
    x: View<'_, Cuda, f32>,
    mut out: ViewMut<'_, Cuda, f32>,
    accumulate: bool,
) -> Result<()> {
    let blocks = x.len().div_ceil(PER_THREAD * REDUCE_THREADS as usize).clamp(1, MAX_BLOCKS);
    let params = ReduceParams {
        x: x.ptr() as _,
        partial: cuda.scratch(Slot::Sums, blocks)?,
        out: out.ptr() as _,
        len: x.len() as u64,
        blocks: blocks as u32,
        accumulate: accumulate.into(),
    };
    // SAFETY: `params.len` is the length of `x`, `Sum::verify` and `Norm::verify` checked that `out` holds one number, and
    // `partial` was made with one for each CTA.
    unsafe {
        cuda.launch(parts, "", params, LaunchConfig::new(params.blocks, REDUCE_THREADS))?;
        cuda.launch(total, "", params, LaunchConfig::new(1, REDUCE_THREADS))
    }
}

pub(in crate::cuda) fn sum(cuda: &Cuda, op: Sum<'_, Cuda>) -> Result<()> {
    reduce(cuda, [&SUM_PARTS, &SUM_TOTAL], op.x, op.out, op.accumulate)
}

pub(in crate::cuda) fn norm(cuda: &Cuda, op: Norm<'_, Cuda>) -> Result<()> {
    reduce(cuda, [&NORM_PARTS, &NORM_TOTAL], op.x, op.out, false)
}
