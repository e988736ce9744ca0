//! Generating text.
pub mod stream;
pub mod generator;
