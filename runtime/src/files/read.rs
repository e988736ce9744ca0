//! Reading whole files.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;

use halfbyte::host;

use crate::embedded;
use crate::error::{Error, Result};

/// Whether there is a file, embedded or on the disk.
pub(crate) fn exists(path: &Path) -> bool {
    embedded::file(path).is_some() || path.exists()
}

/// A file that is open for reading.
pub(crate) enum Opened {
    Disk(File),
    Embedded(&'static [u8]),
}

impl Opened {
    /// Its bytes.
    pub fn len(&self) -> io::Result<u64> {
        match self {
            Opened::Disk(file) => file.metadata().map(|metadata| metadata.len()),
            Opened::Embedded(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// The same file, to be read from byte `start` on. On the disk, handles of a file share where they are.
    pub fn at(&self, start: u64) -> io::Result<Self> {
        match self {
            Opened::Disk(file) => {
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(start))?;
                Ok(Opened::Disk(file))
            }
            Opened::Embedded(bytes) => {
                let start = usize::try_from(start).ok();
                Ok(Opened::Embedded(start.and_then(|start| bytes.get(start..)).unwrap_or_default()))
            }
        }
    }
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Opened::Disk(file) => file.read(buffer),
            Opened::Embedded(bytes) => bytes.read(buffer),
        }
    }
}

/// Opens a regular file, embedded or on the disk: one that has an end, unlike a device, and does not wait for a writer,
/// unlike a pipe.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    if let Some(bytes) = embedded::file(path) {
        return Ok(Opened::Embedded(bytes));
    }
    let failed = |e| Error::io("read", path)(e);
    // Before opening: that alone would wait for a pipe's writer.
    expect_regular(&path.metadata().map_err(failed)?).map_err(failed)?;
    File::open(path).map(Opened::Disk).map_err(failed)
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
    let len = usize::try_from(file.len().map_err(failed)?).unwrap_or(usize::MAX);
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
