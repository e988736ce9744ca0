//! Measuring what a model knows, by questions with options.
//!
//! [`questions`] are read and, perhaps, [`shuffle`]d; [`prompt`] puts them to the model; its answer is a text, which
//! [`parse`] reads, or likelihoods, of which [`score`] chooses; [`output`] keeps a [`row`] of each and writes the
//! [`report`]. Nothing of that runs a model: [`exam`] does, by an [`Llm`](crate::llm::Llm), and
//! [`choice`], while one is trained.
pub mod choice;
mod details;
pub mod exam;
pub mod output;
pub mod parse;
pub mod prompt;
pub mod questions;
pub mod report;
pub mod row;
pub mod score;
pub mod shuffle;
