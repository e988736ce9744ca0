//! Training text: JSONL files into token ids and a mask of what is trained.
//!
//! A line is one of `{"text"}`, trained on whole; `{"prompt", "completion"}`, trained on the completion; `{"messages"}`
//! (with `tools` and `enable_thinking` if the template knows them), trained on the assistant's turns. Keys of one kind
//! beside another are refused, as they would be ignored; other keys are left alone.
//!
//! What is trained is decided by position, never by token id: the `<|im_end|>` of an assistant's turn and an appended
//! end token are trained like any other token, also where the same id serves as padding elsewhere.

use std::path::Path;

use halfbyte::Count;
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::batch::{Batch, Sample};
use crate::chat::{Chat, ChatTemplate};
use crate::config::Qwen3Config;
use crate::error::{Error, Result};
pub use crate::settings::choices::Overlong;
use crate::tokenizer::Tokenizer;
use crate::{files, json};

mod turns;

use turns::{HeldMarkers, assistant_turns};

/// How lines become samples.
#[derive(Clone, Copy, Debug)]
pub struct DataOptions {
    /// The longest sample, in tokens.
    pub max_seq_length: usize,
    /// What becomes of longer ones.
    pub overlong: Overlong,
    /// End texts and completions with the tokenizer's end token, unless they end with it already.
    pub append_eos: bool,
    /// The template's `enable_thinking`, where the line has none.
    pub enable_thinking: Option<bool>,
}

/// The samples of a file, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// The samples; each has at least one token to predict.
    pub samples: Vec<Sample>,
    /// How many of them were cut to the limit.
    pub n_truncated: usize,
    /// How many lines were left out because of their length.
    pub n_skipped: usize,
}

impl Dataset {
    /// Reads and tokenises a JSONL file, on all cores.
    ///
    /// `template` may be absent if no line has `messages`.
    ///
    /// # Errors
    /// When the file cannot be read or has no samples; the first line that cannot be used is named with its number.
    pub fn read(
        path: impl AsRef<Path>,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        options: &DataOptions,
    ) -> Result<Self> {
        let path = path.as_ref();
        // A token takes 5 bytes, and few are longer.
        let bytes = files::read_to_use(path, 2, "train on a part of it")?;
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        let lines: Vec<_> = bytes.split(|&byte| byte == b'\n').enumerate().collect();
        let read = |variable: &&str| template.is_some_and(|template| template.uses(variable));
        let variables = ["tools", "enable_thinking"].into_iter().filter(read).collect();
        let encoder = Encoder { tokenizer, template, variables, options };
        let written = lines.par_iter().filter(|(_, line)| !line.trim_ascii().is_empty());
        let outcomes: Vec<_> = written.map(|&(index, line)| (index + 1, encoder.line(line))).collect();
        let mut dataset = Self::default();
        for (line, outcome) in outcomes {
            let outcome = outcome.map_err(|reason| Error::Line { path: path.to_owned(), line, reason })?;
            dataset.add(outcome);
        }
        dataset.check(path)?;
        Ok(dataset)
    }

    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Whole(sample) => self.samples.push(sample),
            Outcome::Truncated(sample) => {
                self.samples.push(sample);
                self.n_truncated += 1;
            }
            Outcome::Skipped => self.n_skipped += 1,
        }
    }

    fn check(&self, path: &Path) -> Result<()> {
        let reason = match (self.samples.len(), self.n_skipped) {
            (0, 0) => "the file is empty; write one JSON object per line, such as {\"text\": \"…\"}".into(),
            (0, n) => format!("{} and none within the limit; raise --max-seq-length", Count(n, "sample")),
            _ => return Ok(()),
        };
        Err(Error::Data { path: path.to_owned(), reason })
    }

    /// Refuses samples with tokens or positions that the model has not.
    ///
    /// # Errors
    /// [`Error::Data`] names the file, the sample and the number.
    pub fn expect_fits(&self, path: &Path, config: &Qwen3Config) -> Result<()> {
        let check = |(i, sample): (usize, &Sample)| {
            let reason = |e| format!("sample {} (from 1, without those left out): {e}", i + 1);
            Batch::new([sample]).check(config).map_err(|e| Error::Data { path: path.to_owned(), reason: reason(e) })
        };
        self.samples.par_iter().enumerate().try_for_each(check)
    }

    /// The number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.samples.iter().map(|sample| sample.ids.len()).sum()
    }

    /// The number of tokens to predict.
    pub fn n_targets(&self) -> usize {
        self.samples.iter().map(Sample::n_targets).sum()
    }

    /// How much it is, for people.
    pub fn told(&self) -> String {
        let (samples, tokens) = (Count(self.samples.len(), "sample"), Count(self.n_tokens(), "token"));
        format!("{samples}, {tokens} ({} trained on)", self.n_targets())
    }

    /// What the user should know: how many samples were cut or left out, if any.
    pub fn note(&self) -> Option<String> {
        let lines = self.samples.len() + self.n_skipped;
        let (cut, skipped) = (self.n_truncated, self.n_skipped);
        (cut + skipped > 0)
            .then(|| format!("of {}, cut to the length limit: {cut}; left out: {skipped}", Count(lines, "sample")))
    }
}

/// What became of a line.
enum Outcome {
    Whole(Sample),
    Truncated(Sample),
    Skipped,
}

struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    /// Those of a line's variables that the template reads.
    variables: Vec<&'static str>,
    options: &'a DataOptions,
}

