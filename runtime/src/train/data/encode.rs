//! From a record to a sample.

use halfbyte::Count;
use serde_json::Value;

use super::DataOptions;
use super::format::{self, Content, Talk, brief};
use super::records::json_reason;
use super::turns::{HeldMarkers, assistant_turns, with_ends};
use crate::batch::Sample;
use crate::chat::{Chat, ChatTemplate};
use crate::json;
use crate::settings::DataFormat;
use crate::settings::choices::{Overlong, TrainOnEos};
use crate::tokenizer::Tokenizer;

/// What became of a record.
pub(super) enum Outcome {
    Whole(Sample),
    Truncated(Sample),
    Skipped,
}

pub(super) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    /// Those of a record's variables that the template reads.
    variables: Vec<&'static str>,
    options: &'a DataOptions,
}

impl<'a> Encoder<'a> {
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>, options: &'a DataOptions) -> Self {
        let read = |variable: &&str| template.is_some_and(|template| template.uses(variable));
        let variables = ["tools", "enable_thinking"].into_iter().filter(read).collect();
        Encoder { tokenizer, template, variables, options }
    }

    /// The format of a record, and what becomes of it.
    pub fn record(&self, text: &[u8]) -> Result<(DataFormat, Outcome), String> {
        let text = std::str::from_utf8(text)
            .map_err(|e| format!("byte {} is not valid UTF-8; save the file as UTF-8", e.valid_up_to() + 1))?;
        let value = json::parse(text.as_bytes()).map_err(|e| json_reason(&e))?;
        let Value::Object(record) = value else {
            return Err(format!("expected a JSON object, found {}", brief(&value)));
        };
        let format = self.options.format.map_or_else(|| format::detect(&record), Ok)?;
        let mut sample = match format::read(format, &record)? {
            Content::Text { prompt, completion } => self.completion(&prompt, &completion)?,
            Content::Talk(talk) => self.talk(&talk, &Value::from(record))?,
        };
        if sample.n_targets() == 0 {
            return Err("the sample has no token to train on".into());
        }
        sample.shrink();
        Ok((format, self.limit(sample)?))
    }

    /// Prompt and completion are tokenised apart, so that the boundary lies between two tokens, and the prompt's
    /// tokens are those that generation starts from.
    fn completion(&self, prompt: &str, completion: &str) -> Result<Sample, String> {
        let mut sample = Sample::default();
        sample.push(&self.encode(prompt)?, false);
        let (mut ids, eos) = (self.encode(completion)?, self.tokenizer.eos_id());
        if self.options.append_eos {
            let eos = eos.ok_or("the tokenizer names no end token to append")?;
            if ids.last() != Some(&eos) {
                ids.push(eos);
            }
        }
        let untrained =
            self.options.train_on_eos == TrainOnEos::None && ids.last().is_some_and(|last| Some(*last) == eos);
        let end = ids.split_off(ids.len() - usize::from(untrained));
        sample.push(&ids, true);
        sample.push(&end, false);
        Ok(sample)
    }

    /// The assistant's turns are found in the rendered text, where the markers that the messages themselves may
    /// contain are held back until the turns are found. What follows the assistant's header is tokenised apart from
    /// it, as in generation.
    fn talk(&self, talk: &Talk, record: &Value) -> Result<Sample, String> {
        let none = "a conversation needs a chat template, and the checkpoint has none";
        let template = self.template.ok_or(none)?;
        let held = HeldMarkers::choose(record)?;
        let messages: Vec<_> = talk.messages.iter().map(|message| held.hide(message)).collect();
        let tools = talk.tools.as_ref().map(|tools| held.hide(tools));
        for (key, given) in [("tools", tools.is_some()), ("enable_thinking", talk.enable_thinking.is_some())] {
            if given && !self.variables.contains(&key) {
                return Err(format!("the chat template does not read `{key}`, so it would be ignored; take it out"));
            }
        }
        let enable_thinking = talk.enable_thinking.or(self.options.enable_thinking);
        let chat = Chat { messages: &messages, tools: tools.as_ref(), enable_thinking, ..Chat::default() };
        let text = template.render(&chat).map_err(|e| e.to_string())?;
        let mut sample = Sample::default();
        for (piece, trained) in with_ends(assistant_turns(&text, &talk.trained()?)?, self.options.train_on_eos) {
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
