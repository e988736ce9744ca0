//! What this process made and has not finished: a signal leaves a program no time to drop it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{io, mem};

use super::layer;
use super::staged::is_temporary;

/// Temporary files, and folders that were made for them.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Held while several files get their names.
static NAMING: Mutex<()> = Mutex::new(());

/// Makes a file or a folder that is unfinished until it is [done](done).
pub(super) fn make<T>(path: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let mut unfinished = lock(&UNFINISHED);
    let made = make(path)?;
    unfinished.insert(path.to_owned());
    Ok(made)
}

/// It has its final name, or is gone.
pub(super) fn done(path: &Path) {
    lock(&UNFINISHED).remove(path);
}

/// Lets no [`abandon`] come between the names of files that change together.
pub(super) fn while_naming() -> MutexGuard<'static, ()> {
    lock(&NAMING)
}

/// Removes the temporary files and folders of this process, and the other folders that it made and that are empty. For a
/// program that a signal ends: from then on, threads that make or name files here wait for its end.
pub fn abandon() {
    mem::forget(lock(&NAMING));
    let unfinished = lock(&UNFINISHED);
    // What is in a folder comes after it.
    for path in unfinished.iter().rev() {
        let named = path.file_name().and_then(|name| name.to_str());
        let folder = if named.is_some_and(is_temporary) { layer::remove_tree } else { layer::remove_folder };
        let _ = layer::remove(path).or_else(|_| folder(path));
    }
    mem::forget(unfinished);
}

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
