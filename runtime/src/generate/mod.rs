//! Generating text.
pub mod generator;
pub mod stream;
