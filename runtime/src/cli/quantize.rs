//! Writes a Qwen3 checkpoint in bitsandbytes' 4 bits: for transformers, for others that read such files, or to load
//! faster here.

use super::{
    output::progress_bar,
    signals::Signals,
    tool::{Run, Tool},
};
use crate::{
    checkpoint::{BnbConfig, Checkpoint},
    config::Qwen3Config,
    device::{self, Device, Job},
    embedded::EMBEDDED,
    error::Result,
    hub,
    model::{QuantizeReport, checkpoint_note, quantize_checkpoint},
    note, say,
    settings::parse,
};
use clap::{ArgMatches, Args, FromArgMatches};
use halfbyte::{Backend, Count, DType, Float, quant::Format};
use std::{ops::ControlFlow, path::PathBuf, process::ExitCode, time::Instant};

/// Writes a checkpoint in 4 bits.
pub const QUANTIZE: Tool = Tool {
    name: "quantize",
    about: "Write a Qwen3 checkpoint in bitsandbytes' 4 bits",
    options: Options::augment_args,
    run: Run::Options(run),
};

#[derive(Args)]
struct Options {
    /// Folder of a Qwen3 checkpoint, its name on the Hugging Face hub, or `embedded`
    #[arg(long, alias = "model", default_value = EMBEDDED)]
    model_name: String,
    /// Folder for the 4-bit checkpoint; it must have none yet
    #[arg(long, alias = "output-dir")]
    output: PathBuf,
    /// nf4 or fp4
    #[arg(long, default_value = "nf4", value_parser = parse::<Format>)]
    bnb_4bit_quant_type: Format,
    /// Quantise the scales too: true or false
    #[arg(long, default_value = "true", value_parser = parse::<bool>, num_args = 0..=1, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set)]
    bnb_4bit_use_double_quant: bool,
    /// What config.json tells transformers to compute in: bfloat16, float16 or float32
    #[arg(long, aliases = ["dtype", "torch-dtype"], default_value = "bfloat16", value_parser = parse::<DType>)]
    bnb_4bit_compute_dtype: DType,
    /// Weights that share a scale: 32, 64, 128 … 4096
    #[arg(long, default_value_t = 64)]
    block_size: usize,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_parser = parse::<Device>)]
    device: Device,
}

struct Quantize {
    model: PathBuf,
    output: PathBuf,
    bnb: BnbConfig,
    block_size: usize,
}

impl Job for Quantize {
    type Output = Option<QuantizeReport>;

    fn run<B: Backend, T: Float>(self, backend: B) -> Result<Option<QuantizeReport>> {
        let Quantize { model, output, bnb, block_size } = self;
        say!("quantising {} on {}", model.display(), backend.name());
        let bar = progress_bar("weights");
        let progress = |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            ControlFlow::Continue(())
        };
        let note = checkpoint_note(&Checkpoint::open(&model)?, &Qwen3Config::open(&model)?)?;
        note.iter().for_each(|text| note!("{text}"));
        let done = quantize_checkpoint(&backend, &model, &output, bnb, block_size, progress);
        bar.finish_and_clear();
        done
    }
}

fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let args = Options::from_arg_matches(matches)?;
    let began = Instant::now();
    let _signals = Signals::listen("interrupted: unfinished files are removed");
    let bnb = BnbConfig {
        format: args.bnb_4bit_quant_type,
        double_quant: args.bnb_4bit_use_double_quant,
        compute: args.bnb_4bit_compute_dtype,
    };
    let model = hub::model(&args.model_name)?;
    let (output, block_size) = (args.output.clone(), args.block_size);
    let job = Quantize { model, output, bnb, block_size };
    // Scales are f32 whatever a model computes in.
    if let Some(report) = device::run(args.device, None, DType::F32, job)? {
        summary(&args.output, &report, began.elapsed().as_secs_f64());
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(output: &std::path::Path, report: &QuantizeReport, seconds: f64) {
    let QuantizeReport { n_quantized, n_quantized_before, bytes_before, bytes_after } = *report;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    if n_quantized_before > 0 {
        say!("in 4 bits already, left as they are: {}", Count(n_quantized_before, "weight"));
    }
    say!(
        "{} in {seconds:.1} s: {:.1} MiB before, {:.1} MiB after ({:.0} %)\nwritten to {}",
        Count(n_quantized, "weight"),
        mib(bytes_before),
        mib(bytes_after),
        100.0 * bytes_after as f64 / bytes_before.max(1) as f64,
        output.display(),
    );
}
