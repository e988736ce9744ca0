use super::Qwen3;
use crate::{Result, batch::Batch, config::Qwen3Config};
use halfbyte::{Backend, Buf, Float};

/// What the forward pass keeps of one decoder layer for the backward pass.
///
/// Not kept, because they are cheap to make again: the normed inputs of the projections and the output of SwiGLU.
pub(super) struct LayerActivations<B: Backend, T: Float> {
    /// `[n, q + 2 kv]`: before the norms and the rotation.
    pub qkv: Buf<B, T>,
    /// `[n, q]`: rotated.
    pub q: Buf<B, T>,
    /// `[n, kv]`: rotated.
    pub k: Buf<B, T>,
    /// `[n, q]`
    pub attention: Buf<B, T>,
    /// `[heads.q, n]`
    pub lse: Buf<B, f32>,
    /// `[n, hidden]`: the residual stream between attention and MLP.
    pub middle: Buf<B, T>,
    /// `[n, 2 intermediate]`
    pub gate_up: Buf<B, T>,
    /// `[n, xa_columns]`: `x Aᵀ` of each adapter.
    pub xa: Buf<B, T>,
}

impl<B: Backend, T: Float> LayerActivations<B, T> {
    fn new(backend: &B, config: &Qwen3Config, n: usize, xa_columns: usize) -> Result<Self> {
        let (q, kv) = (config.q_size(), config.kv_size());
        Ok(LayerActivations {
            qkv: backend.zeros(n * (q + 2 * kv))?,
            q: backend.zeros(n * q)?,
            k: backend.zeros(n * kv)?,
            attention: backend.zeros(n * q)?,
            lse: backend.zeros(n * config.n_heads)?,
            middle: backend.zeros(n * config.hidden_size)?,
            gate_up: backend.zeros(n * 2 * config.intermediate_size)?,
            xa: backend.zeros(n * xa_columns)?,
        })
    }
}

/// The memory of a forward pass over up to `capacity` packed tokens, allocated once.
pub struct Activations<B: Backend, T: Float> {
    /// The most tokens that fit.
    pub capacity: usize,
    /// Tokens, sequences and longest sequence of the batch in hand.
    pub(super) n: usize,
    pub(super) n_seqs: usize,
    pub(super) max_len: usize,
    /// `[n]`
    pub(super) ids: Buf<B, u32>,
    /// `[n]`
    pub(super) positions: Buf<B, u32>,
    /// `[n_seqs + 1]`
    pub(super) cu_seqlens: Buf<B, u32>,
    /// The residual stream: what enters each layer, then what leaves the last. `[n, hidden]` each.
    pub(super) residual: Vec<Buf<B, T>>,
    /// One for each layer, or one for all where layers are computed again in the backward pass.
    pub(super) layers: Vec<LayerActivations<B, T>>,
    /// `[n, hidden]`, scratch: a projection's normed input.
    pub(super) normed: Buf<B, T>,
    /// `[n, intermediate]`, scratch: SwiGLU's output.
    pub(super) gated: Buf<B, T>,
}

impl<B: Backend, T: Float> Activations<B, T> {
    /// Memory for `capacity` tokens. With `checkpointing`, only the residual stream between layers is kept and each
    /// layer is computed again in the backward pass; without, everything that it needs is kept.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(
        backend: &B,
        model: &Qwen3<B, T>,
        capacity: usize,
        xa_columns: usize,
        checkpointing: bool,
    ) -> Result<Self> {
        let config = &model.config;
        let kept = if checkpointing { 1 } else { config.n_layers };
        let residual = |_| Ok(backend.zeros(capacity * config.hidden_size)?);
        let layer = |_| LayerActivations::new(backend, config, capacity, xa_columns);
        Ok(Activations {
            capacity,
            n: 0,
            n_seqs: 0,
            max_len: 0,
            ids: backend.zeros(capacity)?,
            positions: backend.zeros(capacity)?,
            cu_seqlens: backend.zeros(capacity + 1)?,
            residual: (0..=config.n_layers).map(residual).collect::<Result<_>>()?,
            layers: (0..kept).map(layer).collect::<Result<_>>()?,
            normed: backend.zeros(capacity * config.hidden_size)?,
            gated: backend.zeros(capacity * config.intermediate_size)?,
        })
    }

    /// Where layer `i` keeps its activations.
    pub(super) fn slot(&self, i: usize) -> usize {
        i % self.layers.len()
    }

    /// Whether the activations of a layer are gone when the next one has run.
    pub(super) fn recomputes(&self) -> bool {
        self.layers.len() < self.residual.len() - 1
    }

    /// Puts a batch of at most `capacity` tokens in hand.
    pub(super) fn take(&mut self, backend: &B, batch: &Batch) -> Result<()> {
        let n = batch.n_tokens();
        assert!(n <= self.capacity, "a batch of {n} tokens for activations of {}", self.capacity);
        backend.write(&batch.ids, self.ids.at_mut(0..n))?;
        backend.write(&batch.positions, self.positions.at_mut(0..n))?;
        backend.write(&batch.cu_seqlens, self.cu_seqlens.at_mut(0..batch.cu_seqlens.len()))?;
        (self.n, self.n_seqs, self.max_len) = (n, batch.cu_seqlens.len() - 1, batch.max_len);
        Ok(())
    }
}

/// The memory of a backward pass, allocated once: gradients of activations. There are none of frozen weights.
pub struct Gradients<B: Backend, T: Float> {
    /// `[n, hidden]`: of the residual stream.
    pub(super) residual: Buf<B, T>,
    /// `[n, hidden]`: of a projection's normed input.
    pub(super) normed: Buf<B, T>,
    /// `[n, q + 2 kv]`
    pub(super) qkv: Buf<B, T>,
    /// `[n, q]`: rotated.
    pub(super) q: Buf<B, T>,
    /// `[n, kv]`: rotated.
    pub(super) k: Buf<B, T>,
    /// `[n, q]`
    pub(super) attention: Buf<B, T>,
    /// `[heads.q, n]`
    pub(super) delta: Buf<B, f32>,
    /// `[n, intermediate]`
    pub(super) gated: Buf<B, T>,
    /// `[n, 2 intermediate]`
    pub(super) gate_up: Buf<B, T>,
    /// `[n, xa_columns]`
    pub(super) xa: Buf<B, T>,
}

impl<B: Backend, T: Float> Gradients<B, T> {
    /// Memory for `capacity` tokens.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(backend: &B, model: &Qwen3<B, T>, capacity: usize, xa_columns: usize) -> Result<Self> {
        let config = &model.config;
        let (q, kv) = (config.q_size(), config.kv_size());
        Ok(Gradients {
            residual: backend.zeros(capacity * config.hidden_size)?,
            normed: backend.zeros(capacity * config.hidden_size)?,
            qkv: backend.zeros(capacity * (q + 2 * kv))?,
            q: backend.zeros(capacity * q)?,
            k: backend.zeros(capacity * kv)?,
            attention: backend.zeros(capacity * q)?,
            delta: backend.zeros(capacity * config.n_heads)?,
            gated: backend.zeros(capacity * config.intermediate_size)?,
            gate_up: backend.zeros(capacity * 2 * config.intermediate_size)?,
            xa: backend.zeros(capacity * xa_columns)?,
        })
    }
}
