use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use super::{layer, unfinished};
use crate::error::{Error, Result};

/// A file under a temporary name beside its final one; removed unless it is committed.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    keep: bool,
}

impl Staged {
    /// An empty file for reading and writing that will become `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = Error::io("write", path);
        for _ in 0..8 {
            let temporary = temporary_name(path);
            match unfinished::make(&temporary, layer::create_new) {
                Ok(file) => return Ok(Self { file, temporary, path: path.to_owned(), keep: false }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Err(failed(io::ErrorKind::AlreadyExists.into()))
    }

    /// Sets disk space aside.
    ///
    /// # Errors
    /// There is too little.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        layer::reserve(&self.file, bytes).map_err(Error::io("reserve space for", &self.path))
    }

    /// To read what was written; writing goes by [`Write`].
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The name that it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name that it has.
    pub(super) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Gives it another name to have in the end.
    pub fn rename_to(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Begins again: what is written next goes to its beginning.
    pub fn rewind(&self) -> Result<()> {
        (&self.file).rewind().map_err(Error::io("write", &self.path))
    }

    /// Whether it still has its temporary name and nobody was told to give it another.
    pub fn is_there(&self) -> bool {
        !self.keep && self.temporary.exists()
    }

    /// Ends it at `len` bytes, behind what was reserved.
    pub fn set_len(&self, len: u64) -> Result<()> {
        layer::set_len(&self.file, len).map_err(Error::io("write", &self.path))
    }

    /// Makes its contents durable, still under the temporary name.
    pub fn sync(&self) -> Result<()> {
        layer::sync(&self.file).map_err(Error::io("write", &self.path))
    }

    /// Removes it.
    pub fn discard(mut self) -> Result<()> {
        layer::remove(&self.temporary).map_err(Error::io("remove", &self.temporary))?;
        self.keep();
        Ok(())
    }

    /// Leaves it where it is when it is dropped.
    pub(super) fn keep(&mut self) {
        unfinished::done(&self.temporary);
        self.keep = true;
    }
}

impl Write for &Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        layer::write(&self.file, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.keep {
            // The error that led here is the one to report.
            let _ = layer::remove(&self.temporary);
            unfinished::done(&self.temporary);
        }
    }
}

/// A name in the same folder that nobody else takes: random, since processes in containers may share an id.
pub(super) fn temporary_name(path: &Path) -> PathBuf {
    /// Bytes that file systems let a name have, without `.`, `.RANDOM` and `.partial`.
    const LONGEST: usize = 255 - 1 - 17 - 8;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let whole = |c: &(usize, char)| c.0 + c.1.len_utf8() <= LONGEST;
    let name: String = name.char_indices().take_while(whole).map(|(_, c)| c).collect();
    // Seeded by the operating system, and new for each.
    let random = RandomState::new().hash_one(path);
    path.with_file_name(format!(".{name}.{random:016x}.partial"))
}

/// Metrics of a run that has not saved its adapter yet, which people may want to follow.
pub(crate) const PARTIAL_METRICS: &str = "metrics.partial.jsonl";

/// Whether a killed run of this library left the file of this name: `.NAME.RANDOM.partial`, once `.NAME.PID-COUNT.tmp`.
pub(super) fn is_temporary(name: &str) -> bool {
    if name == PARTIAL_METRICS {
        return true;
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let random = |text: &str| text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let Some((start, end)) = name.rsplit_once('.') else { return false };
    let Some((name, middle)) = start.rsplit_once('.') else { return false };
    let ours = match end {
        "partial" => random(middle),
        "tmp" => middle.split_once('-').is_some_and(|(pid, count)| digits(pid) && digits(count)),
        _ => false,
    };
    ours && name.len() > 1 && name.starts_with('.')
}
