//! The files of transformers, bitsandbytes and PEFT: what the real libraries wrote is read, and written again as they
//! wrote it; what is damaged is refused with an error that says what.

mod adapters;
mod checkpoints;
mod combine;
mod compressed;
mod configs;
mod damage;
mod disk_full;
mod ends;
mod faults;
mod folders;
mod gguf;
mod gguf_file;
mod merge;
mod numbers;
mod quantize;
mod scoring;

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Files made by the real libraries. `HALFBYTE_ROOT` is the checkout where it is not where it was compiled.
fn golden(path: &str) -> PathBuf {
    let compiled = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = env::var_os("HALFBYTE_ROOT").map_or_else(compiled, PathBuf::from);
    root.join("tests/data/golden").join(path)
}

/// The tiny model's folders whose names start like this.
fn tiny(prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(golden("qwen3-tiny")).unwrap().map(|e| e.unwrap().path());
    let mut dirs: Vec<_> = entries.filter(|p| p.is_dir() && name(p).starts_with(prefix)).collect();
    dirs.sort();
    assert!(!dirs.is_empty(), "no {prefix}* in {}", golden("qwen3-tiny").display());
    dirs
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The names of the files in a folder, hidden ones too, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| name(&e.unwrap().path())).collect();
    names.sort();
    names
}

/// Fails unless the bytes are the same, without printing them.
#[track_caller]
fn assert_same(got: &Path, want: &Path) {
    let (a, b) = (fs::read(got).unwrap(), fs::read(want).unwrap());
    let differ = a.iter().zip(&b).position(|(a, b)| a != b);
    assert!(a == b, "{} ({} bytes) and {} ({}) differ at {differ:?}", got.display(), a.len(), want.display(), b.len());
}
