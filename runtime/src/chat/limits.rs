//! What a template may take of time and memory.

use std::io;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value as Jinja};

use crate::python_json::Dumps;

/// How much a template may do with a conversation of so many bytes, where a step is one, and so are 64 bytes that it
/// makes: time and memory have a limit.
///
/// Ten times what Qwen3's takes, and more: that is 0.1 for each byte of long messages, and 0.8 where there are many short
/// ones, with tools or without.
pub(super) fn fuel(bytes: u64) -> u64 {
    2_000_000 + 8 * bytes
}

/// Text of a size that a conversation of so many bytes can have.
pub(super) struct Limited {
    text: String,
    most: usize,
    full: bool,
}

impl Limited {
    pub fn new(bytes: u64) -> Self {
        let most = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_mul(8).saturating_add(1 << 22);
        Self { text: String::new(), most, full: false }
    }

    pub fn is_full(&self) -> bool {
        self.full
    }

    pub fn reason(&self) -> String {
        format!("it makes more than {} bytes of this conversation", self.most)
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

impl io::Write for Limited {
    /// All of the bytes, which are a whole `str` of the template's, or none.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > self.most {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let text = str::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        self.text.push_str(text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Levels of a value that is written as JSON, as many as serde_json reads.
const MAX_DEPTH: usize = 128;

/// Takes the fuel for a value as JSON, at least as much as for other values of its size, before any of it is made: lists
/// that hold another list twice are small, but not their text.
pub(super) fn pay_for_json(state: &State, value: &Jinja, options: &Dumps, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        let reason = format!("tojson writes at most {MAX_DEPTH} levels");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    let (item, key) = &options.separators;
    // A character becomes 6 at most; the rest is what a value takes beside its text.
    let text = 6 * value.as_str().map_or(0, str::len);
    let bytes = text + options.indent.unwrap_or(0) * depth + item.len() + key.len() + 128;
    state.consume_fuel(bytes as u64 / 64)?;
    let pay = |value: &Jinja| pay_for_json(state, value, options, depth + 1);
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|item| pay(&item)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| pay(&key).and_then(|()| pay(&value.get_item(&key)?))),
        _ => Ok(()),
    }
}

/// Takes the fuel for what `str.format` pads its fields to, as in `{:>9999}`.
pub(super) fn pay_for_padding(state: &State, format: &str) -> Result<(), Error> {
    for field in format.replace("{{", "").split('{').skip(1) {
        // What pads may be a brace itself, as in `{:}>9999}`.
        let fill = field.find(":}").map_or(0, |at| at + 2);
        let end = field[fill..].find('}').map_or(field.len(), |at| fill + at);
        let numbers = field[..end].split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        numbers
            .map(|digits| digits.parse().unwrap_or(u64::MAX))
            .try_for_each(|width| state.consume_fuel(width / 64))?;
    }
    Ok(())
}
