//! What activations, gradients and the loss will take, before there is a device.

use super::loss::CHUNK;
use super::residual::Keep;
use crate::config::Qwen3Config;

/// Bytes of buffers, as their constructors allocate them: runtime/tests/need.rs sees that.
pub(crate) struct Room<'a> {
    pub config: &'a Qwen3Config,
    /// [`crate::lora::Layout::xa_columns`], 0 without an adapter.
    pub xa_columns: usize,
    /// [`crate::lora::Layout::room`], 0 without an adapter.
    pub room: usize,
    /// Bytes of a number of the compute type.
    pub size: usize,
}

impl Room<'_> {
    /// Of [`super::Activations`].
    pub fn activations(&self, capacity: usize, keep: Keep) -> usize {
        let Qwen3Config { n_layers, hidden_size, intermediate_size, n_heads, .. } = *self.config;
        let (q, kv) = (self.config.q_size(), self.config.kv_size());
        let numbers = 3 * q + 3 * kv + 2 * intermediate_size + self.xa_columns + self.room;
        let layer = numbers * self.size + n_heads * size_of::<f32>();
        let states = keep.states(n_layers) * hidden_size;
        let scratch = hidden_size + intermediate_size + 2 * self.room;
        // Ids, positions, where sequences begin, and what they go on from.
        let tokens = (5 * capacity + 1) * size_of::<u32>();
        capacity * (keep.layers(n_layers) * layer + (states + scratch) * self.size) + tokens
    }

    /// Of [`super::Gradients`], those of the adapter not counted.
    pub fn gradients(&self, capacity: usize) -> usize {
        let Qwen3Config { hidden_size, intermediate_size, n_heads, .. } = *self.config;
        let (q, kv) = (self.config.q_size(), self.config.kv_size());
        let numbers = 2 * hidden_size + 3 * q + 3 * kv + 3 * intermediate_size + self.xa_columns + 3 * self.room;
        capacity * (numbers * self.size + n_heads * size_of::<f32>())
    }

    /// Of [`super::LossBuffers`].
    pub fn loss(&self, capacity: usize) -> usize {
        let (word, rows) = (size_of::<f32>(), CHUNK.min(capacity));
        let logits = (rows * self.size).div_ceil(word).max(1) * self.config.vocab_size * word;
        // Rows, labels and losses, and the summed loss; then inputs of the head and their gradients.
        (3 * capacity + 1) * word + 4 * capacity * self.config.hidden_size * self.size + logits
    }
}
