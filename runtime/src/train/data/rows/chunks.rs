//! A file of which parts are read.

use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use halfbyte::host;
use indicatif::ProgressBar;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{Error, Result};
use crate::files::Opened;

/// An open file, its name for errors, and how far it was read for people.
pub(super) struct Chunks {
    path: PathBuf,
    file: Opened,
    len: u64,
    bar: ProgressBar,
}

impl Chunks {
    pub fn new(path: &Path, file: Opened, bar: &ProgressBar) -> Result<Self> {
        let len = file.len().map_err(Error::io("read", path))?;
        Ok(Self { path: path.to_owned(), file, len, bar: bar.clone() })
    }

    /// Bytes of the file.
    ///
    /// # Errors
    /// It has not so many.
    pub fn bytes(&self, start: u64, len: usize) -> Result<Vec<u8>> {
        if start.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(self.damaged(format!("it has {} bytes, and speaks of {len} from byte {start}", self.len)));
        }
        let mut bytes = host::room(len)?;
        bytes.resize(len, 0);
        let read = self.file.at(start).and_then(|mut file| file.read_exact(&mut bytes));
        read.map_err(Error::io("read", &self.path))?;
        self.bar.inc(len as u64);
        Ok(bytes)
    }

    pub fn damaged(&self, reason: impl ToString) -> Error {
        Error::Corrupt { path: self.path.clone(), format: "Parquet", reason: reason.to_string() }
    }

    /// What is wrong with a file that is well, but cannot be used.
    pub fn unread(&self, reason: impl ToString) -> Error {
        Error::Data { path: self.path.clone(), reason: reason.to_string() }
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<Opened>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(self.file.at(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.bytes(start, length).map(Bytes::from).map_err(external)
    }
}

/// One of our errors, on its way through the library.
pub(super) fn external(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
