//! Writes a Qwen3 checkpoint in bitsandbytes' 4 bits: for transformers, for others that read such files, or to load
//! faster here.

use halfbyte_runtime::cli::QUANTIZE;

fn main() -> std::process::ExitCode {
    QUANTIZE.main("quantize", std::env::args_os())
}
