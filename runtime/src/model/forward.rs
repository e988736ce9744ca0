//! The forward pass over packed sequences.

use super::{Activations, Layer, Qwen3, weights::MergedLinear};
use crate::{Result, batch::Batch, lora::DeviceAdapter};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut,
    ops::{Attention, CacheAppend, Dropout, GatherRows, Lora, Op, QkNormRope, RmsNorm, Swiglu},
};

/// Dropout of the adapters' inputs in one micro-batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutSeed {
    /// Probability.
    pub p: f32,
    /// The run's seed.
    pub seed: u64,
    /// Number of the micro-batch in the run.
    pub micro_batch: u64,
}

impl DropoutSeed {
    /// The mask of the adapter of module `index`.
    fn at(&self, index: usize) -> Dropout {
        // 2^16 modules are more than any model has.
        Dropout { p: self.p, seed: self.seed, stream: self.micro_batch << 16 | index as u64 }
    }
}

/// What a forward pass reads besides the weights.
pub struct ForwardContext<'a, B: Backend, T: Float> {
    /// The machine.
    pub backend: &'a B,
    /// The adapter, if there is one.
    pub adapter: Option<&'a DeviceAdapter<B, T>>,
    /// Dropout, while training.
    pub dropout: Option<DropoutSeed>,
}

impl<B: Backend, T: Float> Clone for ForwardContext<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend, T: Float> Copy for ForwardContext<'_, B, T> {}

impl<B: Backend, T: Float> ForwardContext<'_, B, T> {
    /// The mask of the adapter of module `index`.
    pub(super) fn dropout(&self, index: usize) -> Option<Dropout> {
        self.dropout.map(|d| d.at(index))
    }

    /// A projection with its adapters: `out (+)= x Wᵀ + s (x Aᵀ) Bᵀ`.
    pub(super) fn project(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        x: Mat<'_, B, T>,
        mut xa: MatMut<'_, B, T>,
        mut out: MatMut<'_, B, T>,
        accumulate: bool,
    ) -> Result<()> {
        linear.forward(self.backend, x, out.reborrow(), accumulate)?;
        let Some(adapter) = self.adapter else { return Ok(()) };
        for (projection, columns) in &linear.modules {
            let Some(lora) = adapter.layout.module(layer, *projection) else { continue };
            Lora {
                x,
                a: adapter.a(lora),
                b: adapter.b(lora),
                scale: lora.scale,
                dropout: self.dropout(lora.index),
                xa: xa.reborrow().columns(lora.xa.clone()),
                out: out.reborrow().columns(columns.clone()),
            }
            .run(self.backend)?;
        }
        Ok(())
    }
}

