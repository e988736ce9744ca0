//! Fine-tunes and runs Qwen3 with 4-bit weights; each subcommand is described where it is, in `cli`.

fn main() -> std::process::ExitCode {
    halfbyte_runtime::cli::main(std::env::args_os())
}
