//! Multiple-choice questions, where they are read from, and how to report their score.
//!
//! Two formats, told apart by what the file holds: the JSON of the Digital Agency of Japan's lawqa_jp, and JSON lines:
//!
//! ```text
//! {"question": "…", "options": ["…", "…"], "answer": "b"}
//! {"id": "q2", "context": "…", "instruction": "…", "question": "…", "options": {"a": "…", "b": "…"}, "answer": null}
//! ```
//!
//! An answer is a letter, an index from 0, or `null` for a question that is asked and not scored. Other keys are left
//! alone.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

mod jsonl;
mod lawqa;
mod question;

pub use question::{MAX_OPTIONS, Question, letter};

/// Reads the questions of a file; which format it has is told by its first line and not by its name, unless that ends in
/// `.jsonl`.
///
/// # Errors
/// When the file cannot be read, is of neither format or has no questions; the bad question is named with its line or
/// index.
pub fn read_questions(path: impl AsRef<Path>) -> Result<Vec<Question>> {
    let path = path.as_ref();
    // The samples as JSON and as questions: each has a few texts, which are most of it.
    let bytes = files::read_to_use(path, 3, "ask a part of it")?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
    if named || jsonl::begins(bytes) { jsonl::read(path, bytes) } else { lawqa::read(path, bytes) }
}

/// Keys of which a question has one, in one format or the other.
pub(crate) const MARKS: [&str; 2] = ["options", lawqa::OPTIONS];

/// The question of a record, in either format.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn of_record(index: usize, record: Value) -> Result<Question, String> {
    if record.get(lawqa::OPTIONS).is_some() { lawqa::parse(index, record) } else { jsonl::parse(index, record) }
}

/// The score of a set of answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// The number of questions.
    pub n: usize,
    /// The number of right answers.
    pub n_correct: usize,
    /// The choice that is right most often (the first of equals).
    pub majority: usize,
    /// The number of questions that it answers.
    pub n_majority: usize,
}

impl Accuracy {
    /// Compares the chosen indices with the right ones; questions that are not scored do not count.
    ///
    /// # Errors
    /// When there is not one for each question, or no question is scored.
    pub fn new(questions: &[Question], chosen: &[usize]) -> Result<Self> {
        let n = questions.len();
        if chosen.len() != n {
            let want = format!("there must be one for each of the questions, of which there are {n}");
            return Err(Error::setting("number of answers", chosen.len(), want));
        }
        let scored = questions.iter().zip(chosen).filter_map(|(q, &choice)| Some((q.answer?, Some(choice))));
        let none = || Error::setting("number of scored questions", 0, "there must be one with an answer");
        Self::of(scored).ok_or_else(none)
    }

    /// Of right choices with those that were given, if any was; none without questions.
    pub fn of(answers: impl IntoIterator<Item = (usize, Option<usize>)>) -> Option<Self> {
        let mut counts = Vec::new();
        let (mut n, mut n_correct) = (0, 0);
        for (right, given) in answers {
            counts.resize(counts.len().max(right + 1), 0);
            counts[right] += 1;
            n += 1;
            n_correct += usize::from(given == Some(right));
        }
        let (majority, n_majority) = counts.into_iter().enumerate().rev().max_by_key(|&(_, count)| count)?;
        Some(Self { n, n_correct, majority, n_majority })
    }

    /// The share of right answers.
    pub fn value(&self) -> f64 {
        self.n_correct as f64 / self.n as f64
    }

    /// The share that always answering [`Self::majority`] gets right.
    pub fn baseline(&self) -> f64 {
        self.n_majority as f64 / self.n as f64
    }

    /// The 95 % interval of [`Self::value`].
    pub fn interval(&self) -> (f64, f64) {
        wilson(self.value(), self.n as f64)
    }
}

/// The 95 % score interval of a share `p` of `n` (Wilson, "Probable inference, the law of succession, and statistical
/// inference", JASA 1927).
pub(crate) fn wilson(p: f64, n: f64) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let scale = 1.0 / (1.0 + Z * Z / n);
    let centre = scale * (p + Z * Z / (2.0 * n));
    let half = scale * Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        write!(
            f,
            "{:.1} % ({} of {}; 95 % interval {:.1} to {:.1} %; always answering {}: {:.1} %)",
            100.0 * self.value(),
            self.n_correct,
            self.n,
            100.0 * low,
            100.0 * high,
            letter(self.majority),
            100.0 * self.baseline(),
        )
    }
}
