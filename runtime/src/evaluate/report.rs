//! A run's score: `metrics.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::questions::{Accuracy, letter, wilson};
use super::row::{Outcome, Row};
use super::score::{Scores, best};
use crate::error::{Error, Result};

/// Everything that a run is summed up in. A question without an answer (unparsable, too long) is a wrong one; one that
/// is not scored counts in `n_rows` only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Questions that were asked, each order of options counted.
    pub n_rows: usize,
    /// Those with a right answer.
    pub n_scored: usize,
    /// Those that were answered right.
    pub n_right: usize,
    /// Generated answers that name no option.
    pub n_unparsable: usize,
    /// Questions that did not fit the model.
    pub n_too_long: usize,
    /// What the right answers give; absent where no question has one.
    #[serde(flatten)]
    pub score: Option<Score>,
    /// Seconds for all questions, of all runs that it took.
    pub seconds: f64,
    /// Tokens that the model was given or made.
    pub tokens: u64,
    /// [`super::prompt::hash`] of the questions, in their orders.
    pub questions_sha256: String,
    /// [`super::prompt::hash`] of the rows, as they were noted during the run.
    pub rows_sha256: String,
    /// All settings of the run.
    pub settings: Value,
}

/// How right the answers are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The share of right answers.
    pub accuracy: f64,
    /// Its 95 % interval (Wilson). Orders of one question are not independent: it is that of as many answers as there are
    /// questions.
    pub accuracy_interval: [f64; 2],
    /// The mean over letters of the harmonic mean of precision and recall; of the letters that are right or were given at
    /// least once, as scikit-learn's `f1_score(average="macro", zero_division=0)` has it.
    pub macro_f1: f64,
    /// The letter that is right most often.
    pub majority: char,
    /// The share that always giving it gets right.
    pub majority_baseline: f64,
    /// The accuracy by [`Scores::per_token`], where all options were scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_per_token: Option<f64>,
    /// The accuracy by [`Scores::per_char`], lm-evaluation-harness's `acc_norm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_per_char: Option<f64>,
    /// Each letter, how often it is right, and what was given.
    pub letters: BTreeMap<char, Letter>,
    /// For each right letter, how often each one was given; `none` is for no answer.
    pub confusion: BTreeMap<char, BTreeMap<String, usize>>,
    /// Over several orders of the options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders: Option<Orders>,
}

/// A letter's share of the answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Letter {
    /// How often it is right.
    pub right: usize,
    /// How often it was given.
    pub given: usize,
    /// How often both.
    pub hit: usize,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
}

/// What becomes of the score when options change places.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Orders {
    /// The number of questions, each order of its options not counted.
    pub n_questions: usize,
    /// The accuracy of each order, the file's own first.
    pub accuracy: Vec<f64>,
    /// The mean over questions of the share of orders that were answered right.
    pub mean: f64,
    /// The share of questions that were answered right in all orders.
    pub right_in_all: f64,
    /// The share of questions that were answered with the same option, right or wrong, in all orders.
    pub consistent: f64,
}

impl Report {
    /// Sums up rows.
    ///
    /// # Errors
    /// A row has a number that is not finite ([`Row::check`]), or the sum of seconds is none.
    pub fn new(rows: &[Row], questions_sha256: String, rows_sha256: String, settings: Value) -> Result<Self> {
        rows.iter().try_for_each(Row::check)?;
        let seconds: f64 = rows.iter().map(|row| row.seconds).sum();
        if !seconds.is_finite() {
            return Err(Error::setting("the time of all questions", seconds, "it must be a finite number of seconds"));
        }
        let count = |is: fn(&Row) -> bool| rows.iter().filter(|row| is(row)).count();
        Ok(Self {
            n_rows: rows.len(),
            n_scored: count(|row| row.right.is_some()),
            n_right: count(|row| row.is_right() == Some(true)),
            n_unparsable: count(|row| matches!(row.outcome, Outcome::Generated { named: None, .. })),
            n_too_long: count(|row| matches!(row.outcome, Outcome::TooLong { .. })),
            score: Score::new(rows),
            seconds,
            tokens: rows.iter().map(|row| row.tokens).sum(),
            questions_sha256,
            rows_sha256,
            settings,
        })
    }
}

