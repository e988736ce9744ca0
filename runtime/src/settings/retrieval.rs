//! How passages are found.

use super::section::section;
use crate::{
    error::{Error, Result},
    options::{CHUNK_OVERLAP, CHUNK_SIZE, CONTEXT_TOKENS, PASSAGES},
};
use std::path::PathBuf;

section! {
    /// How texts are cut, and what of them goes into a prompt.
    RetrievalSettings {
        /// Folder of an index: passages come from it
        index: Option<PathBuf> = None, also ["retrieve"];
        /// Passages for a question
        top_k: usize = 5, within PASSAGES;
        /// Characters of the longest passage
        chunk_size: usize = 500, within CHUNK_SIZE;
        /// The most characters that a passage shares with the one before it; at most half of the chunk size
        chunk_overlap: usize = 100, within CHUNK_OVERLAP;
        /// The most tokens of the prompt that passages may take
        context_tokens: usize = 2048, within CONTEXT_TOKENS;
    }
}

impl RetrievalSettings {
    /// Refuses numbers outside of their ranges.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check(&self) -> Result<()> {
        PASSAGES.check(self.top_k)?;
        CHUNK_SIZE.check(self.chunk_size)?;
        CHUNK_OVERLAP.check(self.chunk_overlap)?;
        CONTEXT_TOKENS.check(self.context_tokens)?;
        if self.chunk_overlap > self.chunk_size / 2 {
            let want = format!("it must be at most {}, half of the chunk size", self.chunk_size / 2);
            return Err(Error::setting(CHUNK_OVERLAP.name, self.chunk_overlap, want));
        }
        Ok(())
    }
}
