//! Writes a Qwen3, or a LoRA adapter for one, as a GGUF file for llama.cpp.

use halfbyte_runtime::cli::EXPORT;

fn main() -> std::process::ExitCode {
    EXPORT.main("export_gguf", std::env::args_os())
}
