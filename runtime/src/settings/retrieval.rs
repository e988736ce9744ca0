//! How passages are found.

use super::section;
use crate::options::{CHUNK_OVERLAP, CHUNK_SIZE, PASSAGES};

section! {
    /// Cutting texts into passages, and finding those that a question needs.
    RetrievalSettings {
        /// Passages for a question
        top_k: usize = 5, within PASSAGES;
        /// Characters of a passage
        chunk_size: usize = 800, within CHUNK_SIZE;
        /// Characters that a passage repeats of the one before
        chunk_overlap: usize = 100, within CHUNK_OVERLAP;
    }
}
