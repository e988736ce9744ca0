//! How questions are scored.

use super::choices::Mode;
use super::section::section;
use crate::options::{BATCH_SIZE, LIMIT};
use std::path::PathBuf;

section! {
    /// Scoring of multiple-choice questions.
    EvaluationSettings {
        /// Questions: lawqa_jp's JSON, or JSONL [default: the embedded exam]
        questions: Option<PathBuf> = None, also ["data", "exam"];
        /// likelihood takes the likeliest option, generate the letter in a written answer
        mode: Mode = Mode::Likelihood;
        /// Ask only the first so many
        limit: Option<usize> = None, within LIMIT;
        /// Ask each question in four orders of its options
        shuffle_options: bool = false;
        /// Answers that are written at once
        batch_size: usize = 8, within BATCH_SIZE;
        /// Folder for metrics.json and details.csv
        output: PathBuf = "evaluation".into(), also ["output_dir"];
        /// Replace results that are in the folder
        overwrite: bool = false;
    }
}
