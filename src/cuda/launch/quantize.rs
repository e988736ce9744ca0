use super::{Cuda, Kernel, LaunchConfig, dim};
use crate::{
    Error, Float, Result,
    cuda::{
        params::{NestAbsmaxParams, QuantizeParams},
        scratch::Slot,
    },
    ops::{NestAbsmax, Quantize},
    quant::{Format, GROUP},
};

const QUANTIZE: Kernel<QuantizeParams> = Kernel::new("quantize", "quantize");
const NEST_RUNS: Kernel<NestAbsmaxParams> = Kernel::new("quantize", "nest_absmax_runs");
const NEST_MEAN: Kernel<NestAbsmaxParams> = Kernel::new("quantize", "nest_absmax_mean");
const NEST_CODES: Kernel<NestAbsmaxParams> = Kernel::new("quantize", "nest_absmax_codes");
/// Eight elements each: a CTA quantises 4096, whole blocks of any size.
const THREADS: u32 = 512;

pub(in crate::cuda) fn quantize<T: Float>(cuda: &Cuda, mut op: Quantize<'_, Cuda, T>) -> Result<()> {
    let len = op.x.len();
    let blocks = i32::try_from(len.div_ceil(8 * THREADS as usize)).map_err(|_| Error::Value {
        op: "quantize",
        arg: "the length",
        got: len.to_string(),
        want: "it must be below 2^43",
    })?;
    let params = QuantizeParams {
        x: op.x.ptr() as _,
        codes: op.codes.ptr() as _,
        absmax: op.absmax.ptr() as _,
        len: len as u64,
        block_shift: op.block_size.trailing_zeros(),
        fp4: u32::from(op.format == Format::Fp4),
    };
    // SAFETY: `Quantize::verify` checked both outputs against the length and the block size.
    unsafe { cuda.launch(&QUANTIZE, T::DTYPE.suffix(), params, LaunchConfig::new(blocks.unsigned_abs(), THREADS)) }
}

/// `ceil(log2(n))`, as PyTorch's sum kernel has it.
fn ceil_log2(n: usize) -> u32 {
    if n <= 2 { 1 } else { usize::BITS - (n - 1).leading_zeros() }
}

pub(in crate::cuda) fn nest_absmax(cuda: &Cuda, mut op: NestAbsmax<'_, Cuda>) -> Result<()> {
    /// Columns that are summed side by side: four accumulators of eight lanes.
    const COLUMNS: usize = 32;
    /// Warps of a CTA of the first kernel, each with a run.
    const WARPS: usize = 8;
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
    let runs = LaunchConfig::new(dim(n_runs.div_ceil(WARPS)), 32 * WARPS as u32);
    let codes = LaunchConfig::new(dim(n.div_ceil(GROUP)), GROUP as u32);
    // SAFETY: `NestAbsmax::verify` checked both outputs against `params.n`. Each level has at most a sixteenth of the
    // runs of the level below, so that all fit in twice the first.
    unsafe {
        cuda.launch(&NEST_RUNS, "", params, runs)?;
        cuda.launch(&NEST_MEAN, "", params, LaunchConfig::new(1, 1024))?;
        cuda.launch(&NEST_CODES, "", params, codes)
    }
}
