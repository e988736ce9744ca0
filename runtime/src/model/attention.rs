//! What the tokens in hand attend to: the one part of a layer that training, prompts and generation do differently.

use super::{
    activations::{LayerActivations, Tokens},
    cache::{CacheSlots, KvCache},
    context::ForwardContext,
    qwen3::Qwen3,
};
use crate::error::Result;
use halfbyte::{
    Backend, Float, Mat,
    ops::{Attention, CacheRows, DecodeAttention, Op, Prefix, QkNormRope},
};

/// What the tokens in hand attend to.
pub(super) enum Attend<'a, B: Backend, T: Float> {
    /// Each to the tokens before it in its packed sequence, and in what that goes on from.
    Packed,
    /// The same; what they go on from is in a cache, where their own keys and values go too.
    Prefill(CacheSlots<'a, B, T>),
    /// One new token of each sequence in the cache, in its order, to all before it there.
    Decode(&'a mut KvCache<B, T>),
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Attention of layer `i`, and before it the norms and the rotation of queries and keys: from `a.qkv` to
    /// `a.attention`.
    pub(super) fn attend(
        &self,
        ctx: ForwardContext<'_, B, T>,
        i: usize,
        tokens: &Tokens<B>,
        a: &mut LayerActivations<B, T>,
        attend: &mut Attend<'_, B, T>,
    ) -> Result<()> {
        match attend {
            Attend::Packed => {
                self.rotate(ctx, i, tokens, a, None)?;
                self.attend_packed(ctx, tokens, a, None)
            }
            Attend::Prefill(slots) => {
                self.rotate(ctx, i, tokens, a, Some(slots.rows(i)))?;
                let before = slots.before.map(|before| slots.cache.before(ctx.backend, i, before)).transpose()?;
                self.attend_packed(ctx, tokens, a, before)
            }
            Attend::Decode(cache) => self.attend_cached(ctx, i, tokens, a, cache),
        }
    }

    /// The norms of queries and keys, and their rotation: from `a.qkv` to `a.q` and `a.k`.
    fn rotate(
        &self,
        ctx: ForwardContext<'_, B, T>,
        i: usize,
        tokens: &Tokens<B>,
        a: &mut LayerActivations<B, T>,
        cache: Option<CacheRows<'_, B, T>>,
    ) -> Result<()> {
        QkNormRope {
            qkv: a.qkv.rows(tokens.n),
            heads: self.config.heads(),
            q_weight: self.layers[i].q_norm.view(),
            k_weight: self.layers[i].k_norm.view(),
            eps: self.config.rms_norm_eps,
            positions: tokens.positions(),
            cos: self.rope.cos.view(),
            sin: self.rope.sin.view(),
            q: a.q.rows_mut(tokens.n),
            k: a.k.rows_mut(tokens.n),
            cache,
        }
        .run(ctx.backend)?;
        Ok(())
    }

    /// To the tokens in hand, and to `before`, keys and values that they go on from.
    fn attend_packed(
        &self,
        ctx: ForwardContext<'_, B, T>,
        tokens: &Tokens<B>,
        a: &mut LayerActivations<B, T>,
        before: Option<(Mat<'_, B, T>, Mat<'_, B, T>)>,
    ) -> Result<()> {
        let (n, heads, scale) = (tokens.n, self.config.heads(), self.config.attention_scale());
        let (q, k, v) = (a.q.rows(n), a.k.rows(n), a.qkv.rows(n).columns(self.config.v_columns()));
        let (out, cu_seqlens, lse) = (a.attention.rows_mut(n), tokens.cu_seqlens(), a.lse.flat_mut(n));
        let (prefix_k, prefix_v) = before.unwrap_or((k, v));
        let prefix = tokens.prefixes().map(|rows| Prefix { k: prefix_k, v: prefix_v, rows });
        Attention { q, k, v, heads, cu_seqlens, max_len: tokens.max_len, prefix, scale, out, lse }.run(ctx.backend)?;
        Ok(())
    }

    /// To the cache, where the tokens' own keys and values go.
    fn attend_cached(
        &self,
        ctx: ForwardContext<'_, B, T>,
        i: usize,
        tokens: &Tokens<B>,
        a: &mut LayerActivations<B, T>,
        cache: &mut KvCache<B, T>,
    ) -> Result<()> {
        DecodeAttention {
            qkv: a.qkv.rows(tokens.n),
            heads: self.config.heads(),
            q_weight: self.layers[i].q_norm.view(),
            k_weight: self.layers[i].k_norm.view(),
            eps: self.config.rms_norm_eps,
            positions: tokens.positions(),
            cos: self.rope.cos.view(),
            sin: self.rope.sin.view(),
            capacity: cache.capacity,
            cache: cache.layer_mut(i),
            // Each step is waited for.
            settled: true,
            scale: self.config.attention_scale(),
            out: a.attention.rows_mut(tokens.n),
        }
        .run(ctx.backend)?;
        Ok(())
    }
}
