use super::{dim, grid};
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{
            NEST_ABSMAX_COLUMNS, NEST_ABSMAX_MEAN_THREADS, NEST_ABSMAX_RUNS_THREADS, NestAbsmaxParams, QUANT_GROUP,
            QUANTIZE_PER_THREAD, QUANTIZE_THREADS, QuantizeParams,
        },
        scratch::Slot,
    },
    element::Float,
    error::Result,
    ops::{NestAbsmax, Quantize},
    quant::{Format, GROUP},
};

const QUANTIZE: Kernel<QuantizeParams> = Kernel::new("quantize", "quantize");
const NEST_RUNS: Kernel<NestAbsmaxParams> = Kernel::new("quantize", "nest_absmax_runs");
const NEST_MEAN: Kernel<NestAbsmaxParams> = Kernel::new("quantize", "nest_absmax_mean");
const NEST_CODES: Kernel<NestAbsmaxParams> = Kernel::new("quantize", "nest_absmax_codes");
/// Elements of a CTA: whole blocks of any size.
const CTA: usize = (QUANTIZE_THREADS * QUANTIZE_PER_THREAD) as usize;
/// Columns that are summed side by side.
const COLUMNS: usize = NEST_ABSMAX_COLUMNS as usize;
const _: () = assert!(GROUP == QUANT_GROUP as usize, "kernels/params.h and quant::GROUP disagree");

pub(in crate::cuda) fn quantize<T: Float>(cuda: &Cuda, mut op: Quantize<'_, Cuda, T>) -> Result<()> {
    let len = op.x.len();
    let blocks = grid("quantize", &[len], len.div_ceil(CTA))?;
    let params = QuantizeParams {
        x: op.x.ptr() as _,
        codes: op.codes.ptr() as _,
        absmax: op.absmax.ptr() as _,
        len: len as u64,
        block_shift: op.block_size.trailing_zeros(),
        fp4: u32::from(op.format == Format::Fp4),
    };
    // SAFETY: `Quantize::verify` checked both outputs against the length and the block size.
    unsafe { cuda.launch(&QUANTIZE, T::DTYPE.suffix(), params, LaunchConfig::new(blocks, QUANTIZE_THREADS)) }
}

/// `ceil(log2(n))`, as PyTorch's sum kernel has it.
fn ceil_log2(n: usize) -> u32 {
    if n <= 2 { 1 } else { usize::BITS - (n - 1).leading_zeros() }
}

pub(in crate::cuda) fn nest_absmax(cuda: &Cuda, mut op: NestAbsmax<'_, Cuda>) -> Result<()> {
    const RUNS_WARPS: usize = NEST_ABSMAX_RUNS_THREADS as usize / 32;
    let n = op.absmax.len();
    if n == 0 {
        return Ok(());
    }
    let rows = n / COLUMNS;
    let run_shift = (ceil_log2(rows) / 4).max(4);
    let n_runs = rows >> run_shift;
    // The mean, then the sums of the runs of three levels.
    let scratch = cuda.scratch::<f32>(Slot::Partial, COLUMNS * (2 * n_runs + 2))?;
    let params = NestAbsmaxParams {
        absmax: op.absmax.ptr() as _,
        codes: op.codes.ptr() as _,
        groups: op.groups.ptr() as _,
        offset: scratch,
        sums: scratch.wrapping_add(COLUMNS),
        n: dim(n),
        run_shift,
        n_runs: dim(n_runs),
    };
    let runs = LaunchConfig::new(dim(n_runs.div_ceil(RUNS_WARPS)), NEST_ABSMAX_RUNS_THREADS);
    let codes = LaunchConfig::new(dim(n.div_ceil(GROUP)), QUANT_GROUP);
    // SAFETY: `NestAbsmax::verify` checked both outputs against `params.n`. Each level has at most a sixteenth of the
    // runs of the level below, so that all fit in twice the first.
    unsafe {
        cuda.launch(&NEST_RUNS, "", params, runs)?;
        cuda.launch(&NEST_MEAN, "", params, LaunchConfig::new(1, NEST_ABSMAX_MEAN_THREADS))?;
        cuda.launch(&NEST_CODES, "", params, codes)
    }
}
