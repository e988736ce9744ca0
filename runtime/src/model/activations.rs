use super::{
    context::ForwardContext,
    dropped::DroppedRows,
    ends::{EndRows, SeenTokens},
    keep::{Keep, Kept, Shelf},
    picked::PickedRows,
    qwen3::Qwen3,
    residual::ResidualStream,
    rows::{self, Rows},
    workspace::{Extent, Workspace},
};
use crate::{
    batch::Batch,
    config::Qwen3Config,
    error::{Error, Result},
};
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
    /// The ids, on the host.
    pub on_host: Vec<u32>,
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
            on_host: Vec::new(),
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

/// What the forward pass keeps of a decoder layer's attention for the backward pass.
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
}

impl<B: Backend, T: Float> LayerActivations<B, T> {
    fn new(ctx: ForwardContext<'_, B, T>, config: &Qwen3Config, capacity: usize) -> Result<Self> {
        let (q, kv) = (config.q_size(), config.kv_size());
        let rows = |cols| Rows::new(ctx.backend, capacity, cols);
        Ok(LayerActivations {
            qkv: rows(q + 2 * kv)?,
            q: rows(q)?,
            k: rows(kv)?,
            attention: Rows::with_room(ctx.backend, capacity, q, ctx.room())?,
            lse: Rows::new(ctx.backend, capacity, config.n_heads)?,
        })
    }

    fn bytes(&self) -> usize {
        let LayerActivations { qkv, q, k, attention, lse } = self;
        [qkv, q, k, attention].map(Rows::bytes).iter().sum::<usize>() + lse.bytes()
    }
}

/// The memory of a forward pass over up to `capacity` packed tokens, allocated once.
///
/// Not kept, because they are cheap to make again: the normed inputs of the projections and the output of SwiGLU.
pub struct Activations<B: Backend, T: Float> {
    /// The most tokens that fit.
    pub capacity: usize,
    pub(super) tokens: Tokens<B>,
    /// What each layer keeps.
    pub(super) keep: Vec<Keep>,
    pub(super) residual: ResidualStream<B, T>,
    pub(super) layers: Shelf<LayerActivations<B, T>>,
    /// `[n, 2 intermediate]`, with room for their gradients' sake.
    pub(super) gate_up: Shelf<Rows<B, T>>,
    /// `[n, xa_columns]`: `x Aᵀ` of each adapter, kept of every layer, or of none.
    pub(super) xa: Shelf<Rows<B, T>>,
    /// `[n, hidden]`, scratch: a projection's normed input.
    pub(super) normed: Rows<B, T>,
    /// `[n, intermediate]`, scratch: SwiGLU's output.
    pub(super) gated: Rows<B, T>,
    /// What modules of DoRA with dropout work in.
    pub(super) dropped: DroppedRows<B, T>,
    /// What the adapters of embedding and head work in.
    pub(super) ends: EndRows<B, T>,
    /// Of the head and the backward pass; none where nothing is kept.
    pub(super) workspace: Workspace<B>,
}

