//! Scores a Qwen3 checkpoint, with or without an adapter and retrieval, on multiple-choice questions.

use halfbyte_runtime::cli::EVALUATE;

fn main() -> std::process::ExitCode {
    EVALUATE.main("evaluate_multiple_choice", std::env::args_os())
}
