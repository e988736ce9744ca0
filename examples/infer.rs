//! Answers a prompt, or a person at a terminal, with a Qwen3 checkpoint and, if given, a LoRA adapter.

use halfbyte_runtime::cli::INFER;

fn main() -> std::process::ExitCode {
    INFER.main("infer", std::env::args_os())
}
