//! JSON lines: a question on each.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::question::{Question, check_parts, choice_of, letter};
use crate::error::{Error, Result};
use crate::json;

#[derive(Deserialize)]
struct Entry {
    id: Option<Value>,
    #[serde(default)]
    context: Option<String>,
    #[serde(default)]
    instruction: Option<String>,
    question: String,
    options: Options,
    /// Required, so that a misspelt key does not leave a question unscored. (An `Option` alone would be optional.)
    #[serde(deserialize_with = "Value::deserialize")]
    answer: Value,
}

/// Options in their order, with their letters where the file has them.
struct Options(Vec<(Option<String>, String)>);

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OptionsVisitor)
    }
}

struct OptionsVisitor;

impl<'de> Visitor<'de> for OptionsVisitor {
    type Value = Options;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("options as a list of texts, or as an object of letters and texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Options, A::Error> {
        let mut options = Vec::new();
        while let Some(text) = seq.next_element()? {
            options.push((None, text));
        }
        Ok(Options(options))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Options, A::Error> {
        let mut options = Vec::new();
        while let Some((letter, text)) = map.next_entry::<String, _>()? {
            options.push((Some(letter), text));
        }
        Ok(Options(options))
    }
}

impl Options {
    /// The texts, in the order of their letters.
    fn into_texts(mut self) -> Result<Vec<String>, String> {
        self.0.sort_by_cached_key(|(letter, _)| letter.as_ref().map(|letter| letter.to_ascii_lowercase()));
        for (index, (given, _)) in self.0.iter().enumerate() {
            if given.as_ref().is_some_and(|given| choice_of(given, index + 1) != Some(index)) {
                let given: Vec<_> = self.0.iter().filter_map(|(given, _)| given.as_deref()).collect();
                return Err(format!("the letters of the options are {}, expected a, b and so on", given.join(", ")));
            }
        }
        Ok(self.0.into_iter().map(|(_, text)| text).collect())
    }
}

/// Whether the first line that is not blank is one whole object, and not that of lawqa_jp.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let first = bytes.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    let object = first.and_then(|line| serde_json::from_slice::<serde_json::Map<String, Value>>(line).ok());
    object.is_some_and(|object| !object.contains_key("samples"))
}

pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    let mut lines_of_ids = HashMap::new();
    for (line, text) in bytes.split(|&byte| byte == b'\n').enumerate().map(|(index, text)| (index + 1, text)) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let fail = |reason| Error::Line { path: path.to_owned(), line, reason };
        let record = json::parse(text).map_err(unreadable);
        let question = record.and_then(|record| parse(questions.len(), record)).map_err(fail)?;
        if let Some(first) = lines_of_ids.insert(question.id.clone(), line) {
            return Err(fail(format!("`id` is {:?}, as on line {first}; give each question its own", question.id)));
        }
        questions.push(question);
    }
    let example = r#"{"question": "…", "options": ["…", "…"], "answer": "a"}"#;
    let empty = || Error::Data { path: path.to_owned(), reason: format!("it is empty; write lines such as {example}") };
    if questions.is_empty() { Err(empty()) } else { Ok(questions) }
}

fn unreadable(error: serde_json::Error) -> String {
    let keys = "`question`, `options` and `answer`, and perhaps `id`, `context` and `instruction`";
    format!("{error}; expected an object with {keys}")
}

pub(super) fn parse(index: usize, record: Value) -> Result<Question, String> {
    let entry: Entry = serde_json::from_value(record).map_err(unreadable)?;
    let options = entry.options.into_texts()?;
    check_parts(&entry.question, &options)?;
    Ok(Question {
        id: id(entry.id, index)?,
        context: entry.context.unwrap_or_default(),
        instruction: entry.instruction.unwrap_or_default(),
        question: entry.question,
        answer: answer(&entry.answer, options.len())?,
        options,
    })
}

fn id(given: Option<Value>, index: usize) -> Result<String, String> {
    match given {
        None | Some(Value::Null) => Ok(index.to_string()),
        Some(Value::String(id)) if !id.trim().is_empty() => Ok(id),
        Some(Value::Number(id)) => Ok(id.to_string()),
        Some(other) => Err(format!("`id` is {other}, expected a text or a number")),
    }
}

fn answer(given: &Value, n: usize) -> Result<Option<usize>, String> {
    let found = match given {
        Value::Null => return Ok(None),
        Value::String(text) => choice_of(text.trim(), n),
        number => number.as_u64().and_then(|index| usize::try_from(index).ok()).filter(|&index| index < n),
    };
    let wanted = || format!("one of a to {}, 0 to {}, or null where it is not scored", letter(n - 1), n - 1);
    found.map(Some).ok_or_else(|| format!("`answer` is {given}, expected {}", wanted()))
}
