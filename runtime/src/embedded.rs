//! The small model and the texts that are part of the program.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The model that is part of the program: 5.8 million weights, for trying things out.
pub const EMBEDDED: &str = "embedded";

/// Paths that no disk has, with what is read there.
macro_rules! files {
    ($($path:literal)*) => {
        &[$((concat!("embedded:", $path), include_bytes!(concat!("../assets/", $path)))),*]
    };
}

const FILES: &[(&str, &[u8])] = files!(
    "tiny-qwen3/config.json"
    "tiny-qwen3/generation_config.json"
    "tiny-qwen3/model.safetensors"
    "tiny-qwen3/tokenizer.json"
    "town/exam.json"
    "town/heldout.jsonl"
    "town/train.jsonl"
);

/// What is embedded under this path; `files` reads it as it reads a disk.
pub(crate) fn file(path: &Path) -> Option<&'static [u8]> {
    FILES.iter().find(|(name, _)| Path::new(name) == path).map(|&(_, bytes)| bytes)
}

/// The folder of the model. It is on no disk: what this crate reads, it finds there, and nothing else does.
pub fn model() -> PathBuf {
    "embedded:tiny-qwen3".into()
}

/// An embedded file about the invented town, such as `train.jsonl`, for what this crate reads.
///
/// # Errors
/// There is none of that name.
pub fn town(name: &str) -> Result<PathBuf> {
    let dir = PathBuf::from("embedded:town");
    let path = dir.join(name);
    let hint = "runtime/assets/town/ has those that are embedded";
    if file(&path).is_some() { Ok(path) } else { Err(Error::MissingFile { dir, wanted: name.into(), hint }) }
}
