//! Merges a LoRA adapter into the checkpoint that it was trained on: for transformers and for others that read no adapters.
mod common;

use clap::Parser;
use common::{Shown, Signals, say, start};
use halfbyte_runtime::export::MergeSettings;
use std::process::ExitCode;

/// Merge a LoRA adapter into a Qwen3 checkpoint.
#[derive(Parser)]
#[command(name = "merge_lora", version)]
struct Arguments {
    #[command(flatten)]
    settings: MergeSettings,
}

fn main() -> ExitCode {
    start(|Arguments { settings }| {
        let _signals = Signals::listen("interrupted: unfinished files are removed");
        let report = settings.run(&mut Shown::new())?;
        report.iter().for_each(|report| say!("{report}"));
        Ok(ExitCode::SUCCESS)
    })
}
