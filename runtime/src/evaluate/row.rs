//! What became of a question that was asked.

use serde::{Deserialize, Serialize};

use super::parse::{Parsed, parse_answer};
use super::questions::letter;
use super::score::{Scores, best};
use super::shuffle::Item;
use crate::error::{Error, Result};

/// How a question was answered, or why it was not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// By the likelihoods of its options: the highest sum.
    Scored(Scores),
    /// By a text that names an option, or does not.
    Generated {
        /// The text, as it was generated.
        text: String,
        /// The option that it names.
        named: Option<usize>,
        /// Why it names none; else empty.
        note: String,
    },
    /// It did not fit the model.
    TooLong {
        /// By how much.
        note: String,
    },
}

/// A question that was asked, and its outcome: a row of `details.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The question's name.
    pub id: String,
    /// The order of its options.
    pub order: usize,
    /// The option of the file that stands at each place.
    pub places: Vec<usize>,
    /// The right place, where the question is scored.
    pub right: Option<usize>,
    /// SHA-256 of what the model was given.
    pub prompt_sha256: String,
    /// How it was answered.
    pub outcome: Outcome,
    /// Tokens that the model was given or made for it.
    pub tokens: u64,
    /// Its share of the time, in seconds.
    pub seconds: f64,
}

impl Row {
    fn new(item: &Item, prompt_sha256: String, outcome: Outcome, tokens: u64, seconds: f64) -> Self {
        let Item { question, order, places } = item;
        let (id, places) = (question.id.clone(), places.clone());
        Self { id, order: *order, places, right: question.answer, prompt_sha256, outcome, tokens, seconds }
    }

    /// Of a question whose options' likelihoods are known.
    pub fn scored(item: &Item, prompt_sha256: String, scores: Scores, tokens: u64, seconds: f64) -> Self {
        Self::new(item, prompt_sha256, Outcome::Scored(scores), tokens, seconds)
    }

    /// Of a question with a generated answer.
    pub fn generated(item: &Item, prompt_sha256: String, text: String, tokens: u64, seconds: f64) -> Self {
        let (named, note) = match parse_answer(&text, &item.question.options) {
            Parsed::Letter(index) => (Some(index), String::new()),
            Parsed::Unparsable(reason) => (None, reason.to_string()),
        };
        Self::new(item, prompt_sha256, Outcome::Generated { text, named, note }, tokens, seconds)
    }

    /// Of a question that needs more tokens, with its longest option or all that may be written, than the model has
    /// positions for.
    pub fn too_long(item: &Item, prompt_sha256: String, needed: usize, limit: usize) -> Self {
        let note =
            format!("it needs {} with its answer, and the model takes {limit}", halfbyte::Count(needed, "token"));
        Self::new(item, prompt_sha256, Outcome::TooLong { note }, 0, 0.0)
    }

    /// The place that was answered.
    pub fn given(&self) -> Option<usize> {
        match &self.outcome {
            Outcome::Scored(scores) => Some(best(&scores.sum)),
            Outcome::Generated { named, .. } => *named,
            Outcome::TooLong { .. } => None,
        }
    }

    /// The option of the file that was answered.
    pub fn given_option(&self) -> Option<usize> {
        self.given().and_then(|place| self.places.get(place).copied())
    }

    /// Whether the answer is right; none where there is no right one.
    pub fn is_right(&self) -> Option<bool> {
        self.right.map(|right| self.given() == Some(right))
    }

    /// The likelihoods of the options.
    pub fn scores(&self) -> Option<&Scores> {
        if let Outcome::Scored(scores) = &self.outcome { Some(scores) } else { None }
    }

    /// The generated answer.
    pub fn text(&self) -> &str {
        if let Outcome::Generated { text, .. } = &self.outcome { text } else { "" }
    }

    /// Why there is no answer; else empty.
    pub fn note(&self) -> &str {
        match &self.outcome {
            Outcome::Scored(_) => "",
            Outcome::Generated { note, .. } | Outcome::TooLong { note } => note,
        }
    }

    /// Refuses numbers that JSON does not have, and scores and answers of other options than there are.
    ///
    /// # Errors
    /// [`Error::Setting`] names the question.
    pub fn check(&self) -> Result<()> {
        let mut numbers = self.scores().into_iter().flat_map(Scores::all).chain([&self.seconds]);
        let n = self.places.len();
        let fail = |got: String, want: &str| {
            Err(Error::setting("a result", format!("{got} for question {:?}", self.id), want))
        };
        if let Some(number) = numbers.find(|number| !number.is_finite()) {
            return fail(number.to_string(), "it must be a finite number; try another compute type (float32)");
        }
        if self.scores().is_some_and(|s| [&s.sum, &s.per_token, &s.per_char].iter().any(|list| list.len() != n)) {
            return fail("a list of scores".into(), "there must be one for each option");
        }
        match [self.right, self.given()].into_iter().flatten().find(|&place| place >= n) {
            Some(place) => fail(format!("option {}", letter(place)), "the question must have it"),
            None => Ok(()),
        }
    }
}
