//! What activations, gradients and the loss will take, before there is a device.

use super::{ends, keep::Keep, residual::n_states, workspace};
use crate::config::Qwen3Config;

/// A part of what something takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// How much.
    pub bytes: usize,
    /// Whether it lies in the host's memory, where a device has its own.
    pub on_host: bool,
}

impl Part {
    pub(crate) fn new(name: &'static str, bytes: usize) -> Self {
        Part { name, bytes, on_host: false }
    }

    pub(crate) fn on_host(name: &'static str, bytes: usize) -> Self {
        Part { name, bytes, on_host: true }
    }

    /// Bytes of all that lie on the device.
    pub(crate) fn on_device(parts: &[Part]) -> usize {
        parts.iter().filter(|part| !part.on_host).map(|part| part.bytes).sum()
    }
}

/// Bytes of buffers, as their constructors allocate them: runtime/tests/need.rs sees that.
pub(crate) struct Room<'a> {
    pub config: &'a Qwen3Config,
    /// [`crate::lora::Layout::xa_columns`], 0 without an adapter.
    pub xa_columns: usize,
    /// [`crate::lora::Layout::room`], 0 without an adapter.
    pub room: usize,
    /// [`crate::lora::Layout::end_columns`], 0 where neither embedding nor head is adapted.
    pub end_columns: usize,
    /// That of the embedding's adapter, if it has one.
    pub embedding_rank: Option<usize>,
    /// [`crate::lora::Layout::dora_columns`], 0 without DoRA.
    pub dora_columns: usize,
    /// [`crate::lora::Layout::dropped_columns`], 0 without DoRA or dropout.
    pub dropped_columns: usize,
    /// Bytes of a number of the compute type.
    pub size: usize,
}

impl Room<'_> {
    /// Of [`super::Activations`].
    pub fn activations(&self, capacity: usize, keep: &[Keep]) -> Vec<Part> {
        let Qwen3Config { hidden_size: hidden, intermediate_size: inter, n_heads, .. } = *self.config;
        let (q, kv) = (self.config.q_size(), self.config.kv_size());
        let rows = |columns: usize| capacity * columns * self.size;
        let attention = rows(3 * q + 3 * kv + self.room) + capacity * n_heads * size_of::<f32>();
        let shelf = |own: fn(Keep) -> bool| {
            let n = keep.iter().filter(|keep| own(**keep)).count();
            n + usize::from(n < keep.len())
        };
        let on_host = keep.iter().filter(|keep| **keep == Keep::Host).count();
        let trains = !keep.contains(&Keep::Nothing);
        let extent = workspace::Extent { config: self.config, n: capacity, room: self.room };
        vec![
            // Ids, positions, where sequences begin, and what they go on from.
            Part::new("tokens", (5 * capacity + 1) * size_of::<u32>()),
            Part::new("residual stream", n_states(keep) * rows(hidden)),
            Part::on_host("inputs of layers, on the host", on_host * rows(hidden)),
            Part::new("attention of layers", shelf(Keep::attention) * attention),
            Part::new("gate and up of layers", shelf(Keep::gate_up) * rows(2 * inter + self.room)),
            Part::new("x A of adapters", if trains { keep.len() } else { 1 } * rows(self.xa_columns)),
            Part::new("x A of embedding and head", rows(3 * self.end_columns)),
            Part::new("a layer's normed input and SwiGLU", rows(hidden + inter + 2 * self.room)),
            Part::new("inputs with dropout, and products", if trains { 2 * rows(self.dropped_columns) } else { 0 }),
            Part::new("logits, or a layer's gradients", if trains { extent.bytes(self.size) } else { 0 }),
        ]
    }

    /// Of [`super::Gradients`], those of the adapter not counted.
    pub fn gradients(&self, capacity: usize) -> Part {
        let Qwen3Config { hidden_size, n_heads, .. } = *self.config;
        let dora = if self.dora_columns > 0 { self.dora_columns + self.room } else { 0 };
        let numbers = 2 * hidden_size + self.room + self.xa_columns + dora;
        let bytes = capacity * (numbers * self.size + n_heads * size_of::<f32>());
        Part::new("gradient of the residual stream", bytes)
    }

    /// Of what adds up the gradients of an adapted embedding.
    pub fn seen(&self, capacity: usize) -> Part {
        let bytes = |r| ends::seen_bytes(self.config, r, capacity, self.size);
        Part::new("places of tokens", self.embedding_rank.map_or(0, bytes))
    }

    /// Of [`super::LossBuffers`], beside activations that keep something.
    pub fn targets(&self, capacity: usize) -> Part {
        // Rows, labels and losses, and the summed loss.
        Part::new("targets", (3 * capacity + 1) * size_of::<f32>())
    }

    /// Of a forward pass that keeps nothing.
    pub fn inference(&self, capacity: usize) -> usize {
        Part::on_device(&self.activations(capacity, &vec![Keep::Nothing; self.config.n_layers]))
    }

    /// Of [`super::LossBuffers`] by themselves.
    pub fn loss(&self, capacity: usize) -> usize {
        let extent = workspace::Extent { config: self.config, n: capacity, room: 0 };
        self.targets(capacity).bytes + extent.head_bytes(self.size)
    }
}
