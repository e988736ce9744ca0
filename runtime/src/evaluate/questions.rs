//! Multiple-choice questions in the format of the Digital Agency of Japan's lawqa_jp, and how to report their score.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::{files, json};

/// A question with its choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The text that the answer follows from (`コンテキスト`).
    pub context: String,
    /// How to answer (`指示`).
    pub instruction: String,
    /// The question (`問題文`).
    pub question: String,
    /// The choices, without their letters (`選択肢`).
    pub options: Vec<String>,
    /// The index of the right choice (`output`).
    pub answer: usize,
}

#[derive(Deserialize)]
struct File {
    samples: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "コンテキスト")]
    context: String,
    #[serde(rename = "指示")]
    instruction: String,
    #[serde(rename = "問題文")]
    question: String,
    #[serde(rename = "選択肢")]
    options: String,
    output: String,
}

/// Reads `{"samples": [{"コンテキスト", "指示", "問題文", "選択肢", "output"}, …]}`; other keys are left alone.
///
/// # Errors
/// When the file cannot be read, is not of this format or has no samples; a bad sample is named with its index.
pub fn read_questions(path: impl AsRef<Path>) -> Result<Vec<Question>> {
    let path = path.as_ref();
    // The samples as JSON and as questions: each has a few texts, which are most of it.
    let bytes = files::read_to_use(path, 3, "ask a part of it")?;
    let fail = |reason| Error::Data { path: path.to_owned(), reason };
    let file: File = json::parse(&bytes)
        .and_then(serde_json::from_value)
        .map_err(|e| fail(format!("expected {{\"samples\": […]}} in lawqa_jp's format: {e}")))?;
    if file.samples.is_empty() {
        return Err(fail("there are no samples".into()));
    }
    let parse = |(index, sample)| parse(sample).map_err(|reason| fail(format!("sample {index}: {reason}")));
    file.samples.into_iter().enumerate().map(parse).collect()
}

fn parse(sample: serde_json::Value) -> Result<Question, String> {
    let entry: Entry = serde_json::from_value(sample).map_err(|e| e.to_string())?;
    let options = parse_options(&entry.options);
    if options.len() < 2 {
        return Err(format!("`選択肢` is {:?}, expected lines `a …`, `b …` and so on", entry.options));
    }
    if let Some(empty) = options.iter().position(String::is_empty) {
        return Err(format!("choice {} of `選択肢` is empty", letter(empty)));
    }
    let twice = |i: &usize| options[..*i].contains(&options[*i]);
    if let Some(second) = (0..options.len()).find(twice) {
        return Err(format!("choice {} of `選択肢` is also one before it: {:?}", letter(second), options[second]));
    }
    let answer = (0..options.len()).find(|&index| entry.output.trim() == letter(index).to_string());
    let Some(answer) = answer else {
        let last = letter(options.len() - 1);
        return Err(format!("`output` is {:?}, expected one of a to {last}", entry.output));
    };
    let Entry { context, instruction, question, .. } = entry;
    Ok(Question { context, instruction, question, options, answer })
}

/// Splits `a …\nb …` at lines that begin with the next letter and white space; other lines continue a choice.
fn parse_options(text: &str) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for line in text.lines() {
        let next = (options.len() < LETTERS).then(|| letter(options.len()));
        let rest = next.and_then(|next| line.trim_start().strip_prefix(next));
        let begun = rest.filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        match (begun, options.last_mut()) {
            (Some(rest), _) => options.push(rest.trim().to_owned()),
            (None, Some(option)) => *option = format!("{option}\n{}", line.trim_end()),
            (None, None) if line.trim().is_empty() => {}
            (None, None) => return Vec::new(),
        }
    }
    options.iter().map(|option| option.trim_end().to_owned()).collect()
}

/// There are no more choices than letters.
const LETTERS: usize = 26;

/// The letter of a choice: 0 is a. There is none beyond z.
pub fn letter(index: usize) -> char {
    ('a'..='z').nth(index).unwrap_or('?')
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
    /// Compares the chosen indices with the right ones.
    ///
    /// # Errors
    /// When their numbers differ or are 0.
    pub fn new(questions: &[Question], chosen: &[usize]) -> Result<Self> {
        let n = questions.len();
        if n == 0 || chosen.len() != n {
            let want = format!("there must be one for each of the questions, of which there are {n}");
            return Err(Error::setting("number of answers", chosen.len(), want));
        }
        let n_correct = questions.iter().zip(chosen).filter(|&(question, &choice)| question.answer == choice).count();
        let count = |choice| questions.iter().filter(|question| question.answer == choice).count();
        let choices = 0..questions.iter().map(|question| question.options.len()).max().unwrap_or(0);
        let (majority, n_majority) =
            choices.map(|choice| (choice, count(choice))).rev().max_by_key(|&(_, count)| count).unwrap_or_default();
        Ok(Self { n, n_correct, majority, n_majority })
    }

    /// The share of right answers.
    pub fn value(&self) -> f64 {
        self.n_correct as f64 / self.n as f64
    }

    /// The share that always answering [`Self::majority`] gets right.
    pub fn baseline(&self) -> f64 {
        self.n_majority as f64 / self.n as f64
    }

    /// The 95 % score interval of [`Self::value`] (Wilson, "Probable inference, the law of succession, and statistical
    /// inference", JASA 1927).
    pub fn interval(&self) -> (f64, f64) {
        const Z: f64 = 1.959_963_984_540_054;
        let (n, p) = (self.n as f64, self.value());
        let scale = 1.0 / (1.0 + Z * Z / n);
        let centre = scale * (p + Z * Z / (2.0 * n));
        let half = scale * Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        ((centre - half).max(0.0), (centre + half).min(1.0))
    }
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
