//! How a question is put to a model: as a chat message that asks for one letter, or as text that each option goes on.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::questions::{Question, letter};
use crate::batch::Sample;
use crate::chat;
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Where lawqa_jp's instructions want the context. It has a heading of its own here.
const CONTEXT_MARK: &str = "<following_context>";

/// The words around a question.
struct Words {
    instruction: &'static str,
    context: &'static str,
    passages: &'static str,
    question: &'static str,
    options: &'static str,
    /// Before and after the letters.
    letters: (&'static str, &'static str),
    between: &'static str,
}

const ENGLISH: Words = Words {
    instruction: "Choose the right answer to the following question.",
    context: "Context:",
    passages: "Retrieved passages:",
    question: "Question:",
    options: "Options:",
    letters: ("Answer with the letter of one option only (", "), and nothing else."),
    between: ", ",
};

const JAPANESE: Words = Words {
    instruction: "次の問題の正しい答えを、選択肢の中から1つ選んでください。",
    context: "コンテキスト:",
    passages: "検索された資料:",
    question: "問題:",
    options: "選択肢:",
    letters: ("選択肢の記号(", ")を1つだけ答えてください。記号のほかは何も書かないでください。"),
    between: "、",
};

/// Japanese for a question with kana or kanji, else English.
fn words(question: &Question) -> &'static Words {
    if question.question.chars().any(is_japanese) { &JAPANESE } else { &ENGLISH }
}

fn is_japanese(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}')
}

/// The text of a message that asks for the letter of an option: instruction, context, passages, question, options.
///
/// `passages` were found for the question, the best first. What is empty is left out, heading and all.
pub fn asks_for_letter(question: &Question, passages: &[String]) -> String {
    let words = words(question);
    let instruction = question.instruction.replace(CONTEXT_MARK, "");
    let instruction = if instruction.trim().is_empty() { words.instruction } else { instruction.trim() };
    let listed = |texts: &[String], name: fn(usize) -> String| {
        texts.iter().enumerate().map(|(index, text)| format!("{} {text}", name(index))).collect::<Vec<_>>().join("\n")
    };
    let letters: Vec<_> = (0..question.options.len()).map(|index| letter(index).to_string()).collect();
    let last = format!("{}{}{}", words.letters.0, letters.join(words.between), words.letters.1);
    let parts = [
        ("", instruction.to_owned()),
        (words.context, question.context.trim().to_owned()),
        (words.passages, listed(passages, |index| format!("[{}]", index + 1))),
        (words.question, question.question.trim().to_owned()),
        (words.options, listed(&question.options, |index| format!("{}.", letter(index)))),
        ("", last),
    ];
    let parts = parts.iter().filter(|(_, text)| !text.is_empty());
    parts.map(|(heading, text)| format!("{heading}\n{text}").trim_start().to_owned()).collect::<Vec<_>>().join("\n\n")
}

/// [`asks_for_letter`] as a conversation for a chat template.
pub fn messages(question: &Question, passages: &[String]) -> Vec<Value> {
    vec![chat::message("user", &asks_for_letter(question, passages))]
}

/// A prompt, and the texts whose likelihood after it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuations {
    /// What all of them follow.
    pub prompt: String,
    /// One for each option.
    pub options: Vec<String>,
}

/// Token ids of [`Continuations`]. Prompt and options are encoded apart, so the prompt's ids are the same for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Of the prompt.
    pub prompt: Vec<u32>,
    /// Of each option; none is empty.
    pub options: Vec<Vec<u32>>,
}

impl Continuations {
    /// The options' texts after passages, context and question, each on a line of its own, without letters or
    /// instruction.
    pub fn of_texts(question: &Question, passages: &[String]) -> Self {
        let before = passages.iter().chain([&question.context]).filter(|text| !text.is_empty());
        let prompt = before.chain([&question.question]).map(String::as_str).collect::<Vec<_>>().join("\n");
        Self { prompt, options: question.options.iter().map(|option| format!(" {option}")).collect() }
    }

    /// The options' letters after `asked`, which asks for one: [`asks_for_letter`] through a chat template.
    pub fn of_letters(question: &Question, asked: String) -> Self {
        let options = (0..question.options.len()).map(|index| letter(index).to_string());
        Self { prompt: asked, options: options.collect() }
    }

    /// The token ids.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let options = self.options.iter().map(|option| tokenizer.encode(option)).collect::<Result<_>>()?;
        Ok(Encoded { prompt: tokenizer.encode(&self.prompt)?, options })
    }

    /// [`hash`] of the prompt and all options.
    pub fn hash(&self) -> String {
        let parts = [&self.prompt].into_iter().chain(&self.options);
        hash(&parts.map(String::as_str).collect::<Vec<_>>().join("\0"))
    }
}

impl Encoded {
    /// The prompt with each option, of which only the option is scored.
    pub fn samples(&self) -> Vec<Sample> {
        let continued = |option: &Vec<u32>| {
            let mut sample = Sample::default();
            sample.push(&self.prompt, false);
            sample.push(option, true);
            sample
        };
        self.options.iter().map(continued).collect()
    }

    /// Prompt and longest option, in tokens.
    pub fn longest(&self) -> usize {
        self.prompt.len() + self.options.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// SHA-256 of a text, in hexadecimal.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
