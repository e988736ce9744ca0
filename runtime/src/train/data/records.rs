//! Files into records, a part of the file at a time.

use std::io::{BufRead, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use halfbyte::{Count, host};
use indicatif::ProgressBar;
use serde_json::value::RawValue;

use super::format;
use super::rows::{MAGIC, Rows};
use super::source::extension;
use crate::error::{Error, Result};
use crate::files::{open, unpack};
use crate::json;

/// Bytes that are turned into samples at once.
const CHUNK: usize = 4 << 20;
/// A longer line is no record, but a file without line ends.
const LONGEST: usize = 1 << 30;

/// A record as it is written.
pub(super) struct Record {
    /// The line on which it begins, or its row, counted from 1.
    pub at: usize,
    /// JSON.
    pub text: Vec<u8>,
}

/// The records of a file, in its order.
pub(super) struct Records {
    path: PathBuf,
    source: Source,
}

enum Source {
    Lines(Lines),
    Array(Array),
    Rows(Rows),
}

struct Lines {
    reader: Box<dyn BufRead>,
    /// The next line, if it was looked at.
    first: Option<Record>,
    /// Lines read.
    n: usize,
}

/// The elements of an array, with the lines that they begin on; how many were given.
struct Array {
    text: Vec<u8>,
    elements: Vec<(usize, Range<usize>)>,
    next: usize,
}

impl Records {
    /// Opens a file: a record on each line, or all of them in an array, which may be the only one of an object, or in the
    /// rows of a Parquet file; how it begins tells, but a name that ends in `.jsonl` does so first. A `.txt` file is one
    /// record.
    ///
    /// # Errors
    /// It cannot be read, is of none of these forms, or is larger than memory.
    pub fn open(path: &Path, bar: &ProgressBar) -> Result<Self> {
        let extension = extension(path);
        let named = ["jsonl", "ndjson"].contains(&&*extension);
        let is_text = extension == "txt";
        let failed = |e| Error::io("read", path)(e);
        let mut reader = unpack(bar.wrap_read(open(path)?)).map_err(failed)?;
        let has_rows = !named && !is_text && reader.fill_buf().map_err(failed)?.starts_with(MAGIC);
        if has_rows || extension == "parquet" {
            let rows = Rows::open(path, open(path)?, bar)?;
            return Ok(Self { path: path.to_owned(), source: Source::Rows(rows) });
        }
        let mut lines = Lines { reader, first: None, n: 0 };
        if is_text {
            let text = lines.rest(path, Vec::new())?;
            return Ok(Self { path: path.to_owned(), source: Source::Lines(lines.of_text(text)) });
        }
        let first = lines.next(path)?;
        let source = match first {
            Some(first) if !named && !is_record(&first.text) => {
                let text = lines.rest(path, first.text)?;
                Source::Array(Array::new(path, text, first.at)?)
            }
            first => Source::Lines(Lines { first, ..lines }),
        };
        Ok(Self { path: path.to_owned(), source })
    }

    /// The next few; none at the end.
    pub fn next_chunk(&mut self) -> Result<Vec<Record>> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while bytes < CHUNK
            && let Some(record) = self.next()?
        {
            // What surrounds a short one counts, too.
            bytes += record.text.len() + size_of::<Record>();
            chunk.push(record);
        }
        Ok(chunk)
    }

    fn next(&mut self) -> Result<Option<Record>> {
        match &mut self.source {
            Source::Lines(lines) => lines.next(&self.path),
            Source::Array(array) => Ok(array.next()),
            Source::Rows(rows) => {
                let row = rows.next()?;
                Ok(row.map(|(at, row)| Record { at, text: row.to_string().into_bytes() }))
            }
        }
    }

    /// What records are counted in.
    pub fn unit(&self) -> &'static str {
        if matches!(self.source, Source::Rows(_)) { "row" } else { "line" }
    }

    /// What is wrong with the record there.
    pub fn refuse(&self, at: usize, reason: String) -> Error {
        let path = self.path.clone();
        match self.source {
            Source::Rows(_) => Error::Row { path, row: at, reason },
            _ => Error::Line { path, line: at, reason },
        }
    }
}

/// The bytes of a file; refuses one whose text and tokens have no room: a token takes 5 bytes, and few are longer.
pub(super) fn expect_room(path: &Path) -> Result<u64> {
    let len = open(path)?.len().map_err(Error::io("read", path))?;
    let needed = usize::try_from(len).unwrap_or(usize::MAX).saturating_mul(2);
    host::check(needed).map_err(|e| too_large(path)(e.into()))?;
    Ok(len)
}

pub(super) fn too_large(path: &Path) -> impl FnOnce(Error) -> Error {
    Error::memory_for(|| format!("`{}` and what it says", path.display()), "train on a part of it")
}

