//! The adapters of the embedding and of the output head.
//!
//! Logits may be of another type than the adapter's input, and no op of adapters writes such: so a product with the
//! identity scales `x Aᵀ`, and a dense one adds what `B` makes of it.
//!
//! What the embedding reads has a one at each token's place, so that its `x Aᵀ` are rows of `Aᵀ`, which is how `A` lies in
//! memory. The gradient of such a row is the sum over the token's places: a product with what says which these are, for the
//! tokens that are there.

use super::{
    activations::{Activations, Gradients},
    context::ForwardContext,
    rows::Rows,
};
use crate::{
    config::Qwen3Config,
    error::Result,
    lora::{EndAdapter, identity},
};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut, View, ViewMut, elements,
    ops::{Dropout, GatherRows, Linear, Lora, LoraGrad, Op, ScatterRows, WeightGrad},
};

/// What they work with, `[n, r]` each.
pub(super) struct EndRows<B: Backend, T: Float> {
    /// `x Aᵀ`
    xa: Rows<B, T>,
    /// The same times the scaling.
    scaled: Rows<B, T>,
    /// The gradient of `xa`.
    d_xa: Rows<B, T>,
}

impl<B: Backend, T: Float> EndRows<B, T> {
    /// For up to `capacity` tokens; nothing where neither is adapted.
    pub fn new(ctx: ForwardContext<'_, B, T>, capacity: usize) -> Result<Self> {
        let columns = ctx.adapter.map_or(0, |adapter| adapter.layout.end_columns);
        let rows = || Rows::new(ctx.backend, capacity, columns);
        Ok(EndRows { xa: rows()?, scaled: rows()?, d_xa: rows()? })
    }

    pub fn bytes(&self) -> usize {
        [&self.xa, &self.scaled, &self.d_xa].map(Rows::bytes).iter().sum()
    }
}

/// Which rows of a batch's logits are in hand: their dropout masks are their own.
#[derive(Clone, Copy)]
pub(super) struct Chunk(pub usize);

impl<'a, B: Backend, T: Float> ForwardContext<'a, B, T> {
    fn head_adapter(&self) -> Option<EndAdapter<'a, B, T>> {
        self.adapter?.of_head()
    }

    /// Behind the masks of the modules, of which there are fewer.
    fn head_dropout(&self, Chunk(chunk): Chunk) -> Option<Dropout> {
        self.dropout(0x8000 + chunk)
    }

    /// `out += s (x Aᵀ) Bᵀ` of the head, if it is adapted: x `[n, hidden]`, out `[n, vocab]`.
    pub(super) fn adapt_head<O: Float>(
        &self,
        x: Mat<'_, B, T>,
        out: MatMut<'_, B, O>,
        ends: &mut EndRows<B, T>,
        chunk: Chunk,
    ) -> Result<()> {
        let Some(EndAdapter { lora, a, b, identity }) = self.head_adapter() else { return Ok(()) };
        let (backend, [n, _]) = (self.backend, x.shape());
        let xa = ends.xa.rows_mut(n).columns(0..lora.rank);
        backend.clear(ends.scaled.flat_mut(n))?;
        let mut scaled = ends.scaled.rows_mut(n).columns(0..lora.rank);
        let (scale, dropout) = (lora.scale, self.head_dropout(chunk));
        Lora { x, a, b: identity, scale, dropout, xa, out: scaled.reborrow() }.run(backend)?;
        let weight = Mat::new(b, out.shape()[1], lora.rank);
        Ok(Linear { x: scaled.mat(), weight, out, accumulate: true, settled: false }.run(backend)?)
    }

    /// The gradient of [`ForwardContext::adapt_head`], which ran last: what `d_out` is to `x` is added to `d_x`, and to A
    /// and B to `d_adapter`, `[layout.len]`.
    pub(super) fn adapt_head_grad(
        &self,
        [x, d_out]: [Mat<'_, B, T>; 2],
        d_x: MatMut<'_, B, T>,
        ends: &mut EndRows<B, T>,
        d_adapter: &mut Buf<B, f32>,
        chunk: Chunk,
    ) -> Result<()> {
        let Some(EndAdapter { lora, a, b, .. }) = self.head_adapter() else { return Ok(()) };
        let [n, _] = x.shape();
        let (columns, scale, dropout) = (0..lora.rank, lora.scale, self.head_dropout(chunk));
        let (xa, d_xa) = (ends.xa.rows(n).columns(columns.clone()), ends.d_xa.rows_mut(n).columns(columns));
        let mut windows = d_adapter.view_mut().into_disjoint(&[lora.a.clone(), lora.b.clone()]).into_iter();
        let (Some(d_a), Some(d_b)) = (windows.next(), windows.next()) else { return Ok(()) };
        Ok(LoraGrad { x, a, b, scale, dropout, xa, d_out, d_xa, d_a, d_b, d_x: Some(d_x) }.run(self.backend)?)
    }

    /// `out += s (x Aᵀ) Bᵀ` of the embedding, if it is adapted: ids `[n]`, out `[n, hidden]`.
    pub(super) fn adapt_embedding(
        &self,
        ids: View<'_, B, u32>,
        out: MatMut<'_, B, T>,
        ends: &mut EndRows<B, T>,
    ) -> Result<()> {
        let Some(EndAdapter { lora, a, b, identity }) = self.adapter.and_then(|adapter| adapter.of_embedding()) else {
            return Ok(());
        };
        let (n, columns) = (ids.len(), 0..lora.rank);
        let mut picked = ends.xa.rows_mut(n).columns(columns.clone());
        GatherRows { table: Mat::new(a, lora.in_features, lora.rank), rows: ids, out: picked.reborrow() }
            .run(self.backend)?;
        let xa = ends.scaled.rows_mut(n).columns(columns);
        let (x, scale) = (picked.mat(), lora.scale);
        Ok(Lora { x, a: identity, b, scale, dropout: None, xa, out }.run(self.backend)?)
    }

    /// The gradient of [`ForwardContext::adapt_embedding`], from that of the residual stream, added to the adapter's.
    pub(super) fn adapt_embedding_grad(&self, acts: &mut Activations<B, T>, grads: &mut Gradients<B, T>) -> Result<()> {
        let Some(EndAdapter { lora, a, b, identity }) = self.adapter.and_then(|adapter| adapter.of_embedding()) else {
            return Ok(());
        };
        let (backend, Activations { tokens, ends, .. }) = (self.backend, acts);
        let Gradients { adapter: d_adapter, residual, normed, seen: Some(seen), .. } = grads else { return Ok(()) };
        let (n, columns, scale) = (tokens.n, 0..lora.rank, lora.scale);
        let mut picked = ends.xa.rows_mut(n).columns(columns.clone());
        GatherRows { table: Mat::new(a, lora.in_features, lora.rank), rows: tokens.ids(), out: picked.reborrow() }
            .run(backend)?;
        let (x, d_out, mut d_xa) = (picked.mat(), residual.rows(n), ends.d_xa.rows_mut(n).columns(columns));
        LoraGrad {
            x,
            a: identity,
            b,
            scale,
            dropout: None,
            xa: x,
            d_out,
            d_xa: d_xa.reborrow(),
            d_a: seen.unused.view_mut(),
            d_b: d_adapter.at_mut(lora.b.clone()),
            d_x: None,
        }
        .run(backend)?;
        let places = normed.rows_mut(n);
        seen.add(backend, &tokens.on_host, d_xa.mat(), places, d_adapter.at_mut(lora.a.clone()))
    }
}