impl Encoder<'_> {
    fn line(&self, line: &[u8]) -> Result<Outcome, String> {
        let line = std::str::from_utf8(line)
            .map_err(|e| format!("byte {} is not valid UTF-8; save the file as UTF-8", e.valid_up_to() + 1))?;
        let value = json::parse(line.as_bytes()).map_err(|e| json_reason(&e))?;
        let Value::Object(object) = value else {
            return Err(format!("expected a JSON object, found {}", brief(&value)));
        };
        let sample = self.object(&object)?;
        if sample.n_targets() == 0 {
            return Err("the sample has no token to train on".into());
        }
        self.limit(sample)
    }

    fn object(&self, object: &Map<String, Value>) -> Result<Sample, String> {
        let kinds = ["text", "completion", "messages"];
        let found: Vec<_> = kinds.into_iter().filter(|&kind| object.contains_key(kind)).collect();
        if let [kind] = found[..]
            && let Some(stray) = stray_key(object, kind)
        {
            return Err(format!("`{stray}` means nothing beside `{kind}`; take it out"));
        }
        match found[..] {
            ["text"] => self.completion("", string(object, "text")?),
            ["completion"] => self.completion(string(object, "prompt")?, string(object, "completion")?),
            ["messages"] => self.messages(object),
            [] if object.contains_key("prompt") => Err("`prompt` needs a `completion` beside it".into()),
            [] => Err(format!(
                "found the keys {:?}, expected `text`, or `prompt` and `completion`, or `messages`",
                object.keys().collect::<Vec<_>>()
            )),
            _ => Err(format!("the keys {found:?} exclude each other; keep one")),
        }
    }

    /// Prompt and completion are tokenised apart, so that the boundary lies between two tokens, and the prompt's
    /// tokens are those that generation starts from.
    fn completion(&self, prompt: &str, completion: &str) -> Result<Sample, String> {
        let mut sample = Sample::default();
        sample.push(&self.encode(prompt)?, false);
        let mut ids = self.encode(completion)?;
        if self.options.append_eos {
            let eos = self.tokenizer.eos_id().ok_or("the tokenizer names no end token to append")?;
            if ids.last() != Some(&eos) {
                ids.push(eos);
            }
        }
        sample.push(&ids, true);
        Ok(sample)
    }

    /// The assistant's turns are found in the rendered text, where the markers that the messages themselves may
    /// contain are held back until the turns are found. What follows the assistant's header is tokenised apart from
    /// it, as in generation.
    fn messages(&self, line: &Map<String, Value>) -> Result<Sample, String> {
        let template = self.template.ok_or("`messages` need a chat template, and the checkpoint has none")?;
        let held = HeldMarkers::choose(line)?;
        let messages = line["messages"].as_array().ok_or_else(|| wrong_type(line, "messages", "a list"))?;
        let messages: Vec<_> = messages.iter().map(|message| held.hide(message)).collect();
        let tools = line.get("tools").filter(|tools| !tools.is_null()).map(|tools| held.hide(tools));
        let enable_thinking = match line.get("enable_thinking") {
            None | Some(Value::Null) => self.options.enable_thinking,
            Some(Value::Bool(enable)) => Some(*enable),
            Some(_) => return Err(wrong_type(line, "enable_thinking", "true or false")),
        };
        for (key, given) in [
            ("tools", tools.is_some()),
            ("enable_thinking", line.get("enable_thinking").is_some_and(Value::is_boolean)),
        ] {
            if given && !self.variables.contains(&key) {
                return Err(format!("the chat template does not read `{key}`, so it would be ignored; take it out"));
            }
        }
        let chat = Chat { messages: &messages, tools: tools.as_ref(), enable_thinking, ..Chat::default() };
        let text = template.render(&chat).map_err(|e| e.to_string())?;
        let n_assistant = messages.iter().filter(|message| message["role"] == "assistant").count();
        let mut sample = Sample::default();
        for (piece, trained) in assistant_turns(&text, n_assistant)? {
            sample.push(&self.encode(&held.restore(piece))?, trained);
        }
        Ok(sample)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode(text).map_err(|e| e.to_string())
    }

    fn limit(&self, mut sample: Sample) -> Result<Outcome, String> {
        let (len, limit) = (sample.ids.len(), self.options.max_seq_length);
        if len <= limit {
            return Ok(Outcome::Whole(sample));
        }
        match self.options.overlong {
            Overlong::Error => Err(format!(
                "the sample has {}, but the limit is {limit}; raise --max-seq-length, or allow truncation",
                Count(len, "token")
            )),
            Overlong::Skip => Ok(Outcome::Skipped),
            Overlong::Truncate => {
                sample.truncate(limit);
                Ok(if sample.n_targets() == 0 { Outcome::Skipped } else { Outcome::Truncated(sample) })
            }
        }
    }
}

/// A key that goes with samples of another kind only.
fn stray_key(line: &Map<String, Value>, kind: &str) -> Option<&'static str> {
    let strays: &[&str] = match kind {
        "text" => &["prompt", "tools", "enable_thinking"],
        "completion" => &["tools", "enable_thinking"],
        _ => &["prompt"],
    };
    strays.iter().copied().find(|&key| line.get(key).is_some_and(|value| !value.is_null()))
}

fn string<'a>(line: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    match line.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong_type(line, key, "a string")),
        None => Err(format!("the key `{key}` is missing")),
    }
}

fn wrong_type(line: &Map<String, Value>, key: &str, want: &str) -> String {
    format!("`{key}` is {}, but must be {want}", brief(&line[key]))
}

/// A value as JSON, cut to a readable length.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What is wrong with a line's JSON, without the line number that serde_json counts within the line.
fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    format!("not valid JSON: {reason}, at column {}", error.column())
}
