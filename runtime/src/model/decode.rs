//! Generating tokens: the key/value cache, the prompt, and one step for all sequences.

use super::{Activations, ForwardContext, Qwen3, forward::CacheSlots};
use crate::{Error, Result, batch::Batch};
use halfbyte::{
    Backend, Buf, Float,
    ops::{CacheAppend, DecodeAttention, GatherRows, Op, RmsNorm, Sample, Swiglu},
};

/// How the next token is chosen; see [`halfbyte::ops::Sample`] for the exact meaning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleOptions {
    /// 0 takes the most probable token.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: usize,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// Same seed, same text.
    pub seed: u64,
}

impl SampleOptions {
    /// Always the most probable token.
    pub const GREEDY: Self =
        SampleOptions { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 };
}

/// Generates for a fixed number of sequences up to a fixed length; all memory is allocated at the start.
pub struct Decoder<'m, B: Backend, T: Float> {
    model: &'m Qwen3<B, T>,
    ctx: ForwardContext<'m, B, T>,
    options: SampleOptions,
    /// Tokens that exist: ids from here on are never chosen.
    n_vocab: usize,
    n_seqs: usize,
    /// Positions of one sequence, prompt included.
    capacity: usize,
    /// One for each layer, `[n_seqs, capacity, kv]`.
    k_cache: Vec<Buf<B, T>>,
    v_cache: Vec<Buf<B, T>>,
    state: State<B>,
    scratch: Scratch<B, T>,
    graph: B::Graph,
}

/// Where each sequence stands; lives on the device.
struct State<B: Backend> {
    /// `[n_seqs]`: the tokens to run next.
    tokens: Buf<B, u32>,
    /// `[n_seqs]`: their positions.
    positions: Buf<B, u32>,
    /// `[n_seqs]`: 0, 1, 2 …
    seqs: Buf<B, u32>,
    /// `[n_seqs, capacity]`: the tokens so far.
    history: Buf<B, u32>,
}

/// One row for each sequence.
struct Scratch<B: Backend, T: Float> {
    x: Buf<B, T>,
    normed: Buf<B, T>,
    qkv: Buf<B, T>,
    q: Buf<B, T>,
    k: Buf<B, T>,
    attention: Buf<B, T>,
    gate_up: Buf<B, T>,
    gated: Buf<B, T>,
    xa: Buf<B, T>,
    /// `[n_seqs, vocab]`
    logits: Buf<B, f32>,
}

impl<'m, B: Backend, T: Float> Decoder<'m, B, T> {
    /// Memory for `n_seqs` sequences of up to `capacity` tokens each. `n_vocab` is the number of tokens that the
    /// tokeniser knows.
    ///
    /// # Errors
    /// `capacity` is beyond the model's positions, or the device has too little memory.
    pub fn new(
        model: &'m Qwen3<B, T>,
        ctx: ForwardContext<'m, B, T>,
        n_seqs: usize,
        capacity: usize,
        n_vocab: usize,
        options: SampleOptions,
    ) -> Result<Self> {
        let config = &model.config;
        if capacity > config.max_position_embeddings {
            let want = format!("the model has {} positions", config.max_position_embeddings);
            return Err(Error::setting("prompt and new tokens together", capacity, want));
        }
        let backend = ctx.backend;
        let (q, kv, hidden, inter) = (config.q_size(), config.kv_size(), config.hidden_size, config.intermediate_size);
        let cache = |_| Ok(backend.zeros(n_seqs * capacity * kv)?);
        let rows = |columns: usize| backend.zeros(n_seqs * columns);
        let seqs: Vec<u32> = (0..n_seqs as u32).collect();
        Ok(Decoder {
            model,
            ctx,
            options,
            n_vocab: n_vocab.min(config.vocab_size),
            n_seqs,
            capacity,
            k_cache: (0..config.n_layers).map(cache).collect::<Result<_>>()?,
            v_cache: (0..config.n_layers).map(cache).collect::<Result<_>>()?,
            state: State {
                tokens: backend.zeros(n_seqs)?,
                positions: backend.zeros(n_seqs)?,
                seqs: backend.upload(&seqs)?,
                history: backend.zeros(n_seqs * capacity)?,
            },
            scratch: Scratch {
                x: rows(hidden)?,
                normed: rows(hidden)?,
                qkv: rows(q + 2 * kv)?,
                q: rows(q)?,
                k: rows(kv)?,
                attention: rows(q)?,
                gate_up: rows(2 * inter)?,
                gated: rows(inter)?,
                xa: rows(ctx.adapter.map_or(0, |a| a.layout.xa_columns))?,
                logits: backend.zeros(n_seqs * config.vocab_size)?,
            },
            graph: B::Graph::default(),
        })
    }

