//! From a prompt to a text, token by token.

use super::stream::TextStream;
use crate::{
    builder::builder,
    error::{Error, Result},
    model::{CacheType, Decoder, ForwardContext, Qwen3, SampleOptions},
    options::MAX_NEW_TOKENS,
    settings::LlmSettings,
    tokenizer::Tokenizer,
};
use halfbyte::{Backend, Float};
use std::{ops::ControlFlow, time::Instant};
use tracing::debug;

builder! {
    /// When to stop, and how to choose.
    #[derive(Debug, Clone, PartialEq)]
    pub struct GenerateOptions {
        /// At most so many.
        pub max_new_tokens: usize,
        /// Tokens that end the text; they are not part of it.
        pub stop_tokens: Vec<u32>,
        /// How the next token is chosen.
        pub sample: SampleOptions,
        /// How keys and values are kept.
        pub cache: CacheType,
        /// Whether special tokens are left out of the text.
        pub skip_special: bool,
    }
}

impl Default for GenerateOptions {
    /// As [`LlmSettings`] has it, without tokens that end the text.
    fn default() -> Self {
        let max_new_tokens = LlmSettings::default().max_new_tokens;
        GenerateOptions {
            max_new_tokens,
            stop_tokens: Vec::new(),
            sample: SampleOptions::default(),
            cache: CacheType::Plain,
            skip_special: true,
        }
    }
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Generated {
    /// The text.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub ids: Vec<u32>,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Seconds for the prompt.
    pub prompt_seconds: f64,
    /// Seconds for the tokens after the first.
    pub decode_seconds: f64,
    /// Whether it ended with a stop token rather than at the limit.
    pub stopped: bool,
}

/// Continues `prompt`; hands each piece of text to `stream` as soon as it is complete, which may end it.
///
/// # Errors
/// The prompt is empty or too long, or the device refuses.
pub fn generate<B: Backend, T: Float>(
    model: &Qwen3<B, T>,
    ctx: ForwardContext<'_, B, T>,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    mut stream: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated> {
    let mut one = generate_all(model, ctx, tokenizer, &[prompt.to_vec()], options, |_, piece| stream(piece))?;
    Ok(one.remove(0))
}

/// Continues all `prompts` together, until the last is at its end; `stream` gets each piece with the number of its text.
///
/// # Errors
/// A prompt is empty or too long, there is none, or the device refuses.
pub fn generate_all<B: Backend, T: Float>(
    model: &Qwen3<B, T>,
    ctx: ForwardContext<'_, B, T>,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    mut stream: impl FnMut(usize, &str) -> ControlFlow<()>,
) -> Result<Vec<Generated>> {
    MAX_NEW_TOKENS.check(options.max_new_tokens)?;
    let longest = prompts.iter().map(Vec::len).max();
    let longest = longest.ok_or_else(|| Error::setting("the number of prompts", 0, "it must be 1 or more"))?;
    let capacity = longest.saturating_add(options.max_new_tokens);
    let (n, n_vocab) = (prompts.len(), tokenizer.vocab_size());
    let mut decoder = Decoder::new(model, ctx, n, capacity, n_vocab, options.sample, options.cache)?;
    let began = Instant::now();
    let mut next = decoder.prefill(prompts)?;
    let (prompt_seconds, began) = (began.elapsed().as_secs_f64(), Instant::now());
    let mut texts: Vec<_> = prompts.iter().map(|prompt| Text::new(tokenizer, options, prompt.len())).collect();
    loop {
        let mut flow = ControlFlow::Continue(());
        for (i, (text, &token)) in texts.iter_mut().zip(&next).enumerate() {
            if let Some(piece) = text.push(token, options)
                && stream(i, &piece).is_break()
            {
                flow = ControlFlow::Break(());
            }
        }
        if flow.is_break() || texts.iter().all(|text| text.ended) {
            break;
        }
        next = decoder.step()?;
    }
    let decode_seconds = began.elapsed().as_secs_f64();
    let n_new: usize = texts.iter().map(|text| text.made.ids.len()).sum();
    debug!(prompts = prompts.len(), longest, prompt_seconds, n_new, decode_seconds, "texts were continued");
    let end = |(i, text): (usize, Text)| {
        let (rest, mut made) = text.finish();
        let _ = stream(i, &rest);
        made.text += &rest;
        Generated { prompt_seconds, decode_seconds, ..made }
    };
    Ok(texts.into_iter().enumerate().map(end).collect())
}

/// A text in the making.
struct Text<'a> {
    stream: TextStream<'a>,
    made: Generated,
    ended: bool,
}

impl<'a> Text<'a> {
    fn new(tokenizer: &'a Tokenizer, options: &GenerateOptions, n_prompt: usize) -> Self {
        let made = Generated { n_prompt, ..Generated::default() };
        Text { stream: TextStream::new(tokenizer, options.skip_special), made, ended: false }
    }

    /// The piece that the token completes, unless the text is at its end.
    fn push(&mut self, token: u32, options: &GenerateOptions) -> Option<String> {
        if self.ended {
            return None;
        }
        if options.stop_tokens.contains(&token) {
            (self.made.stopped, self.ended) = (true, true);
            return None;
        }
        self.made.ids.push(token);
        self.ended = self.made.ids.len() == options.max_new_tokens;
        let piece = self.stream.push(token);
        self.made.text += &piece;
        Some(piece)
    }

    /// What was held back, and the rest.
    fn finish(self) -> (String, Generated) {
        (self.stream.finish(), self.made)
    }
}
