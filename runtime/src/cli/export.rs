//! Ways out: adapters into a checkpoint, and GGUF files for llama.cpp.

use super::{
    output::progress_bar,
    signals::Signals,
    tool::{Run, Tool},
};
use crate::{
    error::Result,
    export::{GgufSettings, MergeSettings, Watch},
    note, say,
};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use indicatif::ProgressBar;
use std::{ops::ControlFlow, process::ExitCode};

/// Merges adapters into a checkpoint: for transformers and for others that read no adapters.
pub const MERGE: Tool = Tool { name: "merge", command: merge_command, run: Run::Options(merge) };

/// Writes a model, or an adapter for one, as a GGUF file for llama.cpp.
pub const EXPORT: Tool = Tool { name: "export", command: export_command, run: Run::Options(export) };

fn merge_command() -> Command {
    MergeSettings::augment_args(Command::new("merge").about("Merge LoRA adapters into a Qwen3 checkpoint"))
}

fn export_command() -> Command {
    let about = "Write a Qwen3 or a LoRA adapter as a GGUF file for llama.cpp";
    GgufSettings::augment_args(Command::new("export").about(about))
}

fn merge(matches: &ArgMatches) -> Result<ExitCode> {
    let settings = MergeSettings::from_arg_matches(matches)?;
    shown(|watch| settings.run(watch))
}

fn export(matches: &ArgMatches) -> Result<ExitCode> {
    let settings = GgufSettings::from_arg_matches(matches)?;
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