/// Counts, of answers with a right one.
pub fn accuracy<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<Accuracy> {
    Accuracy::of(rows.into_iter().filter_map(|row| Some((row.right?, row.given()))))
}

impl Score {
    fn new(rows: &[Row]) -> Option<Self> {
        let scored: Vec<_> = rows.iter().filter(|row| row.right.is_some()).collect();
        let counts = accuracy(rows)?;
        let questions = by_question(&scored);
        let interval = wilson(counts.value(), questions.len() as f64);
        let letters = letters(&scored);
        Some(Self {
            accuracy: counts.value(),
            accuracy_interval: [interval.0, interval.1],
            macro_f1: letters.values().map(|letter| letter.f1).sum::<f64>() / letters.len() as f64,
            majority: letter(counts.majority),
            majority_baseline: counts.baseline(),
            accuracy_per_token: accuracy_by(&scored, |scores| &scores.per_token),
            accuracy_per_char: accuracy_by(&scored, |scores| &scores.per_char),
            letters,
            confusion: confusion(&scored),
            orders: Orders::new(&scored, &questions),
        })
    }
}

/// The rows of each question.
fn by_question<'a>(rows: &[&'a Row]) -> BTreeMap<&'a str, Vec<&'a Row>> {
    let mut questions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    rows.iter().for_each(|&row| questions.entry(row.id.as_str()).or_default().push(row));
    questions
}

/// The share of right answers by another score than the sum; none where no options were scored.
fn accuracy_by(rows: &[&Row], score: fn(&Scores) -> &Vec<f64>) -> Option<f64> {
    let right = |row: &&&Row| row.scores().is_some_and(|scores| Some(best(score(scores))) == row.right);
    let any = rows.iter().any(|row| row.scores().is_some());
    any.then(|| rows.iter().filter(right).count() as f64 / rows.len() as f64)
}

fn letters(rows: &[&Row]) -> BTreeMap<char, Letter> {
    let mut letters: BTreeMap<char, Letter> = BTreeMap::new();
    for row in rows {
        row.right.into_iter().for_each(|right| letters.entry(letter(right)).or_default().right += 1);
        row.given().into_iter().for_each(|given| letters.entry(letter(given)).or_default().given += 1);
        row.right.filter(|_| row.is_right() == Some(true)).into_iter().for_each(|right| {
            letters.entry(letter(right)).or_default().hit += 1;
        });
    }
    letters.values_mut().for_each(|letter| letter.f1 = 2.0 * letter.hit as f64 / (letter.right + letter.given) as f64);
    letters
}

fn confusion(rows: &[&Row]) -> BTreeMap<char, BTreeMap<String, usize>> {
    let mut table: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for row in rows {
        let given = row.given().map_or("none".into(), |given| letter(given).to_string());
        let right = row.right.map_or('?', letter);
        *table.entry(right).or_default().entry(given).or_insert(0) += 1;
    }
    table
}

impl Orders {
    /// None where every question was asked once.
    fn new(rows: &[&Row], questions: &BTreeMap<&str, Vec<&Row>>) -> Option<Self> {
        let orders: BTreeSet<_> = rows.iter().map(|row| row.order).collect();
        let right = |row: &&Row| row.is_right() == Some(true);
        let share = |rows: &mut dyn Iterator<Item = &Row>| {
            let all: Vec<_> = rows.collect();
            all.iter().filter(|row| right(row)).count() as f64 / all.len() as f64
        };
        let n = questions.len() as f64;
        let of_questions = |is: &dyn Fn(&[&Row]) -> bool| questions.values().filter(|rows| is(rows)).count() as f64 / n;
        let same =
            |rows: &[&Row]| rows.iter().all(|r| r.given().is_some() && r.given_option() == rows[0].given_option());
        (orders.len() > 1).then(|| Self {
            n_questions: questions.len(),
            accuracy: orders
                .iter()
                .map(|&order| share(&mut rows.iter().copied().filter(|r| r.order == order)))
                .collect(),
            mean: questions.values().map(|rows| share(&mut rows.iter().copied())).sum::<f64>() / n,
            right_in_all: of_questions(&|rows| rows.iter().all(right)),
            consistent: of_questions(&same),
        })
    }
}
