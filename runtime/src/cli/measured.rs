//! What the programs that measure speed share.

use crate::{
    device::Device,
    error::Result,
    model::Base,
    options::{self, Number, Range},
    say,
    settings::{Value, parse},
    speed::{RowsFile, Shape},
};
use clap::Args;
use halfbyte::{Backend, DType, OpTime, quant::Format};
use std::path::PathBuf;

/// Which model, where, and what becomes of the figures.
#[derive(Args, Clone)]
pub(super) struct Measured {
    #[arg(long, value_parser = parse::<Shape>, help = format!("The model's shape: {}", Shape::wanted(None)))]
    pub(super) shape: Shape,
    /// Hold the base in the compute type; else it is nf4, double-quantised
    #[arg(long, alias = "unquantized")]
    pub(super) unquantised: bool,
    /// Type of activations: bfloat16, float16 or float32
    #[arg(long, aliases = ["compute-dtype", "bnb-4bit-compute-dtype", "torch-dtype"])]
    #[arg(default_value = "bfloat16", value_parser = parse::<DType>)]
    pub(super) dtype: DType,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_parser = parse::<Device>)]
    pub(super) device: Device,
    /// Threads that compute on the CPU [default: one for each core]
    #[arg(long, value_parser = within::<usize>(options::THREADS))]
    pub(super) threads: Option<usize>,
    /// Write the figures into this file, too, row by row
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print what each op of a step takes, below each row
    #[arg(long)]
    pub(super) profile: bool,
    /// Replace a file that is there
    #[arg(long, requires = "csv")]
    overwrite: bool,
}

impl Measured {
    pub(super) fn base(&self) -> Base {
        let quantized = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
        if self.unquantised { Base::Unquantized } else { quantized }
    }

    /// How linear layers are held and what is computed in, for a CSV file.
    pub(super) fn base_name(&self) -> String {
        let dtype = self.dtype.show();
        if self.unquantised { dtype } else { format!("{}/{dtype}", Format::Nf4) }
    }

    /// What is measured, for people.
    pub(super) fn heading(&self, backend: &impl Backend) -> String {
        let Measured { shape, dtype, .. } = self;
        let base = if self.unquantised { "unquantised" } else { "nf4, double-quantised" };
        format!("{} on {}: random weights, {base}, computing in {}", shape.name, backend.name(), dtype.show())
    }

    /// The file that the rows go to, if there is to be one.
    pub(super) fn rows_file(&self) -> Result<Option<RowsFile>> {
        self.csv.as_deref().map(|path| RowsFile::new(path, self.overwrite)).transpose()
    }
}

/// One number, or several with commas between them.
#[derive(Clone)]
pub(super) struct List(pub(super) Vec<usize>);

/// A list of numbers that are each in `range`.
pub(super) fn list(range: Range) -> impl Fn(&str) -> Result<List, String> + Clone {
    move |text| {
        let numbers: Result<_, String> = text.split(',').map(|number| range.parse(number.trim())).collect();
        numbers.map(List).map_err(|wanted| format!("{wanted}, or several with commas between them"))
    }
}

/// A number in `range`.
pub(super) fn within<N: Number>(range: Range) -> impl Fn(&str) -> Result<N, String> + Clone {
    move |text| range.parse(text)
}

/// What was measured, or that memory did not suffice, which is no reason to stop; other errors are.
pub(super) fn or_out_of_memory<S>(measured: Result<S>) -> Result<Result<S, String>> {
    match measured {
        Ok(speed) => Ok(Ok(speed)),
        Err(e) => e.memory().map(ToString::to_string).map(Err).ok_or(e),
    }
}

/// What each op of a step takes, the longest first; nothing where that was not asked for.
pub(super) fn say_ops(ops: &[OpTime]) {
    let all: f64 = ops.iter().map(|op| op.seconds).sum();
    if !ops.is_empty() {
        say!("\n  op                  calls        ms   share  TFLOP/s");
    }
    for OpTime { op, calls, seconds, flops, .. } in ops {
        let rate = if *flops > 0.0 { format!("{:>9.2}", flops / seconds / 1e12) } else { String::new() };
        say!("  {op:<18} {calls:>6} {:>9.3}  {:>5.1}%{rate}", 1e3 * seconds, 100.0 * seconds / all);
    }
    if !ops.is_empty() {
        say!("  {:<18} {:>6} {:>9.3}\n", "all", ops.iter().map(|op| op.calls).sum::<usize>(), 1e3 * all);
    }
}

pub(super) fn gib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
