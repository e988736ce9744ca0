//! Measures how fast a Qwen3 answers, with random weights: no checkpoint is needed.

use halfbyte_runtime::cli::DECODE_SPEED;

fn main() -> std::process::ExitCode {
    DECODE_SPEED.main("decode_speed", std::env::args_os())
}
