use super::context::ForwardContext;
use super::picked::PickedRows;
use super::qwen3::Qwen3;
use super::residual::{Keep, ResidualStream};
use super::rows::Rows;
use crate::batch::Batch;
use crate::config::Qwen3Config;
use crate::error::{Error, Result};
use halfbyte::{Backend, Buf, Float, View};

/// The tokens in hand, on the device.
pub(super) struct Tokens<B: Backend> {
    /// How many, of how many sequences, and the longest of these.
    pub n: usize,
    n_seqs: usize,
    pub max_len: usize,
    /// `[n]`
    pub ids: Buf<B, u32>,
    /// `[n]`
    pub positions: Buf<B, u32>,
    /// `[n_seqs + 1]`
    cu_seqlens: Buf<B, u32>,
    /// `[n_seqs, 2]`: the tokens that each sequence goes on from, the first and how many.
    prefixes: Buf<B, u32>,
    /// Whether a sequence goes on from others.
    pub prefixed: bool,
}

impl<B: Backend> Tokens<B> {
    fn new(backend: &B, capacity: usize) -> Result<Self> {
        Ok(Tokens {
            n: 0,
            n_seqs: 0,
            max_len: 0,
            ids: backend.zeros(capacity)?,
            positions: backend.zeros(capacity)?,
            cu_seqlens: backend.zeros(capacity.saturating_add(1))?,
            prefixes: backend.zeros(capacity.saturating_mul(2))?,
            prefixed: false,
        })
    }

    pub fn ids(&self) -> View<'_, B, u32> {
        self.ids.at(0..self.n)
    }

    pub fn positions(&self) -> View<'_, B, u32> {
        self.positions.at(0..self.n)
    }

    pub fn cu_seqlens(&self) -> View<'_, B, u32> {
        self.cu_seqlens.at(0..self.n_seqs + 1)
    }

    pub fn prefixes(&self) -> Option<View<'_, B, u32>> {
        self.prefixed.then(|| self.prefixes.at(0..2 * self.n_seqs))
    }
}

/// What the forward pass keeps of one decoder layer for the backward pass.
///
/// Not kept, because they are cheap to make again: the normed inputs of the projections and the output of SwiGLU.
pub(super) struct LayerActivations<B: Backend, T: Float> {
    /// `[n, q + 2 kv]`: before the norms and the rotation.
    pub qkv: Rows<B, T>,
    /// `[n, q]`: rotated.
    pub q: Rows<B, T>,
    /// `[n, kv]`: rotated.
    pub k: Rows<B, T>,
    /// `[n, q]`
    pub attention: Rows<B, T>,
    /// `[heads.q, n]`, in the memory of `[n, heads.q]`.
    pub lse: Rows<B, f32>,
    /// `[n, 2 intermediate]`
    pub gate_up: Rows<B, T>,
    /// `[n, xa_columns]`: `x Aᵀ` of each adapter.
    pub xa: Rows<B, T>,
}

impl<B: Backend, T: Float> LayerActivations<B, T> {
    fn new(ctx: ForwardContext<'_, B, T>, config: &Qwen3Config, capacity: usize) -> Result<Self> {
        let (q, kv) = (config.q_size(), config.kv_size());
        let rows = |cols| Rows::new(ctx.backend, capacity, cols);
        let attention = Rows::with_room(ctx.backend, capacity, q, ctx.room())?;
        Ok(LayerActivations {
            qkv: rows(q + 2 * kv)?,
            q: rows(q)?,
            k: rows(kv)?,
            attention,
            lse: Rows::new(ctx.backend, capacity, config.n_heads)?,
            gate_up: rows(2 * config.intermediate_size)?,
            xa: rows(ctx.xa_columns())?,
        })
    }

    fn bytes(&self) -> usize {
        let LayerActivations { qkv, q, k, attention, lse, gate_up, xa } = self;
        [qkv, q, k, attention, gate_up, xa].map(Rows::bytes).iter().sum::<usize>() + lse.bytes()
    }
}

/// The memory of a forward pass over up to `capacity` packed tokens, allocated once.
pub struct Activations<B: Backend, T: Float> {
    /// The most tokens that fit.
    pub capacity: usize,
    pub(super) tokens: Tokens<B>,
    pub(super) residual: ResidualStream<B, T>,
    /// One for each layer, or one for all where they are not kept.
    pub(super) layers: Vec<LayerActivations<B, T>>,
    /// `[n, hidden]`, scratch: a projection's normed input.
    pub(super) normed: Rows<B, T>,
    /// `[n, intermediate]`, scratch: SwiGLU's output.
    pub(super) gated: Rows<B, T>,
}