    /// Runs the prompts, one for each sequence, and gives the first new token of each.
    ///
    /// # Errors
    /// A prompt is empty or leaves no room, or the device refuses.
    pub fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<u32>> {
        self.check(prompts)?;
        let backend = self.ctx.backend;
        let batch = Batch::of_prompts(prompts);
        let xa_columns = self.ctx.adapter.map_or(0, |a| a.layout.xa_columns);
        let mut acts = Activations::new(backend, self.model, batch.n_tokens(), xa_columns, true)?;
        let owners = prompts.iter().enumerate().flat_map(|(s, prompt)| std::iter::repeat_n(s as u32, prompt.len()));
        let seqs = backend.upload(&owners.collect::<Vec<_>>())?;
        let slots = CacheSlots { seqs: &seqs, capacity: self.capacity, k: &mut self.k_cache, v: &mut self.v_cache };
        self.model.forward_with(self.ctx, &mut acts, &batch, Some(slots))?;

        let mut history = vec![0; self.n_seqs * self.capacity];
        for (row, prompt) in history.chunks_exact_mut(self.capacity).zip(prompts) {
            row[..prompt.len()].copy_from_slice(prompt);
        }
        let last: Vec<u32> = prompts.iter().map(|prompt| prompt.len() as u32 - 1).collect();
        backend.write(&history, self.state.history.view_mut())?;
        backend.write(&last, self.state.positions.view_mut())?;
        let ends: Vec<u32> = batch.cu_seqlens[1..].iter().map(|end| end - 1).collect();
        let vocab = self.model.config.vocab_size;
        let logits = &mut self.scratch.logits;
        self.model.each_logits(self.ctx, &acts, &ends, |rows, chunk| {
            let out = logits.at_mut(chunk.start * vocab..chunk.end * vocab);
            Ok(backend.copy(rows.into_view().view(), out)?)
        })?;
        self.sample()?;
        Ok(self.state.tokens.to_vec(backend)?)
    }

