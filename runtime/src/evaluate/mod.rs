//! Measuring what a model knows.
pub mod choice;
pub mod questions;
