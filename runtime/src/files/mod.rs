//! Files that are either whole or absent, also several of them together, whatever fails and whenever a process is killed.

mod folder;
mod journal;
mod layer;
mod log;
mod staged;
mod transaction;
mod unfinished;

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use halfbyte::host;

use crate::{Error, Result};

pub use folder::OutputFolder;
pub(crate) use folder::{read_together, refuse_existing};
pub(crate) use journal::Journal;
#[doc(hidden)]
pub use layer::{Fault, with_fault};
pub(crate) use log::Log;
pub(crate) use staged::{PARTIAL_METRICS, Staged};
pub(crate) use transaction::Transaction;
pub use unfinished::abandon;

/// Writes a file so that `path` holds either its old contents or all of the new ones, even if the disk fills up or the
/// power fails: into a temporary file of the same folder, flushed to the disk, then renamed.
///
/// # Errors
/// What `write` returns, or [`Error::Io`]; nothing is left behind then.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut staged = stage(path, write)?;
    let mut transaction = Transaction::new(folder_of(path));
    transaction.add(&mut staged);
    transaction.commit()
}

/// The folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file that is complete, but not yet under its name.
pub(crate) fn stage(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Staged> {
    let staged = Staged::create(path)?;
    let mut writer = BufWriter::with_capacity(1 << 20, &staged);
    write(&mut writer)?;
    writer.flush().map_err(Error::io("write", path))?;
    drop(writer);
    Ok(staged)
}

/// [`write_atomic`] of bytes that are at hand.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |w| w.write_all(bytes).map_err(Error::io("write", path)))
}

/// Opens a regular file: one that has an end, unlike a device, and does not wait for a writer, unlike a pipe.
pub(crate) fn open(path: &Path) -> Result<File> {
    let failed = |e| Error::io("read", path)(e);
    // Before opening: that alone would wait for a pipe's writer.
    expect_regular(&path.metadata().map_err(failed)?).map_err(failed)?;
    File::open(path).map_err(failed)
}

fn expect_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let reason = "it is not a regular file (a pipe or a device); copy its contents to one";
    if metadata.is_file() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, reason)) }
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    read_to_use(path, 1, "take a smaller file")
}

/// Reads a whole file, if there is memory for it and for what is made of it: `times` its size in all.
pub(crate) fn read_to_use(path: &Path, times: usize, advice: &'static str) -> Result<Vec<u8>> {
    let mut file = open(path)?;
    let failed = |e| Error::io("read", path)(e);
    let len = usize::try_from(file.metadata().map_err(failed)?.len()).unwrap_or(usize::MAX);
    let room = || -> Result<_> {
        host::check(len.saturating_mul(times))?;
        Ok(host::room(len)?)
    };
    let mut bytes = room().map_err(Error::memory_for(|| format!("`{}` and what it says", path.display()), advice))?;
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Reads a whole text file.
pub fn read_to_string(path: &Path) -> Result<String> {
    let invalid = |_| {
        Error::io("read", path)(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text; save it as UTF-8"))
    };
    String::from_utf8(read(path)?).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_longest_names_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a".repeat(255), "é".repeat(127), "語".repeat(85)] {
            let path = dir.path().join(&name);
            write_bytes(&path, b"x").unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(names(dir.path()), [name]);
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_contents_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_bytes(&path, b"old").unwrap();
        let result = write_atomic(&path, |w| {
            w.write_all(&[b'x'; 3 << 20]).unwrap();
            Err(Error::io("write", &path)(std::io::ErrorKind::StorageFull.into()))
        });
        assert!(matches!(result, Err(Error::Io { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.txt"]);
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.txt"]);
    }
}
