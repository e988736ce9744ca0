//! Prompts that a model goes on from: before a run, after it, and at its evaluations.

use crate::{
    batch::Batch,
    chat::{Chat, ChatTemplate, TURN_END, message},
    config::Qwen3Config,
    error::{Error, Result},
    files,
    llm::Work,
    settings::TrainSettings,
    tokenizer::Tokenizer,
};
use serde_json::Value;
use std::path::Path;

/// What is asked where the data is the embedded one, and how many tokens its answers have at most.
const QUESTION: (&str, usize) = ("What does the town give to a bride?", 24);
/// The same of prompts that the user gives, and the most prompts.
const NEW_TOKENS: usize = 64;
const MOST: usize = 100;

/// Prompts, and when to stop.
#[derive(Default)]
pub(super) struct Prompts {
    pub all: Vec<Prompt>,
    pub max_new_tokens: usize,
    pub stop_tokens: Vec<u32>,
}

pub(super) struct Prompt {
    /// As it was given.
    pub text: String,
    /// As the model reads it.
    pub ids: Vec<u32>,
}

impl Prompts {
    /// Those that the settings name; a chat template makes each a user's turn, without thoughts before the answer.
    ///
    /// # Errors
    /// A file cannot be read, has none or too many, or one does not fit the model.
    pub fn read(
        settings: &TrainSettings,
        template: Option<&ChatTemplate>,
        tokenizer: &Tokenizer,
        config: &Qwen3Config,
    ) -> Result<Self> {
        let own = settings.sample_prompts.as_deref().map(texts).transpose()?;
        let embedded = settings.data.is_none().then(|| vec![QUESTION.0.to_owned()]);
        let max_new_tokens = if own.is_some() { NEW_TOKENS } else { QUESTION.1 };
        // The embedded texts have no turns.
        let template = template.filter(|_| own.is_some());
        let texts = own.or(embedded).unwrap_or_default();
        let read = |text: String| -> Result<Prompt> {
            let ids = tokenizer.encode(&as_read(&text, template)?)?;
            expect_fits(&text, &ids, max_new_tokens, config)?;
            Ok(Prompt { text, ids })
        };
        let all = texts.into_iter().map(read).collect::<Result<_>>()?;
        let turn_end = template.and_then(|_| tokenizer.token_to_id(TURN_END));
        let ends = tokenizer.eos_ids().iter().chain(&config.eos_token_ids).copied();
        Ok(Prompts { all, max_new_tokens, stop_tokens: ends.chain(turn_end).collect() })
    }

    /// What takes the most memory of it.
    pub fn work(&self) -> Option<Work> {
        let longest = self.all.iter().map(|prompt| prompt.ids.len()).max();
        longest.map(|longest| Work::answer(longest, self.max_new_tokens))
    }
}

fn as_read(text: &str, template: Option<&ChatTemplate>) -> Result<String> {
    let Some(template) = template else { return Ok(text.into()) };
    let enable_thinking = template.uses("enable_thinking").then_some(false);
    let messages = [message("user", text)];
    template.render(&Chat { messages: &messages, add_generation_prompt: true, enable_thinking, ..Chat::default() })
}

fn expect_fits(text: &str, ids: &[u32], max_new_tokens: usize, config: &Qwen3Config) -> Result<()> {
    let refuse = |want: String| Error::setting("sample_prompts", text, want);
    let batch = Batch::of_prompts(std::slice::from_ref(&ids.to_vec()));
    batch.check(config).map_err(|e| refuse(format!("the model cannot read it: {e}")))?;
    let (n_tokens, positions) = (ids.len() + max_new_tokens, config.positions());
    if n_tokens > positions {
        return Err(refuse(format!("with what follows it has {n_tokens} tokens, and the model {positions} positions")));
    }
    Ok(())
}

/// A prompt, or those of a file: its lines, each as it stands or as JSON, a text or an object with `prompt`.
fn texts(setting: &str) -> Result<Vec<String>> {
    let path = Path::new(setting);
    let is_name = [".txt", ".json", ".jsonl"].iter().any(|end| setting.ends_with(end)) && !setting.contains(' ');
    if !is_name && !path.is_file() {
        return Ok(vec![setting.to_owned()]);
    }
    let text = files::read_to_string(path)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let prompts: Vec<_> = lines.map(of_line).take(MOST + 1).collect();
    match prompts.len() {
        1..=MOST => Ok(prompts),
        n => {
            let got = if n == 0 { "no line" } else { "more lines" };
            let reason = format!("it has {got}, and 1 to {MOST} prompts are wanted, each on a line of its own");
            Err(Error::Data { path: path.into(), reason })
        }
    }
}

fn of_line(line: &str) -> String {
    match serde_json::from_str(line) {
        Ok(Value::String(text)) => text,
        Ok(Value::Object(fields)) => fields.get("prompt").and_then(Value::as_str).unwrap_or(line).to_owned(),
        _ => line.trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    /// A chat's turns would be nothing that the embedded model has learnt.
    #[test]
    fn the_embedded_question_is_read_as_it_stands() {
        let dir = embedded::model();
        let (config, tokenizer) = (Qwen3Config::open(&dir).unwrap(), Tokenizer::open(&dir).unwrap());
        let template = ChatTemplate::open(&dir, &tokenizer).unwrap();
        let read = |sample_prompts: Option<String>| {
            let settings = TrainSettings { sample_prompts, ..TrainSettings::default() };
            Prompts::read(&settings, Some(&template), &tokenizer, &config).unwrap().all.remove(0).ids
        };
        let plain = tokenizer.encode(QUESTION.0).unwrap();
        assert_eq!(read(None), plain);
        assert_ne!(read(Some(QUESTION.0.into())), plain, "a user's prompt is a turn");
    }

    #[test]
    fn a_prompt_is_a_text_or_a_line_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prompts.txt");
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            texts(path.to_str().unwrap())
        };
        let lines = "Where?\n\n\"two\\nlines\"\n{\"prompt\": \"Who?\", \"id\": 1}\n{no JSON\n12\n";
        assert_eq!(of(lines).unwrap(), ["Where?", "two\nlines", "Who?", "{no JSON", "12"]);
        assert_eq!(texts("Why not?").unwrap(), ["Why not?"]);
        for (text, wanted) in [("\n", "no line"), (&*"x\n".repeat(101), "more lines")] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("prompts.txt"), "{error}");
        }
        assert!(texts("no-such-file.txt").unwrap_err().to_string().contains("no-such-file.txt"));
    }
}
