//! A question, whatever file it comes from.

use std::collections::HashMap;

use serde::Serialize;

/// The most options of a question: there are no more letters.
pub const MAX_OPTIONS: usize = 26;

/// A question with its choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Question {
    /// What reports call it, unlike all others of its file: the file's `id` (`ファイル名`), or its index from 0.
    pub id: String,
    /// The text that the answer follows from (`コンテキスト`); may be empty.
    pub context: String,
    /// How to answer (`指示`); may be empty.
    pub instruction: String,
    /// The question (`問題文`).
    pub question: String,
    /// The choices, without their letters (`選択肢`): two or more, none empty, no two the same.
    pub options: Vec<String>,
    /// The index of the right choice (`output`), where the question is scored.
    pub answer: Option<usize>,
}

/// What is wrong with a question's text or options, whichever file they come from.
pub(super) fn check_parts(question: &str, options: &[String]) -> Result<(), String> {
    if question.trim().is_empty() {
        return Err("the question is empty".into());
    }
    let n = options.len();
    if !(2..=MAX_OPTIONS).contains(&n) {
        return Err(format!("the number of options is {n}, expected 2 to {MAX_OPTIONS}"));
    }
    let mut seen = HashMap::new();
    for (index, option) in options.iter().enumerate() {
        if option.trim().is_empty() {
            return Err(format!("option {} is empty", letter(index)));
        }
        if let Some(first) = seen.insert(option.trim(), index) {
            return Err(format!("options {} and {} are the same, {option:?}", letter(first), letter(index)));
        }
    }
    Ok(())
}

/// The letter of a choice: 0 is a. There is none beyond z.
pub fn letter(index: usize) -> char {
    ('a'..='z').nth(index).unwrap_or('?')
}

/// The choice of a letter, in upper or lower case, where it is one of the first `n`.
pub(crate) fn choice_of(letter: &str, n: usize) -> Option<usize> {
    let is = |&index: &usize| letter.eq_ignore_ascii_case(self::letter(index).encode_utf8(&mut [0; 4]));
    (0..n.min(MAX_OPTIONS)).find(is)
}