/// Where the keys and values of a prompt go.
pub(super) struct CacheSlots<'a, B: Backend, T: Float> {
    /// `[n]`: the sequence of each token.
    pub seqs: &'a Buf<B, u32>,
    pub capacity: usize,
    /// One for each layer, `[n_seqs, capacity, kv]`.
    pub k: &'a mut [Buf<B, T>],
    pub v: &'a mut [Buf<B, T>],
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Runs `batch` through all layers; what the backward pass and the head need is left in `acts`.
    ///
    /// # Errors
    /// The device refuses.
    pub fn forward(&self, ctx: ForwardContext<'_, B, T>, acts: &mut Activations<B, T>, batch: &Batch) -> Result<()> {
        self.forward_with(ctx, acts, batch, None)
    }

    pub(super) fn forward_with(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        batch: &Batch,
        mut cache: Option<CacheSlots<'_, B, T>>,
    ) -> Result<()> {
        let (n, hidden) = (batch.n_tokens(), self.config.hidden_size);
        acts.take(ctx.backend, batch)?;
        let table = self.embedding.mat(self.config.vocab_size, hidden);
        let out = acts.residual[0].mat_mut(n, hidden);
        GatherRows { table, rows: acts.ids.at(0..n), out }.run(ctx.backend)?;
        for i in 0..self.layers.len() {
            self.layer_forward(ctx, acts, i)?;
            if let Some(cache) = &mut cache {
                self.fill_cache(ctx.backend, acts, i, cache)?;
            }
        }
        Ok(())
    }

    /// Layer `i`: from `acts.residual[i]` to `acts.residual[i + 1]`.
    pub(super) fn layer_forward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        i: usize,
    ) -> Result<()> {
        let ForwardContext { backend, .. } = ctx;
        let (n, config, slot) = (acts.n, &self.config, acts.slot(i));
        let (hidden, inter, q, kv) = (config.hidden_size, config.intermediate_size, config.q_size(), config.kv_size());
        let (layer, eps) = (&self.layers[i], config.rms_norm_eps);
        let (before, after) = acts.residual.split_at_mut(i + 1);
        let (x, next) = (before[i].mat(n, hidden), &mut after[0]);
        let a = &mut acts.layers[slot];
        let xa_columns = a.xa.len() / acts.capacity;

        // Attention
        RmsNorm { x, add: None, weight: layer.attention_norm.view(), eps, out: acts.normed.mat_mut(n, hidden) }
            .run(backend)?;
        let qkv = a.qkv.mat_mut(n, q + 2 * kv);
        ctx.project(i, &layer.qkv, acts.normed.mat(n, hidden), a.xa.mat_mut(n, xa_columns), qkv, false)?;
        let qkv = a.qkv.mat(n, q + 2 * kv);
        let positions = acts.positions.at(0..n);
        self.rotate(backend, layer, qkv, positions, a.q.mat_mut(n, q), a.k.mat_mut(n, kv))?;
        Attention {
            q: a.q.mat(n, q),
            k: a.k.mat(n, kv),
            v: qkv.columns(q + kv..q + 2 * kv),
            heads: config.heads(),
            cu_seqlens: acts.cu_seqlens.at(0..acts.n_seqs + 1),
            max_len: acts.max_len,
            scale: config.attention_scale(),
            out: a.attention.mat_mut(n, q),
            lse: a.lse.at_mut(0..config.n_heads * n),
        }
        .run(backend)?;
        backend.copy(before[i].at(0..n * hidden), a.middle.at_mut(0..n * hidden))?;
        let middle = a.middle.mat_mut(n, hidden);
        ctx.project(i, &layer.o, a.attention.mat(n, q), a.xa.mat_mut(n, xa_columns), middle, true)?;

        // MLP
        let middle = a.middle.mat(n, hidden);
        RmsNorm { x: middle, add: None, weight: layer.mlp_norm.view(), eps, out: acts.normed.mat_mut(n, hidden) }
            .run(backend)?;
        let gate_up = a.gate_up.mat_mut(n, 2 * inter);
        ctx.project(i, &layer.gate_up, acts.normed.mat(n, hidden), a.xa.mat_mut(n, xa_columns), gate_up, false)?;
        Swiglu { gate_up: a.gate_up.mat(n, 2 * inter), out: acts.gated.mat_mut(n, inter) }.run(backend)?;
        backend.copy(a.middle.at(0..n * hidden), next.at_mut(0..n * hidden))?;
        let next = next.mat_mut(n, hidden);
        ctx.project(i, &layer.down, acts.gated.mat(n, inter), a.xa.mat_mut(n, xa_columns), next, true)
    }

    /// The norms of queries and keys, and their rotation.
    pub(super) fn rotate(
        &self,
        backend: &B,
        layer: &Layer<B, T>,
        qkv: Mat<'_, B, T>,
        positions: halfbyte::View<'_, B, u32>,
        q: MatMut<'_, B, T>,
        k: MatMut<'_, B, T>,
    ) -> Result<()> {
        QkNormRope {
            qkv,
            heads: self.config.heads(),
            q_weight: layer.q_norm.view(),
            k_weight: layer.k_norm.view(),
            eps: self.config.rms_norm_eps,
            positions,
            cos: self.rope.cos.view(),
            sin: self.rope.sin.view(),
            q,
            k,
        }
        .run(backend)?;
        Ok(())
    }

    /// Keys and values of the batch in hand to the cache of layer `i`.
    fn fill_cache(
        &self,
        backend: &B,
        acts: &Activations<B, T>,
        i: usize,
        cache: &mut CacheSlots<'_, B, T>,
    ) -> Result<()> {
        let (n, q, kv) = (acts.n, self.config.q_size(), self.config.kv_size());
        let a = &acts.layers[acts.slot(i)];
        CacheAppend {
            k: a.k.mat(n, kv),
            v: a.qkv.mat(n, q + 2 * kv).columns(q + kv..q + 2 * kv),
            seqs: cache.seqs.at(0..n),
            positions: acts.positions.at(0..n),
            capacity: cache.capacity,
            k_cache: cache.k[i].view_mut(),
            v_cache: cache.v[i].view_mut(),
        }
        .run(backend)?;
        Ok(())
    }
}
