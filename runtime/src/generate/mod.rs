//! Generating text.
pub mod stream;
