//! Files that are either whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Writes a file so that `path` holds either its old contents or all of the new ones, even if the disk fills up or the
/// power fails: into a temporary file of the same folder, flushed to the disk, then renamed.
///
/// # Errors
/// What `write` returns, or [`Error::Io`]; nothing is left behind then.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    stage(path, write)?.commit()
}

/// The first half of [`write_atomic`]: all is on the disk, but not yet under its name.
pub(crate) fn stage(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Staged> {
    let staged = Staged::create(path)?;
    let mut writer = BufWriter::with_capacity(1 << 20, staged.file());
    write(&mut writer)?;
    writer.flush().map_err(Error::io("write", path))?;
    drop(writer);
    staged.sync()?;
    Ok(staged)
}

/// [`write_atomic`] of bytes that are at hand.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |w| w.write_all(bytes).map_err(Error::io("write", path)))
}

/// Reads a whole text file.
pub fn read_to_string(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// Makes sure that files can be written into `dir`, which is made if need be, so that a long run does not find out at
/// its end. Does so by writing one.
pub fn check_writable(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("make the folder", dir))?;
    let probe = temporary_name(&dir.join("probe"));
    let written = fs::write(&probe, b"probe").map_err(Error::io("write into the folder", dir));
    let removed = fs::remove_file(&probe);
    written?;
    removed.map_err(Error::io("write into the folder", dir))
}

/// A file under a temporary name beside its final one; removed unless it is committed.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Staged {
    /// An empty file for reading and writing that will become `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let temporary = temporary_name(path);
        let open = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary);
        let file = open.map_err(Error::io("write", path))?;
        Ok(Self { file, temporary, path: path.to_owned(), committed: false })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// The name that it will have, for errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it the name that it was made for.
    pub fn commit(self) -> Result<()> {
        let path = self.path.clone();
        self.rename(&path)
    }

    /// Makes its contents durable, still under the temporary name.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))
    }

    /// Gives a synced file its name.
    pub fn rename(mut self, path: &Path) -> Result<()> {
        fs::rename(&self.temporary, path).map_err(Error::io("write", path))?;
        self.committed = true;
        sync_folder(path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A name in the same folder that no other thread or process uses; `*.tmp` so that it is known for what it is.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{count}.tmp", process::id()))
}

/// A rename is durable once its folder is.
#[cfg(unix)]
fn sync_folder(path: &Path) -> Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("write into the folder", dir))
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
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

    #[test]
    fn an_unwritable_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = check_writable(&file.join("sub")).unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
        check_writable(&dir.path().join("new/folder")).unwrap();
        assert_eq!(names(&dir.path().join("new/folder")), [""; 0]);
    }
}
