//! From a prompt to a text, token by token.

use super::stream::TextStream;
use crate::{
    Result,
    model::{Decoder, ForwardContext, Qwen3, SampleOptions},
    options::MAX_NEW_TOKENS,
    tokenizer::Tokenizer,
};
use halfbyte::{Backend, Float};
use std::{ops::ControlFlow, time::Instant};

/// When to stop, and how to choose.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// At most so many.
    pub max_new_tokens: usize,
    /// Tokens that end the text; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// How the next token is chosen.
    pub sample: SampleOptions,
    /// Whether special tokens are left out of the text.
    pub skip_special: bool,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The text.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub ids: Vec<u32>,
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
    MAX_NEW_TOKENS.check(options.max_new_tokens)?;
    let capacity = prompt.len().saturating_add(options.max_new_tokens);
    let mut decoder = Decoder::new(model, ctx, 1, capacity, tokenizer.vocab_size(), options.sample)?;
    let began = Instant::now();
    let mut next = decoder.prefill(&[prompt.to_vec()])?[0];
    let (prompt_seconds, began) = (began.elapsed().as_secs_f64(), Instant::now());
    let mut text = TextStream::new(tokenizer, options.skip_special);
    let mut out =
        Generated { text: String::new(), ids: Vec::new(), prompt_seconds, decode_seconds: 0.0, stopped: false };
    loop {
        if options.stop_tokens.contains(&next) {
            out.stopped = true;
            break;
        }
        out.ids.push(next);
        let piece = text.push(next);
        out.text += &piece;
        if stream(&piece).is_break() || out.ids.len() == options.max_new_tokens {
            break;
        }
        next = decoder.step()?[0];
    }
    out.decode_seconds = began.elapsed().as_secs_f64();
    let rest = text.finish();
    let _ = stream(&rest);
    out.text += &rest;
    Ok(out)
}
