use std::io;
use std::path::{Path, PathBuf};

use super::staged::{Staged, temporary_name};
use super::write::folder_of;
use super::{layer, unfinished};
use crate::error::{Error, Result};

/// A new folder under a temporary name beside its final one, which it has once it is [committed](Self::commit) with all its
/// files; removed unless it is.
#[derive(Debug)]
pub(crate) struct StagedFolder {
    temporary: PathBuf,
    path: PathBuf,
    keep: bool,
}

impl StagedFolder {
    /// An empty one that will become `path`, in a folder that exists.
    pub fn create(path: &Path) -> Result<Self> {
        let temporary = temporary_name(path);
        unfinished::make(&temporary, layer::make_folder).map_err(Error::io("make the folder", path))?;
        Ok(Self { temporary, path: path.to_owned(), keep: false })
    }

    /// Where its files are made.
    pub fn inside(&self) -> &Path {
        &self.temporary
    }

    /// Takes a file of it whose contents are complete.
    pub fn add(&self, mut file: Staged) -> Result<()> {
        file.sync()?;
        layer::rename(file.temporary(), file.path()).map_err(Error::io("write", file.path()))?;
        file.keep();
        Ok(())
    }

    /// Gives it its name, in place of a folder that has it.
    ///
    /// # Errors
    /// [`Error::Io`]: then it is not there; nor may be the one that had its name.
    pub fn commit(mut self) -> Result<()> {
        let failed = || Error::io("write", &self.path);
        layer::sync_folder(&self.temporary).map_err(failed())?;
        remove_folder(&self.path)?;
        layer::rename(&self.temporary, &self.path).map_err(failed())?;
        let synced = layer::sync_folder(folder_of(&self.path)).map_err(failed());
        unfinished::done(&self.temporary);
        self.keep = true;
        synced
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        if !self.keep {
            // The error that led here is the one to report.
            let _ = layer::remove_tree(&self.temporary);
            unfinished::done(&self.temporary);
        }
    }
}

/// Removes a folder, if there is one, with all that is in it: at no moment is a part of it there under its name.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    let temporary = temporary_name(path);
    match layer::rename(path, &temporary) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed.and_then(|()| layer::remove_tree(&temporary)).map_err(Error::io("remove", path)),
    }
}
