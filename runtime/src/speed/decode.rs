use super::{profile::profile, random_ids};
use crate::{
    config::Qwen3Config,
    error::{Error, Result},
    lora::DeviceAdapter,
    model::{CacheType, Decoder, ForwardContext, Qwen3, SampleOptions},
    options,
};
use halfbyte::{Backend, Float, OpTime};
use std::time::Instant;

/// Steps before the clock runs: the first runs as it is, the second is recorded.
const WARM_UP: usize = 4;

/// What is decoded, by all sequences together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoding {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of the prompt of each.
    pub context: usize,
    /// Tokens that follow in each while the clock runs.
    pub new_tokens: usize,
    /// Of how many of the largest logits a token is chosen, with the temperature and top-p that Qwen3 advises; the largest is
    /// chosen without.
    pub top_k: Option<usize>,
    /// How keys and values are kept.
    pub cache: CacheType,
    /// Times the ops of one step more.
    pub profile: bool,
}

/// How fast that went.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DecodeSpeed {
    /// Seconds from the prompts to the first token of each, when prompts of this size are run for the first time: memory
    /// is asked for, and of the first prompts of a process libraries are opened and kernels loaded.
    pub first_s: f64,
    /// The same once more.
    pub first_warm_s: f64,
    /// New tokens while the clock ran, of all sequences together.
    pub n_tokens: usize,
    /// These by the seconds that they took. Each step hands its tokens to the host.
    pub tokens_per_s: f64,
    /// The most bytes that buffers took, weights and scratch memory included.
    pub peak_bytes: usize,
    /// What the ops of a step take one by one, if that was asked for.
    pub ops: Vec<OpTime>,
}

impl Decoding {
    /// Refuses what no model of this shape can do.
    ///
    /// # Errors
    /// A number is out of range, or there are more tokens than positions.
    pub fn check(&self, config: &Qwen3Config) -> Result<()> {
        options::SEQUENCES.check(self.sequences)?;
        options::CONTEXT.check(self.context)?;
        options::MAX_NEW_TOKENS.check(self.new_tokens)?;
        options::TOP_K.check(self.top_k.unwrap_or(0))?;
        if self.capacity() > config.positions() {
            let most = config.positions();
            let want = format!(
                "the model has {most} positions, {} of which are for steps besides; lower --context or --new-tokens",
                self.capacity() - self.context - self.new_tokens
            );
            return Err(Error::setting("the context with new tokens", self.context + self.new_tokens, want));
        }
        Ok(())
    }

    fn choice(&self) -> SampleOptions {
        match self.top_k {
            Some(top_k) => SampleOptions { temperature: 0.7, top_k, top_p: 0.8, ..SampleOptions::GREEDY },
            None => SampleOptions::GREEDY,
        }
    }

    /// Tokens of each sequence in the end.
    fn capacity(&self) -> usize {
        self.context + WARM_UP + self.new_tokens + usize::from(self.profile)
    }
}

/// Measures how fast a model decodes, with or without an adapter.
///
/// # Errors
/// As for [`Decoding::check`]; the device has too little memory ([`Error::memory`]), or refuses.
pub fn decode<B: Backend, T: Float>(
    backend: &B,
    model: &Qwen3<B, T>,
    adapter: Option<&DeviceAdapter<B, T>>,
    decoding: Decoding,
) -> Result<DecodeSpeed> {
    decoding.check(&model.config)?;
    backend.restart_peak();
    let (ctx, vocab) = (ForwardContext::new(backend, adapter), model.config.vocab_size);
    let Decoding { sequences, context, new_tokens, cache, .. } = decoding;
    let (capacity, choice) = (decoding.capacity(), decoding.choice());
    if choice.screens(sequences, backend.most_screened()).is_some() {
        model.screen_head(ctx)?;
    }
    let mut decoder = Decoder::new(model, ctx, sequences, capacity, vocab, choice, cache)?;
    let ids = |text| random_ids(context, vocab, text);
    let prompts: Vec<_> = (0..sequences).map(ids).collect::<Result<_>>()?;
    backend.synchronize()?;
    let mut first = || {
        let began = Instant::now();
        decoder.prefill(&prompts)?;
        Ok::<_, Error>(began.elapsed().as_secs_f64())
    };
    let (first_s, first_warm_s) = (first()?, first()?);
    for _ in 0..WARM_UP {
        decoder.step()?;
    }
    let (began, mut n_tokens) = (Instant::now(), 0);
    for _ in 0..new_tokens {
        n_tokens += decoder.step()?.len();
    }
    let tokens_per_s = n_tokens as f64 / began.elapsed().as_secs_f64();
    let peak_bytes = backend.memory().peak;
    let ops = match decoding.profile {
        true => profile(backend, || decoder.step().map(drop))?,
        false => Vec::new(),
    };
    Ok(DecodeSpeed { first_s, first_warm_s, n_tokens, tokens_per_s, peak_bytes, ops })
}
