//! Answers questions from a person's own texts: indexes them, finds passages, has a model answer from these.

use halfbyte_runtime::cli::RAG;

fn main() -> std::process::ExitCode {
    RAG.main("rag", std::env::args_os())
}