/// Whether a line is a record, and not the beginning of something larger.
fn is_record(line: &[u8]) -> bool {
    let Ok(entries) = json::entries(line) else { return false };
    let arrays = entries.iter().filter(|(_, value)| is_array(value)).count();
    arrays != 1 || entries.iter().any(|(key, _)| format::is_mark(key))
}

fn is_array(value: &RawValue) -> bool {
    value.get().starts_with('[')
}

impl Lines {
    /// The next line that is not blank.
    fn next(&mut self, path: &Path) -> Result<Option<Record>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        loop {
            let text = self.line(path)?;
            if text.is_empty() {
                return Ok(None);
            }
            self.n += 1;
            if !text.trim_ascii().is_empty() {
                return Ok(Some(Record { at: self.n, text }));
            }
        }
    }

    /// A line with its end; nothing at the end of the file.
    fn line(&mut self, path: &Path) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            let read = self.reader.by_ref().take(CHUNK as u64).read_until(b'\n', &mut text);
            if read.map_err(Error::io("read", path))? < CHUNK || text.ends_with(b"\n") {
                return Ok(text);
            }
            // Packed, it may be longer than any file.
            host::check(2 * text.len()).map_err(|e| too_large(path)(e.into()))?;
            if text.len() >= LONGEST {
                let reason = "it is longer than 1 GiB; is it a file of JSON lines?".into();
                return Err(Error::Line { path: path.to_owned(), line: self.n + 1, reason });
            }
        }
    }

    /// All that is left, behind what was read.
    fn rest(&mut self, path: &Path, mut text: Vec<u8>) -> Result<Vec<u8>> {
        loop {
            host::check(2 * (CHUNK + text.len())).map_err(|e| too_large(path)(e.into()))?;
            let read = self.reader.by_ref().take(CHUNK as u64).read_to_end(&mut text);
            if read.map_err(Error::io("read", path))? == 0 {
                return Ok(text);
            }
        }
    }

    /// With a whole text as the only record.
    fn of_text(self, text: Vec<u8>) -> Self {
        // What is not UTF-8 stays so, and is refused as it is elsewhere.
        let quoted = std::str::from_utf8(&text).map(|text| serde_json::json!({"text": text}).to_string().into_bytes());
        let first = (!text.is_empty()).then(|| Record { at: 1, text: quoted.unwrap_or(text) });
        Lines { first, ..self }
    }
}

impl Array {
    /// Of a file's text from line `line` on.
    fn new(path: &Path, text: Vec<u8>, line: usize) -> Result<Self> {
        let (array, elements) = elements(&text).map_err(|(at, reason)| {
            let line = line + at;
            Error::Line { path: path.to_owned(), line, reason }
        })?;
        let (mut at, mut line) = (0, line);
        let mut all = host::room(elements.len())?;
        for element in elements {
            let start = array + element.start;
            line += newlines(&text[at..start]);
            at = start;
            all.push((line, start..array + element.end));
        }
        Ok(Array { text, elements: all, next: 0 })
    }

    fn next(&mut self) -> Option<Record> {
        let (at, range) = self.elements.get(self.next)?.clone();
        self.next += 1;
        Some(Record { at, text: self.text[range].to_vec() })
    }
}

/// What is wrong, and how many lines are before it.
type Wrong = (usize, String);

/// Where the array of a text begins, and where in it its elements are.
fn elements(text: &[u8]) -> Result<(usize, Vec<Range<usize>>), Wrong> {
    let wrong = |e: serde_json::Error| (e.line().saturating_sub(1), json_reason(&e));
    if !text.trim_ascii_start().starts_with(b"{") {
        let elements: Vec<&RawValue> = serde_json::from_slice(text).map_err(wrong)?;
        return Ok((0, elements.iter().map(|element| place(text, element)).collect()));
    }
    let entries = json::entries(text).map_err(wrong)?;
    let arrays: Vec<_> = entries.iter().filter(|(_, value)| is_array(value)).collect();
    let [(_, only)] = arrays[..] else {
        let names: Vec<_> = arrays.iter().map(|(name, _)| name).collect();
        let wanted = "expected a record on each line, an array of records, or an object with one array";
        return Err((0, format!("{wanted}; this object has {}: {names:?}", Count(arrays.len(), "array"))));
    };
    let elements: Vec<&RawValue> = serde_json::from_str(only.get()).map_err(wrong)?;
    let places = elements.iter().map(|element| place(only.get().as_bytes(), element)).collect();
    Ok((place(text, only).start, places))
}

/// Where a value is in the text that it was read from.
fn place(text: &[u8], value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + value.get().len()
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte == b'\n').count()
}

/// What is wrong with JSON, without the line number that serde_json counts within the text that it is given.
pub(super) fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    format!("not valid JSON: {reason}, at column {}", error.column())
}
