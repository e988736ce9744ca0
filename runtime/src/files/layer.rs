//! Every operation of this crate that changes a disk, one function each, so that a test can let any of them fail.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// What an injected fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// That one operation fails.
    Error,
    /// That one and all later ones fail and do nothing, which leaves on the disk what a killed process leaves.
    Stop,
}

thread_local! {
    /// The operations that this thread still does before the fault, and the fault.
    static PLAN: Cell<Option<(u64, Fault)>> = const { Cell::new(None) };
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// Runs `work` with a fault at operation `at`, counted from 0, of those that this thread does in it; gives its result
/// and the number of operations that it tried. For tests.
#[doc(hidden)]
pub fn with_fault<R>(at: u64, fault: Fault, work: impl FnOnce() -> R) -> (R, u64) {
    DONE.set(0);
    PLAN.set(Some((at, fault)));
    let result = work();
    PLAN.set(None);
    (result, DONE.get())
}

/// Goes before every operation.
fn operation() -> io::Result<()> {
    let done = DONE.get();
    DONE.set(done + 1);
    match PLAN.get() {
        Some((at, Fault::Error)) if done == at => Err(io::Error::other("an injected fault")),
        Some((at, Fault::Stop)) if done >= at => Err(io::Error::other("an injected stop")),
        _ => Ok(()),
    }
}

pub(super) fn create_new(path: &Path) -> io::Result<File> {
    operation()?;
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

pub(super) fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    operation()?;
    options.open(path)
}

/// Half of it where a fault is due.
pub(super) fn write(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    match operation() {
        Ok(()) => file.write_all(bytes),
        Err(fault) => file.write_all(&bytes[..bytes.len() / 2]).and(Err(fault)),
    }
}

pub(super) fn set_len(file: &File, len: u64) -> io::Result<()> {
    operation()?;
    file.set_len(len)
}

pub(super) fn sync(file: &File) -> io::Result<()> {
    operation()?;
    file.sync_all()
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    operation()?;
    fs::rename(from, to)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    operation()?;
    fs::remove_file(path)
}

pub(super) fn make_folders(path: &Path) -> io::Result<()> {
    operation()?;
    fs::create_dir_all(path)
}

pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    operation()?;
    fs::create_dir(path)
}

/// Only an empty one.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    operation()?;
    fs::remove_dir(path)
}

/// A folder with all that is in it.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    operation()?;
    fs::remove_dir_all(path)
}

/// Makes renames in a folder durable. File systems that cannot are no failure.
pub(super) fn sync_folder(dir: &Path) -> io::Result<()> {
    operation()?;
    #[cfg(unix)]
    match File::open(dir)?.sync_all() {
        Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => return Err(e),
        _ => {}
    }
    Ok(())
}

/// Makes sure that `bytes` fit into a file, as far as its file system can tell.
pub(super) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    operation()?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        done => done?,
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (file, bytes);
    Ok(())
}

/// Bytes that can still be written to the file system of `dir`, where that is known.
pub(super) fn free_bytes(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(dir).ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize));
    #[cfg(not(unix))]
    return None;
}
