//! A model that answers.

use super::{
    engine::{Engine, Load, Stream},
    prepared::Prepared,
};
use crate::{
    batch::Branches,
    chat::message,
    error::Result,
    generate::generator::{GenerateOptions, Generated},
    model::log_likelihood,
    settings::LlmSettings,
};
use halfbyte::MemoryUse;
use serde_json::Value;
use std::ops::ControlFlow;

/// A model that answers. Threads may share it.
pub struct Llm {
    prepared: Prepared,
    engine: Box<dyn Engine>,
}

/// What an option of a question is worth to the model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Score {
    /// Log-likelihood of the option after the prompt, in nats.
    pub sum: f64,
    /// Its tokens.
    pub n_tokens: usize,
}

impl Score {
    /// Log-likelihood of a token, on average.
    pub fn mean(&self) -> f64 {
        self.sum / self.n_tokens as f64
    }
}

impl Prepared {
    /// Loads the weights.
    ///
    /// # Errors
    /// A weight is missing or damaged, or the device cannot be used or has too little memory.
    pub fn load(self) -> Result<Llm> {
        let Prepared { files, config, adapter, settings, .. } = &self;
        let load = Load { files, config, base: settings.base(), head: self.head(), adapter: adapter.as_ref() };
        let engine = load.on(settings.device, settings.threads, settings.bnb_4bit_compute_dtype)?;
        Ok(Llm { engine, prepared: self })
    }
}

/// Tokens of options that are scored at once.
pub(super) const SCORED_AT_ONCE: usize = 4096;

impl Llm {
    /// Loads the model that the settings name, with its adapter.
    ///
    /// # Errors
    /// See [`Prepared::new`] and [`Prepared::load`].
    pub fn new(settings: &LlmSettings) -> Result<Self> {
        Prepared::new(settings)?.load()
    }

    /// What was known before the weights were loaded.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The name of the device.
    pub fn device(&self) -> String {
        self.engine.device()
    }

    /// What its buffers take.
    pub fn memory(&self) -> MemoryUse {
        self.engine.memory()
    }

    /// The answer to a prompt.
    ///
    /// # Errors
    /// The prompt is empty or too long, or the device refuses.
    pub fn invoke(&self, prompt: &str) -> Result<String> {
        Ok(self.chat(&[message("user", prompt)])?.text)
    }

    /// The next turn of a conversation of messages `{"role", "content"}`.
    ///
    /// # Errors
    /// The template refuses the conversation, it is too long, or the device refuses.
    pub fn chat(&self, messages: &[Value]) -> Result<Generated> {
        self.stream(messages, |_| ControlFlow::Continue(()))
    }

    /// [`Llm::chat`], which hands each piece of text to `each` as soon as it is there; that may end it.
    ///
    /// # Errors
    /// See [`Llm::chat`].
    pub fn stream(&self, messages: &[Value], mut each: impl FnMut(&str) -> ControlFlow<()>) -> Result<Generated> {
        let mut made = self.continue_all(&[self.prepared.text(messages)?], &mut |_, piece| each(piece))?;
        Ok(made.remove(0))
    }

    /// The answers to several conversations, written together.
    ///
    /// # Errors
    /// See [`Llm::chat`].
    pub fn chat_all(&self, conversations: &[Vec<Value>]) -> Result<Vec<Generated>> {
        let texts = conversations.iter().map(|messages| self.prepared.text(messages));
        self.continue_all(&texts.collect::<Result<Vec<_>>>()?, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Continues texts as they are, without a template, together.
    ///
    /// # Errors
    /// A text is empty or too long, or the device refuses.
    pub fn continue_all(&self, texts: &[String], stream: Stream<'_>) -> Result<Vec<Generated>> {
        let Prepared { tokenizer, settings, stop_tokens, .. } = &self.prepared;
        let prompts = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        let options = GenerateOptions {
            max_new_tokens: settings.max_new_tokens,
            stop_tokens: stop_tokens.clone(),
            sample: settings.sampling(),
            cache: settings.cache(),
            skip_special: true,
        };
        self.engine.generate(tokenizer, &prompts, &options, stream)
    }

    /// How likely each option is as the continuation of a text, which is read as it is.
    ///
    /// # Errors
    /// The text or an option is empty or too long, or the device refuses.
    pub fn scores(&self, prompt: &str, options: &[&str]) -> Result<Vec<Score>> {
        let tokenizer = &self.prepared.tokenizer;
        let options = options.iter().map(|option| tokenizer.encode(option)).collect::<Result<_>>()?;
        let branches = Branches { prompt: tokenizer.encode(prompt)?, options };
        let score = |losses: &Vec<f32>| Score { sum: log_likelihood(losses), n_tokens: losses.len() };
        Ok(self.losses(&[branches])?.iter().flatten().map(score).collect())
    }

    /// The loss in nats of every token of every option of each prompt. A prompt is computed once.
    ///
    /// # Errors
    /// A prompt or an option is empty, too long or has a token that the model has not, or the device refuses.
    pub fn losses(&self, all: &[Branches]) -> Result<Vec<Vec<Vec<f32>>>> {
        self.engine.losses(all, SCORED_AT_ONCE)
    }
}
