//! Writes a model's logits into a safetensors file, to compare halfbyte with other programs.

use halfbyte_runtime::cli::LOGITS;

fn main() -> std::process::ExitCode {
    LOGITS.main("logits", std::env::args_os())
}
