//! Measures how fast an adapter of a Qwen3 is trained, with random weights: no checkpoint is needed.

use halfbyte_runtime::cli::TRAIN_SPEED;

fn main() -> std::process::ExitCode {
    TRAIN_SPEED.main("train_speed", std::env::args_os())
}
