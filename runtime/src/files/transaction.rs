//! Several files of a folder that change together: at any moment, whatever fails, all of them are old or all are new.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::read::read_to_string;
use super::staged::{Staged, is_temporary};
use super::{layer, unfinished};
use crate::error::{Error, Result};

/// The file that says which temporary files are to have which names. Once it is there the new files are the folder's;
/// who opens the folder next gives them their names if this could not be done.
pub(super) const RECORD: &str = ".halfbyte-commit";

#[derive(Serialize, Deserialize)]
struct Record {
    /// Temporary names, and the final ones.
    files: Vec<(String, String)>,
}

/// Files that are made under temporary names, until [`Transaction::commit`]. They stay their owner's, who may try again
/// with those that are still [`Staged::is_there`].
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    dir: PathBuf,
    staged: Vec<&'a mut Staged>,
}

impl<'a> Transaction<'a> {
    /// Files of `dir`, whose lock the caller holds.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), staged: Vec::new() }
    }

    /// Takes a file whose contents are complete.
    pub fn add(&mut self, staged: &'a mut Staged) {
        self.staged.push(staged);
    }

    /// Gives all files their names.
    ///
    /// # Errors
    /// [`Error::Io`]. The folder is as it was then, or (if it failed between two names) as it is to be once it is
    /// opened again.
    pub fn commit(mut self) -> Result<()> {
        self.staged.iter().try_for_each(|staged| staged.sync())?;
        debug!(folder = %self.dir.display(), files = self.staged.len(), "files are on the disk, and get their names");
        if let [only] = self.staged.as_mut_slice() {
            layer::rename(only.temporary(), only.path()).map_err(Error::io("write", only.path()))?;
            only.keep();
            return sync_folder(&self.dir);
        }
        let _whole = unfinished::while_naming();
        self.decide()?;
        // Once more, if it was only for a moment.
        settle(&self.dir).or_else(|_| settle(&self.dir))
    }

    /// Writes the record. From then on nothing is taken back.
    fn decide(&mut self) -> Result<()> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = self.staged.iter().map(|s| (name(s.temporary()), name(s.path()))).collect();
        let path = self.dir.join(RECORD);
        let mut record = Staged::create(&path)?;
        let text = serde_json::to_vec(&Record { files }).map_err(Error::json(&path))?;
        (&record).write_all(&text).map_err(Error::io("write", &path))?;
        record.sync()?;
        layer::rename(record.temporary(), &path).map_err(Error::io("write", &path))?;
        record.keep();
        if let Err(error) = sync_folder(&self.dir)
            && layer::remove(&path).is_ok()
        {
            return Err(error);
        }
        self.staged.iter_mut().for_each(|staged| staged.keep());
        Ok(())
    }
}

/// Ends what a transaction that was cut short had decided. The caller holds the folder's lock.
///
/// # Errors
/// [`Error::Io`], or [`Error::Corrupt`] for a record that does not fit the folder.
pub(super) fn settle(dir: &Path) -> Result<()> {
    let path = dir.join(RECORD);
    if !path.exists() {
        return Ok(());
    }
    let broken = |reason: String| Error::Corrupt { path: path.clone(), format: "commit record", reason };
    let record: Record = serde_json::from_str(&read_to_string(&path)?).map_err(|e| broken(e.to_string()))?;
    for (temporary, name) in &record.files {
        if !is_temporary(temporary) || !is_plain(temporary) || !is_plain(name) {
            return Err(broken(format!("it names `{temporary}` and `{name}`")));
        }
        let (from, to) = (dir.join(temporary), dir.join(name));
        match layer::rename(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && to.exists() => {} // done before
            done => done.map_err(Error::io("write", &to))?,
        }
    }
    sync_folder(dir)?;
    layer::remove(&path).map_err(Error::io("remove", &path))?;
    sync_folder(dir)
}

/// A name in the folder itself.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

/// Removes files and folders that killed runs left under temporary names. The caller holds the folder's lock, and it is settled.
pub(super) fn clear_temporaries(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read the folder", dir))? {
        let entry = entry.map_err(Error::io("read the folder", dir))?;
        if entry.file_name().to_str().is_some_and(is_temporary) {
            let path = entry.path();
            let remove = if path.is_dir() { layer::remove_tree } else { layer::remove };
            remove(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

fn sync_folder(dir: &Path) -> Result<()> {
    layer::sync_folder(dir).map_err(Error::io("write into the folder", dir))
}
