//! Measuring what a model knows, by questions with options.
//!
//! [`questions`] are read and, perhaps, [`shuffle`]d; [`prompt`] puts them to the model; its answer is a text, which
//! [`parse`] reads, or likelihoods, of which [`score`] chooses; [`output`] keeps a [`row`] of each and writes the
//! [`report`]. Nothing of that depends on a backend: only [`choice`], which runs a model, does.
pub mod choice;
mod details;
pub mod output;
pub mod parse;
pub mod prompt;
pub mod questions;
pub mod report;
pub mod row;
pub mod score;
pub mod shuffle;
