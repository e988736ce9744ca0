//! What can be known of a run before weights are loaded.

use super::Prepared;
use crate::{Error, Result, batch::Batch, chat::message, checkpoint::QuantizedAs, config::Qwen3Config, model::Base};
use halfbyte::{DType, Size};

impl Prepared {
    /// Reads a prompt as a run would, and says what memory it would take.
    ///
    /// # Errors
    /// The prompt does not fit the model.
    pub fn check(&self, prompt: Option<&str>) -> Result<String> {
        let n_prompt = match prompt {
            Some(prompt) => self.n_prompt(prompt)?,
            None => 0,
        };
        let new = self.settings.max_new_tokens;
        let (n_tokens, positions) = (n_prompt.saturating_add(new), self.config.positions());
        if n_tokens > positions {
            let want = format!("the model has {positions} positions; lower max_new_tokens, or shorten the prompt");
            return Err(Error::setting("prompt and new tokens together", n_tokens, want));
        }
        let [weights, cache] = [self.weight_bytes(), self.cache_bytes(n_tokens)].map(|bytes| Size(bytes as u64));
        Ok(format!(
            "checked: {n_prompt} tokens to read, up to {new} to write; about {weights} for weights and {cache} \
             for the cache"
        ))
    }

    fn n_prompt(&self, prompt: &str) -> Result<usize> {
        let prompt = self.tokenizer.encode(&self.text(&[message("user", prompt)])?)?;
        Batch::of_prompts(std::slice::from_ref(&prompt)).check(&self.config)?;
        Ok(prompt.len())
    }

    /// What the base's weights take on the device.
    pub fn weight_bytes(&self) -> usize {
        base_bytes(&self.config, self.files.quantized_as(), self.settings.base(), self.settings.bnb_4bit_compute_dtype)
    }

    /// What keys and values of so many tokens take.
    pub fn cache_bytes(&self, n_tokens: usize) -> usize {
        let config = &self.config;
        let size = self.settings.bnb_4bit_compute_dtype.bytes();
        2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens * size
    }
}

/// What the weights of a base take on the device, with the tables of its rotations.
pub(crate) fn base_bytes(config: &Qwen3Config, found: Option<QuantizedAs>, base: Base, dtype: DType) -> usize {
    let (linear, other) = parameters(config);
    let double = match (found, base) {
        (Some(found), _) => Some(found.double_quant),
        (None, Base::Quantized { double_quant, .. }) => Some(double_quant),
        (None, Base::Unquantized) => None,
    };
    let linear = match double {
        // Half a byte, and for 64 of them a scale of one byte (4 for 256 more) or of four.
        Some(true) => linear / 2 + linear / 64 + linear / 4096,
        Some(false) => linear / 2 + linear / 16,
        None => linear * dtype.bytes(),
    };
    let rotations = config.positions() * config.head_dim * DType::F32.bytes();
    linear + other * dtype.bytes() + rotations
}

/// Of the linear layers, and of all else: embedding, head and norms.
fn parameters(config: &Qwen3Config) -> (usize, usize) {
    let (hidden, dim) = (config.hidden_size, config.head_dim);
    let (q, kv) = (config.n_heads * dim, config.n_kv_heads * dim);
    let layer = hidden * (2 * q + 2 * kv + 3 * config.intermediate_size);
    let tables = if config.tie_word_embeddings { 1 } else { 2 };
    let norms = config.n_layers * (2 * hidden + 2 * dim) + hidden;
    (config.n_layers * layer, tables * config.vocab_size * hidden + norms)
}
