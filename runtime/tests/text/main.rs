//! Text in and out: tokenizer, chat template, training data, batches, schedules, metrics, questions and answers.

mod answers;
mod chat;
mod data;
mod data_cache;
mod data_files;
mod data_formats;
mod data_parquet;
mod data_turns;
mod hostile;
mod metrics;
mod packing;
mod prompts;
mod questions;
mod schedule;
mod stream;
mod tokenizer;
mod untrained;

use std::io::Write;
use std::path::{Path, PathBuf};

/// The checkout; `HALFBYTE_ROOT` where it is not where this was compiled.
fn checkout() -> PathBuf {
    let compiled = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os("HALFBYTE_ROOT").map_or_else(compiled, PathBuf::from)
}

/// The checked-in tiny model, whose tokenizer has the chat markers but no template.
fn tiny_model() -> PathBuf {
    checkout().join("runtime/assets/tiny-qwen3")
}

/// A file or folder of the big test data, or `None`, said aloud, where there is none.
fn test_data(name: &str) -> Option<PathBuf> {
    match std::env::var_os("HALFBYTE_TEST_DATA") {
        Some(root) => Some(Path::new(&root).join(name)),
        None => {
            // Not `eprintln`, whose output the test harness keeps to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: set HALFBYTE_TEST_DATA to a folder that holds {name}");
            None
        }
    }
}
