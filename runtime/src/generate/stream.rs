//! Token ids into text while they come.

use crate::tokenizer::Tokenizer;

/// Decodes ids one by one, holding back the bytes of a character that is not complete yet.
///
/// The pieces, [`Self::finish`]'s included, together are [`Tokenizer::decode`] of all ids.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The bytes of an incomplete character: at most three.
    pending: Vec<u8>,
}

impl<'a> TextStream<'a> {
    /// An empty stream; `skip_special` leaves special tokens out of the text.
    pub fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, pending: Vec::new() }
    }

    /// Takes the next id; returns the text that it completes, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        self.pending.extend(self.tokenizer.token_bytes(id, self.skip_special));
        let complete = self.pending.len() - incomplete_tail(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// The rest: U+FFFD if a character stayed incomplete, else empty.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// The number of bytes at the end that begin a character which further bytes may complete.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Err(error) = std::str::from_utf8(rest) {
        rest = &rest[error.valid_up_to()..];
        match error.error_len() {
            Some(invalid) => rest = &rest[invalid..],
            None => return rest.len(),
        }
    }
    0
}
