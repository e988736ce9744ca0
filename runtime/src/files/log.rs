use std::fs::File;
use std::path::{Path, PathBuf};

use super::layer;
use crate::error::{Error, Result};

/// A file that others follow while it grows, piece by piece.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Starts a new file, in place of an old one.
    pub fn create(path: PathBuf) -> Result<Self> {
        Self::open(path, File::options().write(true).create(true).truncate(true))
    }

    /// Goes on at the end of a file, or starts it.
    pub fn append(path: PathBuf) -> Result<Self> {
        Self::open(path, File::options().append(true).create(true))
    }

    /// Starts a file in a folder that is made if need be.
    pub fn create_within(dir: &Path, name: &Path) -> Result<Self> {
        layer::make_folders(dir).map_err(Error::io("make the folder", dir))?;
        Self::create(dir.join(name))
    }

    fn open(path: PathBuf, options: &std::fs::OpenOptions) -> Result<Self> {
        let file = layer::open(&path, options).map_err(Error::io("write", &path))?;
        Ok(Self { file, path })
    }

    /// Writes a piece, in one call and without a buffer, so that a reader never sees half of it.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        layer::write(&self.file, bytes).map_err(Error::io("write", &self.path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
