//! Ways out: adapters into a checkpoint, GGUF files for llama.cpp, and checkpoints in 4 bits for vLLM.

use super::{
    output::progress_bar,
    signals::Signals,
    tool::{Run, Tool},
};
use crate::{
    embedded::EMBEDDED,
    error::Result,
    export::{AdapterSettings, CompressedSettings, GgufSettings, GgufType, MergeSettings, Watch, refuse_idle},
    note,
    options::{Range, SHARD_SIZE},
    say,
    settings::{Value, parse},
};
use clap::{ArgMatches, Args, FromArgMatches};
use indicatif::ProgressBar;
use std::{ops::ControlFlow, path::PathBuf, process::ExitCode};

/// Merges adapters into a checkpoint: for transformers and for others that read no adapters.
pub const MERGE: Tool = Tool {
    name: "merge",
    about: "Merge LoRA adapters into a Qwen3 checkpoint",
    options: MergeSettings::augment_args,
    run: Run::Options(merge),
};

/// Writes a model, or an adapter for one, as a GGUF file for llama.cpp, or a model in 4 bits for vLLM.
pub const EXPORT: Tool = Tool {
    name: "export",
    about: "Write a Qwen3 or a LoRA adapter as a GGUF file for llama.cpp, or a Qwen3 in 4 bits for vLLM",
    options: Options::augment_args,
    run: Run::Options(export),
};

/// A GGUF file for llama.cpp, of a model or of an adapter, or a checkpoint in 4 bits for vLLM
#[derive(Args)]
struct Options {
    /// Folder of a Hugging Face Qwen3 checkpoint, in 4 bits or not, or `embedded`
    #[arg(long, alias = "model", default_value = EMBEDDED)]
    model_name: String,
    /// Adapters that are merged into the model
    #[command(flatten)]
    adapters: AdapterSettings,
    /// The file to write, which must not exist yet; of compressed-tensors the folder, which must have no checkpoint
    #[arg(long, aliases = ["outfile", "output-file", "output-dir"])]
    output: PathBuf,
    /// f32, f16, bf16, q8_0 or q4_k_m, or compressed-tensors [default: f16, and f32 for an adapter]
    #[arg(long = "type", alias = "outtype", value_name = "TYPE", value_parser = parse::<Type>)]
    kind: Option<Type>,
    /// Write the adapter alone, which llama.cpp adds to a model while that runs
    #[arg(long)]
    adapter_only: bool,
    /// Weights that share a scale in compressed-tensors: 32, 64 or 128 [default: 128]
    #[arg(long)]
    group_size: Option<usize>,
    /// Megabytes of a file of compressed-tensors before another is begun [default: 5000]
    #[arg(long, value_parser = |text: &str| SHARD_SIZE.parse::<u64>(text))]
    max_shard_size: Option<u64>,
}

/// What is written.
#[derive(Clone, Copy)]
enum Type {
    Gguf(GgufType),
    CompressedTensors,
}

const COMPRESSED_TENSORS: &str = "compressed-tensors";

impl Value for Type {
    fn wanted(range: Option<Range>) -> String {
        format!("{}, or {COMPRESSED_TENSORS}", GgufType::wanted(range))
    }

    fn parse(text: &str, range: Option<Range>) -> Option<Self> {
        let compressed = text.replace('_', "-").eq_ignore_ascii_case(COMPRESSED_TENSORS);
        if compressed { Some(Type::CompressedTensors) } else { GgufType::parse(text, range).map(Type::Gguf) }
    }

    fn show(&self) -> String {
        match self {
            Type::Gguf(kind) => kind.show(),
            Type::CompressedTensors => COMPRESSED_TENSORS.into(),
        }
    }
}

fn merge(matches: &ArgMatches) -> Result<ExitCode> {
    let settings = MergeSettings::from_arg_matches(matches)?;
    shown(|watch| settings.run(watch))
}

fn export(matches: &ArgMatches) -> Result<ExitCode> {
    let Options { model_name, adapters, output, kind, adapter_only, group_size, max_shard_size } =
        Options::from_arg_matches(matches)?;
    let format = match kind {
        Some(Type::CompressedTensors) => {
            let readers = "vLLM reads PEFT's adapters as they are; leave it out";
            refuse_idle(&[("the adapter alone", adapter_only, readers)])?;
            let default = CompressedSettings::new(output);
            let group_size = group_size.unwrap_or(default.group_size);
            let max_shard_size = max_shard_size.unwrap_or(default.max_shard_size);
            let settings = CompressedSettings { model_name, adapters, group_size, max_shard_size, ..default };
            return shown(|watch| settings.run(watch));
        }
        Some(Type::Gguf(format)) => Some(format),
        None => None,
    };
    let only = "only compressed-tensors (--type) has it";
    refuse_idle(&[
        ("the group size", group_size.is_some(), only),
        ("the size of files", max_shard_size.is_some(), only),
    ])?;
    let settings = GgufSettings { model_name, adapters, output, format, adapter_only };
    shown(|watch| settings.run(watch))
}

/// Runs it, and prints what it reports.
fn shown<R: std::fmt::Display>(run: impl FnOnce(&mut Shown) -> Result<Option<R>>) -> Result<ExitCode> {
    let _signals = Signals::listen("interrupted: unfinished files are removed");
    let report = run(&mut Shown(progress_bar("tensors")))?;
    report.iter().for_each(|report| say!("{report}"));
    Ok(ExitCode::SUCCESS)
}

/// Lines, and a bar while tensors are written.
struct Shown(ProgressBar);

impl Watch for Shown {
    fn say(&mut self, line: &str) {
        self.0.suspend(|| say!("{line}"));
    }

    fn note(&mut self, line: &str) {
        self.0.suspend(|| note!("{line}"));
    }

    fn wrote(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
        ControlFlow::Continue(())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
