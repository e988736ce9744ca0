//! Writing whole files.

use std::io::{BufWriter, Write};
use std::path::Path;

use super::staged::Staged;
use super::transaction::Transaction;
use crate::error::{Error, Result};

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