/// Tokens whose places are found at once.
const BLOCK: usize = 1024;

/// What adds gradients of a token's places up.
pub(super) struct SeenTokens<B: Backend, T: Float> {
    /// Tokens at once.
    block: usize,
    /// `[block + 1, block]`: a one in each row, and a row of zeros.
    ones: Buf<B, T>,
    /// `[block]`: the tokens.
    seen: Buf<B, u32>,
    /// `[n]`: which of these each token is.
    which: Buf<B, u32>,
    /// `[block, r]`: the gradients of their rows.
    rows: Buf<B, f32>,
    /// `[r, r]`: the gradient of the identity, which nobody asks for.
    unused: Buf<B, f32>,
}

/// Tokens at once, for places in `[capacity, hidden]`.
fn block(config: &Qwen3Config, capacity: usize) -> usize {
    BLOCK.min(config.hidden_size).min(capacity).max(1)
}

/// Bytes of [`SeenTokens`] for an adapter of rank `r`, in a type of `size` bytes.
pub(super) fn seen_bytes(config: &Qwen3Config, r: usize, capacity: usize, size: usize) -> usize {
    let block = block(config, capacity);
    (block + 1) * block * size + (block * (r + 1) + capacity + r * r) * size_of::<f32>()
}

impl<B: Backend, T: Float> SeenTokens<B, T> {
    /// For up to `capacity` tokens of an adapter of rank `r`.
    pub fn new(backend: &B, config: &Qwen3Config, r: usize, capacity: usize) -> Result<Self> {
        let block = block(config, capacity);
        Ok(SeenTokens {
            block,
            ones: identity(backend, [block + 1, block])?,
            seen: backend.zeros(block)?,
            which: backend.zeros(capacity)?,
            rows: backend.zeros(elements::<f32>(&[block, r])?)?,
            unused: backend.zeros(elements::<f32>(&[r, r])?)?,
        })
    }

    /// Adds the rows of `d_xa` `[n, r]` to those of their tokens in `d_a` `[vocab, r]`; `places` `[n, hidden]` is scratch.
    fn add(
        &mut self,
        backend: &B,
        ids: &[u32],
        d_xa: Mat<'_, B, T>,
        mut places: MatMut<'_, B, T>,
        mut d_a: ViewMut<'_, B, f32>,
    ) -> Result<()> {
        let ([n, r], block) = (d_xa.shape(), self.block);
        let vocab = d_a.len() / r;
        let mut all = ids.to_vec();
        all.sort_unstable();
        all.dedup();
        for tokens in all.chunks(block) {
            // Others take the last row, as all do that there is none for.
            let which = ids.iter().map(|id| tokens.binary_search(id).unwrap_or(block) as u32).collect::<Vec<_>>();
            let m = tokens.len();
            backend.write(&which, self.which.at_mut(0..n))?;
            backend.write(tokens, self.seen.at_mut(0..m))?;
            let (table, out) = (self.ones.mat(block + 1, block), places.reborrow().columns(0..block));
            GatherRows { table, rows: self.which.at(0..n), out }.run(backend)?;
            let (seen, table) = (self.seen.at(0..m), Mat::new(d_a.view(), vocab, r));
            GatherRows { table, rows: seen, out: MatMut::new(self.rows.at_mut(0..m * r), m, r) }.run(backend)?;
            let d_out = places.mat().columns(0..m);
            WeightGrad { x: d_xa, d_out, d_weight: self.rows.at_mut(0..m * r) }.run(backend)?;
            let (x, out) = (self.rows.mat(m, r), MatMut::new(d_a.reborrow(), vocab, r));
            ScatterRows { x, rows: seen, out }.run(backend)?;
        }
        Ok(())
    }
}
