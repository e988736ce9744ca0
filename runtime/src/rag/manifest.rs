//! The file that makes a folder an index: what is in it, and the lengths and checksums of its other files.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::directory::Files;
use crate::checkpoint::mmap::Bytes;
use crate::error::{Error, Result};
use crate::files;

/// Its name.
pub(super) const MANIFEST: &str = "halfbyte-index.json";

/// What is stored, and the terms that it is found by; tantivy has a version of its own.
const FORMAT: u32 = 2;

/// What an index holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Info {
    /// Texts.
    pub n_documents: usize,
    /// What they were cut into.
    pub n_passages: usize,
    /// The texts' bytes.
    pub text_bytes: u64,
    /// Characters of the longest passage.
    pub chunk_size: usize,
    /// The most characters that a passage shares with the one before it.
    pub chunk_overlap: usize,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Manifest {
    format: String,
    pub info: Info,
    files: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
    crc32: u32,
}

impl Manifest {
    pub fn new(info: Info) -> Self {
        Self { format: format(), info, files: Vec::new() }
    }

    /// Adds a file of the index.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        self.files.push(Entry { name: name.into(), bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) });
    }

    /// The bytes of all files.
    pub fn total(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        if !path.exists() {
            let hint = "give the folder that an index was written into, or make one: `rag --documents TEXTS`";
            return Err(Error::MissingFile { dir: dir.to_owned(), wanted: MANIFEST.into(), hint });
        }
        let value: serde_json::Value = serde_json::from_slice(&files::read(&path)?).map_err(Error::json(&path))?;
        // Before the rest, which another version may have otherwise.
        if let Some(got) = value["format"].as_str().filter(|&got| got != format()) {
            let reason = format!("the index is of {got}, and this program reads {}; build it again", format());
            return Err(Error::Data { path, reason });
        }
        serde_json::from_value(value).map_err(Error::json(&path))
    }

    /// Maps the files, once they are known to be as they were written.
    pub fn open(&self, dir: &Path) -> Result<Files> {
        let opened: Result<_> = self.files.par_iter().map(|file| Ok((file.name.clone(), file.open(dir)?))).collect();
        Ok(Files::new(opened?))
    }
}

/// What this program writes.
fn format() -> String {
    let tantivy = tantivy::version_string().split(", ").find(|part| part.starts_with("index_format"));
    format!("halfbyte_index v{FORMAT}, tantivy {}", tantivy.unwrap_or("index_format unknown"))
}

impl Entry {
    fn open(&self, dir: &Path) -> Result<Bytes> {
        let damaged = |path: PathBuf, reason: String| Error::Corrupt { path, format: "index", reason };
        if self.name.is_empty() || self.name == ".." || self.name.contains(['/', '\\', '\0']) {
            return Err(damaged(dir.join(MANIFEST), format!("it names the file {:?}", self.name)));
        }
        let path = dir.join(&self.name);
        let bytes = Bytes::open(&path)?;
        if bytes.len() as u64 != self.bytes {
            let reason = format!("it has {} bytes, and {} were written", bytes.len(), self.bytes);
            return Err(damaged(path, reason));
        }
        if crc32fast::hash(&bytes) != self.crc32 {
            return Err(damaged(path, "its bytes are not those that were written".into()));
        }
        Ok(bytes)
    }
}
