use serde::{Deserialize, Serialize};

use crate::options::{CHUNK_OVERLAP, CHUNK_SIZE, CONTEXT_TOKENS, PASSAGES};
use crate::{Error, Result};

/// How texts are cut and what of them goes into a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrievalSettings {
    /// Passages to look for.
    pub top_k: usize,
    /// Characters of the longest passage.
    pub chunk_size: usize,
    /// The most characters that a passage shares with the one before it; at most half of [`Self::chunk_size`].
    pub chunk_overlap: usize,
    /// The most tokens of the prompt that passages may take.
    pub context_tokens: usize,
}

impl Default for RetrievalSettings {
    fn default() -> Self {
        Self { top_k: 5, chunk_size: 500, chunk_overlap: 100, context_tokens: 2048 }
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
