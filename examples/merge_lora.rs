//! Merges a LoRA adapter into the checkpoint that it was trained on: for transformers and for others that read no adapters.

use halfbyte_runtime::cli::MERGE;

fn main() -> std::process::ExitCode {
    MERGE.main("merge_lora", std::env::args_os())
}
