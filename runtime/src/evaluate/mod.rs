//! Measuring what a model knows.
pub mod questions;