impl<B: Backend, T: Float> Activations<B, T> {
    /// Memory for `capacity` tokens and the adapter of `ctx`.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(
        ctx: ForwardContext<'_, B, T>,
        model: &Qwen3<B, T>,
        capacity: usize,
        keep: impl Into<Kept>,
    ) -> Result<Self> {
        let (backend, config, keep) = (ctx.backend, &model.config, keep.into().layers(model.config.n_layers));
        let wide = |cols| Rows::with_room(backend, capacity, cols, ctx.room());
        let trains = !keep.contains(&Keep::Nothing);
        let extent = Extent { config, n: capacity, room: ctx.room() };
        let workspace = if trains { extent.bytes(size_of::<T>()) } else { 0 };
        Ok(Activations {
            capacity,
            tokens: Tokens::new(backend, capacity)?,
            residual: ResidualStream::new(backend, capacity, config.hidden_size, &keep)?,
            layers: Shelf::new(keep.iter().map(|keep| keep.attention()), || {
                LayerActivations::new(ctx, config, capacity)
            })?,
            gate_up: Shelf::new(keep.iter().map(|keep| keep.gate_up()), || wide(2 * config.intermediate_size))?,
            xa: Shelf::new(keep.iter().map(|_| trains), || Rows::new(backend, capacity, ctx.xa_columns()))?,
            normed: wide(config.hidden_size)?,
            gated: wide(config.intermediate_size)?,
            dropped: DroppedRows::new(ctx, capacity, trains)?,
            ends: EndRows::new(ctx, capacity)?,
            workspace: Workspace::new(backend, workspace)?,
            keep,
        })
    }

    /// Refuses a backward pass that could not compute what it needs.
    pub(super) fn expect_kept(&self) -> Result<()> {
        if self.tokens.prefixed {
            return Err(Error::setting("a batch", "of branches", "a backward pass needs whole sequences"));
        }
        if self.keep.contains(&Keep::Nothing) {
            let want = "a backward pass needs the residual stream";
            return Err(Error::setting("what activations keep", "nothing", want));
        }
        Ok(())
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
        tokens.on_host.clone_from(&batch.ids);
        backend.write(&batch.positions, tokens.positions.at_mut(0..n))?;
        backend.write(&batch.cu_seqlens, tokens.cu_seqlens.at_mut(0..ends))?;
        let prefixes: Vec<_> = batch.prefixes.iter().flat_map(|rows| [rows.start, rows.len() as u32]).collect();
        backend.write(&prefixes, tokens.prefixes.at_mut(0..prefixes.len()))?;
        (tokens.n, tokens.n_seqs, tokens.max_len) = (n, ends - 1, batch.max_len);
        tokens.prefixed = !prefixes.is_empty();
        Ok(())
    }

    /// Bytes of what is kept on the device, those of the tokens' ids and positions not counted.
    pub fn bytes(&self) -> usize {
        let layers: usize = self.layers.items().iter().map(LayerActivations::bytes).sum();
        let rows = [self.gate_up.items(), self.xa.items()].into_iter().flatten().map(Rows::bytes).sum::<usize>();
        let scratch = self.normed.bytes() + self.gated.bytes() + self.dropped.bytes() + self.ends.bytes();
        self.residual.bytes() + layers + rows + scratch
    }
}

/// The memory of a backward pass that is not the activations' workspace, allocated once: gradients of activations, one
/// layer's worth, and of the adapter. There are none of frozen weights.
pub struct Gradients<B: Backend, T: Float> {
    /// `[layout.len]`: of the adapter, laid out like it.
    pub adapter: Buf<B, f32>,
    /// `[n, hidden]`: of the residual stream.
    pub(super) residual: Rows<B, T>,
    /// `[n, hidden]`: of a projection's normed input.
    pub(super) normed: Rows<B, T>,
    /// `[heads.q, n]`, in the memory of `[n, heads.q]`.
    pub(super) delta: Rows<B, f32>,
    /// `[n, xa_columns]`
    pub(super) xa: Rows<B, T>,
    /// `[n, dora_columns + room]`, with DoRA: a product that is made again, or its gradient.
    pub(super) dora: Option<Buf<B, T>>,
    /// Of the embedding and the head, where rows of them are trained.
    pub(super) tokens: Vec<PickedRows<B, T>>,
    /// Of the embedding, where it is adapted.
    pub(super) seen: Option<SeenTokens<B, T>>,
}

impl<B: Backend, T: Float> Gradients<B, T> {
    /// Memory for `capacity` tokens and the adapter of `ctx`.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(ctx: ForwardContext<'_, B, T>, model: &Qwen3<B, T>, capacity: usize) -> Result<Self> {
        let (backend, config) = (ctx.backend, &model.config);
        let tokens = ctx.adapter.iter().flat_map(|adapter| &adapter.layout.tokens);
        let picked = |tokens| PickedRows::new(backend, tokens, config.vocab_size, capacity);
        let layout = ctx.adapter.map(|adapter| &adapter.layout).filter(|layout| layout.is_dora());
        let dora = layout.map(|layout| rows::zeros(backend, &[capacity, layout.dora_columns(config) + ctx.room()]));
        let embedding = ctx.adapter.and_then(|adapter| adapter.layout.embedding());
        let seen = embedding.map(|lora| SeenTokens::new(backend, config, lora.rank, capacity));
        Ok(Gradients {
            seen: seen.transpose()?,
            dora: dora.transpose()?,
            adapter: backend.zeros(ctx.adapter.map_or(0, |adapter| adapter.layout.len))?,
            residual: Rows::with_room(backend, capacity, config.hidden_size, ctx.room())?,
            normed: Rows::new(backend, capacity, config.hidden_size)?,
            delta: Rows::new(backend, capacity, config.n_heads)?,
            xa: Rows::new(backend, capacity, ctx.xa_columns())?,
            tokens: tokens.map(picked).collect::<Result<_>>()?,
        })
    }
}
