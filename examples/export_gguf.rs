//! Writes a Qwen3, or a LoRA adapter for one, as a GGUF file for llama.cpp.
mod common;

use clap::Parser;
use common::{Shown, Signals, say, start};
use halfbyte_runtime::export::GgufSettings;
use std::process::ExitCode;

/// Write a Qwen3 or a LoRA adapter as a GGUF file for llama.cpp.
#[derive(Parser)]
#[command(name = "export_gguf", version)]
struct Arguments {
    #[command(flatten)]
    settings: GgufSettings,
}

fn main() -> ExitCode {
    start(|Arguments { settings }| {
        let _signals = Signals::listen("interrupted: unfinished files are removed");
        let report = settings.run(&mut Shown::new())?;
        report.iter().for_each(|report| say!("{report}"));
        Ok(ExitCode::SUCCESS)
    })
}
