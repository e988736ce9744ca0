use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::layer;
use super::read::read;
use crate::error::{Error, Result};

/// A file that grows by lines, each of them whole: what a killed process or a full disk leaves of a line is cut off before
/// the next one is written.
///
/// Lines survive the end of the process, however it ends; what the power's failure takes of them is the last ones.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// The bytes of whole lines.
    len: u64,
    /// Whether there may be others behind them.
    torn: bool,
}

impl Journal {
    /// Begins a file with a line, in place of an older one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path, first: &str) -> Result<Self> {
        match layer::remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("replace", path)(e)),
            _ => {}
        }
        let file = layer::create_new(path).map_err(Error::io("write", path))?;
        let mut journal = Self { file, path: path.to_owned(), len: 0, torn: false };
        journal.append(first)?;
        Ok(journal)
    }

    /// Opens a file to go on with it, and gives its whole lines; none where there is no file or not one whole line.
    ///
    /// # Errors
    /// It cannot be read or written, or a whole line is not UTF-8.
    pub fn open(path: &Path) -> Result<Option<(Self, Vec<String>)>> {
        if !path.exists() {
            return Ok(None);
        }
        let mut bytes = read(path)?;
        let all = bytes.len();
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1));
        if bytes.is_empty() {
            return Ok(None);
        }
        let (len, torn) = (bytes.len() as u64, bytes.len() < all);
        let reason = "it is not UTF-8 text; delete it to begin anew".to_owned();
        let text = String::from_utf8(bytes).map_err(|_| Error::Corrupt {
            path: path.to_owned(),
            format: "JSON lines",
            reason,
        })?;
        let file = File::options().append(true).open(path).map_err(Error::io("write", path))?;
        let journal = Self { file, path: path.to_owned(), len, torn };
        Ok(Some((journal, text.lines().map(str::to_owned).collect())))
    }

    /// Adds a line, which has no line break in it.
    ///
    /// # Errors
    /// It could not be written; it is not in the file then, and can be added again.
    pub fn append(&mut self, line: &str) -> Result<()> {
        if self.torn {
            layer::set_len(&self.file, self.len).map_err(Error::io("write", &self.path))?;
        }
        let bytes = [line.as_bytes(), b"\n"].concat();
        self.torn = true;
        layer::write(&self.file, &bytes).map_err(Error::io("write", &self.path))?;
        self.torn = false;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, with_fault};
    use super::*;
    use std::fs;

    #[test]
    fn torn_lines_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        assert!(Journal::open(&path).unwrap().is_none());
        fs::write(&path, "an old line\n").unwrap();
        let mut journal = Journal::create(&path, "one").unwrap();
        journal.append("二").unwrap();
        drop(journal);
        // A killed process: within a character.
        fs::write(&path, &"one\n二\nthree 三".as_bytes()[..15]).unwrap();
        let (mut journal, lines) = Journal::open(&path).unwrap().unwrap();
        assert_eq!(lines, ["one", "二"]);
        journal.append("3").unwrap();
        // A full disk, and then room again.
        let (result, _) = with_fault(0, Fault::Error, || journal.append("four"));
        assert!(result.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n二\n3\nfo");
        journal.append("4").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n二\n3\n4\n");
        assert_eq!(Journal::open(&path).unwrap().unwrap().1, ["one", "二", "3", "4"]);
        fs::write(&path, "not one").unwrap();
        assert!(Journal::open(&path).unwrap().is_none());
        fs::write(&path, b"\xff\n").unwrap();
        assert!(Journal::open(&path).unwrap_err().to_string().contains("not UTF-8"));
    }
}