impl<B: Backend, T: Float> Activations<B, T> {
    /// Memory for `capacity` tokens and the adapter of `ctx`.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(ctx: ForwardContext<'_, B, T>, model: &Qwen3<B, T>, capacity: usize, keep: Keep) -> Result<Self> {
        let (backend, config) = (ctx.backend, &model.config);
        let kept = keep.layers(config.n_layers);
        Ok(Activations {
            capacity,
            tokens: Tokens::new(backend, capacity)?,
            residual: ResidualStream::new(backend, capacity, config.hidden_size, config.n_layers, keep)?,
            layers: (0..kept).map(|_| LayerActivations::new(ctx, config, capacity)).collect::<Result<_>>()?,
            normed: Rows::with_room(backend, capacity, config.hidden_size, ctx.room())?,
            gated: Rows::with_room(backend, capacity, config.intermediate_size, ctx.room())?,
        })
    }

    /// Where layer `i` keeps its activations.
    pub(super) fn slot(&self, i: usize) -> usize {
        i % self.layers.len()
    }

    /// Whether a backward pass must compute layers again, if it can.
    pub(super) fn recomputes(&self) -> Result<bool> {
        if self.tokens.prefixed {
            return Err(Error::setting("a batch", "of branches", "a backward pass needs whole sequences"));
        }
        match self.residual.keep() {
            Keep::Everything => Ok(false),
            Keep::Residual => Ok(true),
            Keep::Nothing => {
                Err(Error::setting("what activations keep", "nothing", "a backward pass needs the residual stream"))
            }
        }
    }

    /// Puts a batch in hand.
    ///
    /// # Errors
    /// It has more tokens than fit, or some that the model has not.
    pub(super) fn take(&mut self, backend: &B, config: &Qwen3Config, batch: &Batch) -> Result<()> {
        let (n, ends) = (batch.n_tokens(), batch.cu_seqlens.len());
        batch.check(config)?;
        if n > self.capacity {
            let want = format!("the activations have room for {}", self.capacity);
            return Err(Error::setting("the number of a batch's tokens", n, want));
        }
        let tokens = &mut self.tokens;
        backend.write(&batch.ids, tokens.ids.at_mut(0..n))?;
        backend.write(&batch.positions, tokens.positions.at_mut(0..n))?;
        backend.write(&batch.cu_seqlens, tokens.cu_seqlens.at_mut(0..ends))?;
        let prefixes: Vec<_> = batch.prefixes.iter().flat_map(|rows| [rows.start, rows.len() as u32]).collect();
        backend.write(&prefixes, tokens.prefixes.at_mut(0..prefixes.len()))?;
        (tokens.n, tokens.n_seqs, tokens.max_len) = (n, ends - 1, batch.max_len);
        tokens.prefixed = !prefixes.is_empty();
        Ok(())
    }

    /// Bytes of activations, those of the tokens' ids and positions not counted.
    pub fn bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(LayerActivations::bytes).sum();
        self.residual.bytes() + layers + self.normed.bytes() + self.gated.bytes()
    }
}

/// The memory of a backward pass, allocated once: gradients of activations, one layer's worth, and of the adapter.
/// There are none of frozen weights.
pub struct Gradients<B: Backend, T: Float> {
    /// `[layout.len]`: of the adapter, laid out like it.
    pub adapter: Buf<B, f32>,
    /// `[n, hidden]`: of the residual stream.
    pub(super) residual: Rows<B, T>,
    /// `[n, hidden]`: of a projection's normed input.
    pub(super) normed: Rows<B, T>,
    /// `[n, q + 2 kv]`
    pub(super) qkv: Rows<B, T>,
    /// `[n, q]`: rotated.
    pub(super) q: Rows<B, T>,
    /// `[n, kv]`: rotated.
    pub(super) k: Rows<B, T>,
    /// `[n, q]`
    pub(super) attention: Rows<B, T>,
    /// `[heads.q, n]`, in the memory of `[n, heads.q]`.
    pub(super) delta: Rows<B, f32>,
    /// `[n, intermediate]`
    pub(super) gated: Rows<B, T>,
    /// `[n, 2 intermediate]`
    pub(super) gate_up: Rows<B, T>,
    /// `[n, xa_columns]`
    pub(super) xa: Rows<B, T>,
    /// Of the embedding and the head, where rows of them are trained.
    pub(super) tokens: Vec<PickedRows<B, T>>,
}

impl<B: Backend, T: Float> Gradients<B, T> {
    /// Memory for `capacity` tokens and the adapter of `ctx`.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(ctx: ForwardContext<'_, B, T>, model: &Qwen3<B, T>, capacity: usize) -> Result<Self> {
        let (backend, config) = (ctx.backend, &model.config);
        let (hidden, inter, q, kv) = (config.hidden_size, config.intermediate_size, config.q_size(), config.kv_size());
        let rows = |cols| Rows::new(backend, capacity, cols);
        let wide = |cols| Rows::with_room(backend, capacity, cols, ctx.room());
        let tokens = ctx.adapter.iter().flat_map(|adapter| &adapter.layout.tokens);
        let picked = |tokens| PickedRows::new(backend, tokens, config.vocab_size, capacity);
        Ok(Gradients {
            adapter: backend.zeros(ctx.adapter.map_or(0, |adapter| adapter.layout.len))?,
            residual: wide(hidden)?,
            normed: rows(hidden)?,
            qkv: wide(q + 2 * kv)?,
            q: rows(q)?,
            k: rows(kv)?,
            attention: rows(q)?,
            delta: Rows::new(backend, capacity, config.n_heads)?,
            gated: rows(inter)?,
            gate_up: wide(2 * inter)?,
            xa: rows(ctx.xa_columns())?,
            tokens: tokens.map(picked).collect::<Result<_>>()?,
        })
    }
}