    fn check(&self, prompts: &[Vec<u32>]) -> Result<()> {
        if prompts.len() != self.n_seqs {
            return Err(Error::setting("the number of prompts", prompts.len(), format!("it must be {}", self.n_seqs)));
        }
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(Error::setting("the prompt", "empty", "it must have at least one token"));
            }
            if prompt.len() >= self.capacity {
                let want = format!("with the new tokens it must fit {} positions", self.capacity);
                return Err(Error::setting("the prompt's length", prompt.len(), want));
            }
        }
        Ok(())
    }

    /// Runs the tokens chosen last and gives the next of each sequence.
    ///
    /// # Errors
    /// The device refuses.
    pub fn step(&mut self) -> Result<Vec<u32>> {
        let mut graph = std::mem::take(&mut self.graph);
        let outcome = self.ctx.backend.replay(&mut graph, || self.queue_step().map_err(kernel_error));
        self.graph = graph;
        outcome?;
        Ok(self.state.tokens.to_vec(self.ctx.backend)?)
    }

    fn queue_step(&mut self) -> Result<()> {
        let (model, backend, n) = (self.model, self.ctx.backend, self.n_seqs);
        let hidden = model.config.hidden_size;
        let table = model.embedding.mat(model.config.vocab_size, hidden);
        let out = self.scratch.x.mat_mut(n, hidden);
        GatherRows { table, rows: self.state.tokens.view(), out }.run(backend)?;
        for i in 0..model.layers.len() {
            self.queue_attention(i)?;
            self.queue_mlp(i)?;
        }
        let (x, eps) = (self.scratch.x.mat(n, hidden), model.config.rms_norm_eps);
        let out = self.scratch.normed.mat_mut(n, hidden);
        RmsNorm { x, add: None, weight: model.norm.view(), eps, out }.run(backend)?;
        let logits = self.scratch.logits.mat_mut(n, model.config.vocab_size);
        model.head_forward(self.ctx, self.scratch.normed.mat(n, hidden), logits)?;
        self.sample()
    }

    fn queue_attention(&mut self, i: usize) -> Result<()> {
        let (model, ctx, n, s) = (self.model, self.ctx, self.n_seqs, &mut self.scratch);
        let (config, layer, backend) = (&model.config, &model.layers[i], ctx.backend);
        let (hidden, q, kv) = (config.hidden_size, config.q_size(), config.kv_size());
        let xa_columns = s.xa.len() / n;
        let (x, eps, out) = (s.x.mat(n, hidden), config.rms_norm_eps, s.normed.mat_mut(n, hidden));
        RmsNorm { x, add: None, weight: layer.attention_norm.view(), eps, out }.run(backend)?;
        let qkv = s.qkv.mat_mut(n, q + 2 * kv);
        ctx.project(i, &layer.qkv, s.normed.mat(n, hidden), s.xa.mat_mut(n, xa_columns), qkv, false)?;
        let (qkv, positions) = (s.qkv.mat(n, q + 2 * kv), self.state.positions.view());
        model.rotate(backend, layer, qkv, positions, s.q.mat_mut(n, q), s.k.mat_mut(n, kv))?;
        CacheAppend {
            k: s.k.mat(n, kv),
            v: qkv.columns(q + kv..q + 2 * kv),
            seqs: self.state.seqs.view(),
            positions,
            capacity: self.capacity,
            k_cache: self.k_cache[i].view_mut(),
            v_cache: self.v_cache[i].view_mut(),
        }
        .run(backend)?;
        DecodeAttention {
            q: s.q.mat(n, q),
            k_cache: self.k_cache[i].view(),
            v_cache: self.v_cache[i].view(),
            heads: config.heads(),
            positions,
            capacity: self.capacity,
            scale: config.attention_scale(),
            out: s.attention.mat_mut(n, q),
        }
        .run(backend)?;
        let x = s.x.mat_mut(n, hidden);
        ctx.project(i, &layer.o, s.attention.mat(n, q), s.xa.mat_mut(n, xa_columns), x, true)
    }

    fn queue_mlp(&mut self, i: usize) -> Result<()> {
        let (model, ctx, n, s) = (self.model, self.ctx, self.n_seqs, &mut self.scratch);
        let (config, layer, backend) = (&model.config, &model.layers[i], ctx.backend);
        let (hidden, inter) = (config.hidden_size, config.intermediate_size);
        let xa_columns = s.xa.len() / n;
        let (x, eps, out) = (s.x.mat(n, hidden), config.rms_norm_eps, s.normed.mat_mut(n, hidden));
        RmsNorm { x, add: None, weight: layer.mlp_norm.view(), eps, out }.run(backend)?;
        let gate_up = s.gate_up.mat_mut(n, 2 * inter);
        ctx.project(i, &layer.gate_up, s.normed.mat(n, hidden), s.xa.mat_mut(n, xa_columns), gate_up, false)?;
        Swiglu { gate_up: s.gate_up.mat(n, 2 * inter), out: s.gated.mat_mut(n, inter) }.run(backend)?;
        let x = s.x.mat_mut(n, hidden);
        ctx.project(i, &layer.down, s.gated.mat(n, inter), s.xa.mat_mut(n, xa_columns), x, true)
    }

    /// From logits to tokens; moves every sequence on.
    fn sample(&mut self) -> Result<()> {
        let SampleOptions { temperature, top_k, top_p, min_p, repetition_penalty, seed } = self.options;
        Sample {
            logits: self.scratch.logits.mat_mut(self.n_seqs, self.model.config.vocab_size),
            n_vocab: self.n_vocab,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed,
            history: self.state.history.view_mut(),
            positions: self.state.positions.view_mut(),
            tokens: self.state.tokens.view_mut(),
        }
        .run(self.ctx.backend)?;
        Ok(())
    }
}

/// Nothing but ops runs in a step, so nothing but their errors can come out of it.
fn kernel_error(error: Error) -> halfbyte::Error {
    match error {
        Error::Kernel(error) => error,
        other => halfbyte::Error::Cuda { what: "queueing a decode step", reason: other.to_string() },
    }
}
