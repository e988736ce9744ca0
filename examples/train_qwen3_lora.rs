//! Fine-tunes a LoRA adapter on a Qwen3 checkpoint, in 4 bits with `--use-4bit`.
//!
//! Without `--model-name` it trains the small embedded model on the by-laws of an invented town, on the GPU or the CPU,
//! and examines it on them before and after.

use halfbyte_runtime::cli::TRAIN;

fn main() -> std::process::ExitCode {
    TRAIN.main("train_qwen3_lora", std::env::args_os())
}
