use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use halfbyte::Size;

use super::staged::Staged;
use super::transaction::{self, RECORD, Transaction};
use super::{layer, unfinished};
use crate::error::{Error, Result};

/// A folder that only this process writes into, until it is dropped or the process ends, however it does.
///
/// Folders that were made for it and stay empty are removed with it.
#[derive(Debug)]
pub struct OutputFolder {
    dir: PathBuf,
    /// Folders that did not exist, the innermost first.
    made: Vec<PathBuf>,
    _lock: Option<File>,
}

impl OutputFolder {
    /// Takes `dir`, which is made if need be: ends what an interrupted save had decided, clears what killed runs left
    /// behind, and makes sure that files can be written.
    ///
    /// # Errors
    /// Another process has it, or it cannot be written.
    pub fn claim(dir: &Path) -> Result<Self> {
        let made = make_folders(dir)?;
        let lock = lock_within(dir, READERS)?;
        let folder = Self { dir: dir.to_owned(), made, _lock: lock };
        transaction::settle(dir)?;
        transaction::clear_temporaries(dir)?;
        Staged::create(&dir.join("probe"))?.discard()?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Refuses to go on where less than `bytes` can be written.
    pub(crate) fn expect_space(&self, bytes: u64) -> Result<()> {
        match layer::free_bytes(&self.dir) {
            Some(free) if free < bytes => {
                let reason = format!("the result needs {}, and {} are free there", Size(bytes), Size(free));
                Err(Error::io("write into the folder", &self.dir)(io::Error::new(io::ErrorKind::StorageFull, reason)))
            }
            _ => Ok(()),
        }
    }

    /// Files that will change together.
    pub(crate) fn transaction<'a>(&self) -> Transaction<'a> {
        Transaction::new(&self.dir)
    }

    /// Removes a file that may not be there.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        match layer::remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
            _ => Ok(()),
        }
    }
}

/// Refuses to go on where `dir` has one of these files; `hint` says what to do.
pub(crate) fn refuse_existing(dir: &Path, names: &[impl AsRef<Path>], hint: &str) -> Result<()> {
    match names.iter().map(|name| dir.join(name)).find(|path| path.exists()) {
        Some(path) => Err(Error::io("replace", &path)(io::Error::new(io::ErrorKind::AlreadyExists, hint))),
        None => Ok(()),
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        // One that is not empty stays, and so do those that it is in.
        let _ = self.made.iter().try_for_each(|dir| layer::remove_folder(dir));
        self.made.iter().for_each(|dir| unfinished::done(dir));
    }
}

/// Makes `dir` and what it is in; gives what was made, the innermost first.
fn make_folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let missing: Vec<_> = dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists()).collect();
    for dir in missing.iter().rev() {
        match unfinished::make(dir, layer::make_folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made.map_err(Error::io("make the folder", dir))?,
        }
    }
    if !dir.is_dir() {
        return Err(Error::io("write into the folder", dir)(io::ErrorKind::NotADirectory.into()));
    }
    Ok(missing.into_iter().map(Path::to_owned).collect())
}

/// The lock of a folder is on the folder itself, so that no file stays behind. None where the system has no such locks.
fn lock(dir: &Path) -> Result<Option<File>> {
    let Ok(file) = File::open(dir) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let reason = "another run is writing into it; wait for it, or choose another folder";
            Err(Error::io("write into the folder", dir)(io::Error::new(io::ErrorKind::ResourceBusy, reason)))
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// [`lock`] that waits this long for whoever has it.
fn lock_within(dir: &Path, patience: Duration) -> Result<Option<File>> {
    let began = Instant::now();
    loop {
        match lock(dir) {
            Err(_) if began.elapsed() < patience => thread::sleep(Duration::from_millis(5)),
            locked => return locked,
        }
    }
}

/// How long a writer waits for a reader that is ending a save which was cut short.
const READERS: Duration = Duration::from_secs(3);
/// How long a reader waits for a writer that is just giving files their names.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a reader begins again because of one.
const TRIES: usize = 1000;

/// Reads files of `dir` that belong together: all old or all new, though another process may replace them meanwhile.
///
/// # Errors
/// Those of `read`; a save that was cut short cannot be ended, because the folder is read-only; the files are replaced
/// faster than they are read.
pub(crate) fn read_together<R>(dir: &Path, names: &[&str], read: impl Fn() -> Result<R>) -> Result<R> {
    for _ in 0..TRIES {
        settle_to_read(dir)?;
        let before = identities(dir, names);
        let result = read();
        if identities(dir, names) == before && !dir.join(RECORD).exists() {
            return result;
        }
    }
    let reason = "another run replaces its files again and again; wait for it";
    Err(Error::io("read the folder", dir)(io::Error::new(io::ErrorKind::ResourceBusy, reason)))
}

/// Ends a save that was cut short, or waits for the one that is under way.
fn settle_to_read(dir: &Path) -> Result<()> {
    if !dir.join(RECORD).exists() {
        return Ok(());
    }
    let _lock = lock_within(dir, PATIENCE)?;
    transaction::settle(dir).map_err(|e| cut_short(dir, &e))
}

fn cut_short(dir: &Path, error: &Error) -> Error {
    let reason = format!("{error}; open it once where the folder can be written");
    Error::io("end the save that was cut short in", dir)(io::Error::other(reason))
}

/// What changes when a file is replaced.
fn identities(dir: &Path, names: &[&str]) -> Vec<Option<Identity>> {
    names.iter().map(|name| fs::metadata(dir.join(name)).ok().map(|m| identity(&m))).collect()
}

#[derive(PartialEq)]
struct Identity {
    file: u64,
    len: u64,
    modified: Option<std::time::SystemTime>,
}

fn identity(metadata: &Metadata) -> Identity {
    #[cfg(unix)]
    let file = std::os::unix::fs::MetadataExt::ino(metadata);
    #[cfg(not(unix))]
    let file = 0;
    Identity { file, len: metadata.len(), modified: metadata.modified().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a reader has it for a moment that ends a save which was cut short.
    #[test]
    fn a_claim_waits_for_a_reader_and_not_for_a_run() {
        let dir = tempfile::tempdir().unwrap();
        let reader = lock(dir.path()).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(50));
                drop(reader);
            });
            let run = OutputFolder::claim(dir.path()).unwrap();
            let began = Instant::now();
            assert!(OutputFolder::claim(dir.path()).unwrap_err().to_string().contains("another run"));
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
            drop(run);
        });
    }

    #[test]
    fn what_is_replaced_while_it_is_read_is_read_again_and_never_mixed() {
        let dir = tempfile::tempdir().unwrap();
        let replace = |n: usize| {
            fs::write(dir.path().join("b"), vec![b'x'; n]).unwrap();
            fs::rename(dir.path().join("b"), dir.path().join("a")).unwrap();
        };
        replace(1);
        let reads = std::cell::Cell::new(0);
        let read = |last: usize| {
            reads.set(0);
            read_together(dir.path(), &["a"], || {
                reads.set(reads.get() + 1);
                if reads.get() < last {
                    replace(1 + reads.get());
                }
                Ok(reads.get())
            })
        };
        assert_eq!(read(3).unwrap(), 3);
        let error = read(usize::MAX).unwrap_err().to_string();
        assert!(error.contains("again and again"), "{error}");
        assert_eq!(reads.get(), TRIES);
    }
}
