//! lawqa_jp's JSON: `{"samples": [{"コンテキスト", "指示", "問題文", "選択肢", "output"}, …]}`.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::question::{MAX_OPTIONS, Question, check_parts, choice_of, letter};
use crate::error::{Error, Result};
use crate::json;

/// The key of the options.
pub(super) const OPTIONS: &str = "選択肢";

#[derive(Deserialize)]
struct File {
    samples: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "ファイル名")]
    name: Option<String>,
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

pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Vec<Question>> {
    let fail = |reason| Error::Data { path: path.to_owned(), reason };
    let file: File = json::parse(bytes)
        .and_then(serde_json::from_value)
        .map_err(|e| fail(format!("expected {{\"samples\": […]}} in lawqa_jp's format, or JSON lines: {e}")))?;
    if file.samples.is_empty() {
        return Err(fail("there are no samples".into()));
    }
    let parse = |(index, sample)| parse(index, sample).map_err(|reason| fail(format!("sample {index}: {reason}")));
    let mut questions: Vec<_> = file.samples.into_iter().enumerate().map(parse).collect::<Result<_>>()?;
    tell_apart(&mut questions);
    Ok(questions)
}

pub(super) fn parse(index: usize, sample: serde_json::Value) -> Result<Question, String> {
    let entry: Entry = serde_json::from_value(sample).map_err(|e| e.to_string())?;
    let options = parse_options(&entry.options);
    if options.len() < 2 {
        return Err(format!("`選択肢` is {:?}, expected lines `a …`, `b …` and so on", entry.options));
    }
    check_parts(&entry.question, &options)?;
    let Some(answer) = choice_of(entry.output.trim(), options.len()) else {
        let last = letter(options.len() - 1);
        return Err(format!("`output` is {:?}, expected one of a to {last}", entry.output));
    };
    let Entry { name, context, instruction, question, .. } = entry;
    let id = name.filter(|name| !name.is_empty()).unwrap_or_else(|| index.to_string());
    Ok(Question { id, context, instruction, question, options, answer: Some(answer) })
}

/// Gives names that several questions have their indices: a name is a file's, which may have been the source of several.
fn tell_apart(questions: &mut [Question]) {
    let mut counts: HashMap<String, usize> = HashMap::new();
    questions.iter().for_each(|question| *counts.entry(question.id.clone()).or_default() += 1);
    for (index, question) in questions.iter_mut().enumerate().filter(|(_, question)| counts[&question.id] > 1) {
        question.id = format!("{} [{index}]", question.id);
    }
}

/// Splits `a …\nb …` at lines that begin with the next letter and white space; other lines continue a choice.
fn parse_options(text: &str) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for line in text.lines() {
        let next = (options.len() < MAX_OPTIONS).then(|| letter(options.len()));
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
