//! The output head and the loss, in chunks: the logits of all tokens never exist at once.

use super::{
    activations::{Activations, Gradients},
    context::ForwardContext,
    ends::{Chunk, EndRows},
    qwen3::Qwen3,
    residual::ResidualStream,
    workspace::{Extent, Head, Workspace},
};
use crate::{
    batch::Batch,
    error::{Error, Result},
    lora::DeviceAdapter,
};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut, View, elements, host,
    ops::{CrossEntropy, GatherRows, Linear, LinearGrad, Op, RmsNormGrad, ScatterRows, Sum, WeightGrad},
};
use std::{marker::PhantomData, ops::Range};

/// The memory of the head and the loss, allocated once.
pub struct LossBuffers<B: Backend, T: Float> {
    /// The most targets that fit.
    capacity: usize,
    /// `[n_targets]`: their tokens, as rows of the activations.
    rows: Buf<B, u32>,
    /// `[n_targets]`
    labels: Buf<B, u32>,
    /// `[n_targets]`
    losses: Buf<B, f32>,
    /// `[1]`: the summed loss.
    total: Buf<B, f32>,
    /// What the head works with, if that is not where a backward pass works.
    own: Option<Workspace<B>>,
    compute: PhantomData<T>,
}

impl<B: Backend, T: Float> LossBuffers<B, T> {
    /// Memory for `capacity` targets.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(backend: &B, model: &Qwen3<B, T>, capacity: usize) -> Result<Self> {
        let bytes = Extent { config: &model.config, n: capacity, room: 0 }.head_bytes(size_of::<T>());
        Ok(LossBuffers { own: Some(Workspace::new(backend, bytes)?), ..Self::beside(backend, capacity)? })
    }

    /// The same, but the head works where the backward pass of activations of that capacity does, which must keep
    /// something.
    pub(crate) fn beside(backend: &B, capacity: usize) -> Result<Self> {
        Ok(LossBuffers {
            capacity,
            rows: backend.zeros(capacity)?,
            labels: backend.zeros(capacity)?,
            losses: backend.zeros(capacity)?,
            total: backend.zeros(1)?,
            own: None,
            compute: PhantomData,
        })
    }

    /// Sets the summed loss to zero.
    ///
    /// # Errors
    /// The device refuses.
    pub fn clear(&mut self, backend: &B) -> Result<()> {
        Ok(backend.clear(self.total.view_mut())?)
    }

    /// `[n]`: the losses of the targets of the last batch, of which there were `n`, in nats.
    pub(crate) fn of_targets(&self, n: usize) -> View<'_, B, f32> {
        self.losses.at(0..n)
    }

    /// `[1]`: the loss summed since [`LossBuffers::clear`], in nats.
    pub fn total(&self) -> View<'_, B, f32> {
        self.total.view()
    }
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// `out = normed · headᵀ`, `[n, vocab]`, with the head's adapter, which works in `ends`.
    pub(super) fn head_forward<O: Float>(
        &self,
        ctx: ForwardContext<'_, B, T>,
        normed: Mat<'_, B, T>,
        mut out: MatMut<'_, B, O>,
        ends: &mut EndRows<B, T>,
        chunk: Chunk,
    ) -> Result<()> {
        let own = ctx.adapter.and_then(DeviceAdapter::head);
        match (own, &self.head) {
            (None, Some(head)) => head.forward(ctx.backend, normed, out.reborrow(), false)?,
            (own, _) => {
                let weight = own.map_or_else(|| self.embedding(ctx), |head| self.as_table(head));
                let settled = own.is_none() && ctx.adapter.and_then(DeviceAdapter::embedding).is_none();
                Linear { x: normed, weight, out: out.reborrow(), accumulate: false, settled }.run(ctx.backend)?;
            }
        }
        ctx.adapt_head(normed, out, ends, chunk)
    }

    /// The gradient of [`Self::head_forward`], which ran last: `d_x` is written, and what is trained of the head gets its
    /// share.
    fn head_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        [normed, d_out]: [Mat<'_, B, T>; 2],
        mut d_x: MatMut<'_, B, T>,
        (ends, grads): (&mut EndRows<B, T>, &mut Gradients<B, T>),
        chunk: Chunk,
    ) -> Result<()> {
        let own = ctx.adapter.and_then(DeviceAdapter::head);
        match (own, &self.head) {
            (None, Some(head)) => head.backward(ctx.backend, d_out, d_x.reborrow(), false)?,
            (own, _) => {
                let weight = own.map_or_else(|| self.embedding(ctx), |head| self.as_table(head));
                LinearGrad { d_out, weight, d_x: d_x.reborrow(), accumulate: false }.run(ctx.backend)?;
            }
        }
        if let Some(range) = ctx.adapter.and_then(|a| a.layout.head.clone()) {
            WeightGrad { x: normed, d_out, d_weight: grads.adapter.at_mut(range) }.run(ctx.backend)?;
        }
        ctx.adapt_head_grad([normed, d_out], d_x, ends, &mut grads.adapter, chunk)?;
        self.head_rows_backward(ctx, normed, d_out, grads)
    }

    /// Adds the summed loss of `batch`, whose forward pass is in `acts`, to `loss`, and puts the gradient of what left
    /// the last layer, times `grad_scale`, into `grads`; what is trained of the head has its gradient added to the adapter's.
    ///
    /// # Errors
    /// `loss` has room for fewer targets, or the device refuses.
    pub fn loss_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        batch: &Batch,
        acts: &mut Activations<B, T>,
        loss: &mut LossBuffers<B, T>,
        grads: &mut Gradients<B, T>,
        grad_scale: f32,
    ) -> Result<()> {
        let (backend, n) = (ctx.backend, loss.take_targets(ctx.backend, batch)?);
        let Activations { tokens, residual, workspace, ends, .. } = acts;
        let LossBuffers { rows, labels, losses, total, own, .. } = loss;
        let mut head = own.as_mut().unwrap_or(workspace).head(&self.head_extent(loss.capacity));
        backend.clear(grads.residual.flat_mut(tokens.n))?;
        for (i, chunk) in head.chunks::<T>(n).enumerate() {
            let (m, rows) = (chunk.len(), rows.at(chunk.clone()));
            let (labels, losses) = (labels.at(chunk.clone()), losses.at_mut(chunk));
            self.head_input(ctx, residual, tokens.n, rows, &mut head)?;
            let (normed, mut logits) = (head.normed.mat().rows(0..m), head.logits.rows::<T>(m));
            self.head_forward(ctx, normed, logits.reborrow(), ends, Chunk(i))?;
            CrossEntropy { logits: logits.reborrow(), labels, losses, grad_scale: Some(grad_scale) }.run(backend)?;
            let d_normed = head.d_normed.reborrow().rows(0..m);
            self.head_backward(ctx, [normed, logits.mat()], d_normed, (&mut *ends, &mut *grads), Chunk(i))?;
            let (x, d_out, d_x) = (head.x.mat().rows(0..m), head.d_normed.mat().rows(0..m), head.d_x.reborrow());
            let (weight, eps, mut d_x) = (self.norm.view(), self.config.rms_norm_eps, d_x.rows(0..m));
            RmsNormGrad { x, weight, eps, d_out, d_x: d_x.reborrow(), accumulate: false }.run(backend)?;
            ScatterRows { x: d_x.mat(), rows, out: grads.residual.rows_mut(tokens.n) }.run(backend)?;
        }
        Ok(Sum { x: losses.at(0..n), out: total.view_mut(), accumulate: true }.run(backend)?)
    }

    /// Where the head works that has memory for so many targets.
    fn head_extent(&self, capacity: usize) -> Extent<'_> {
        Extent { config: &self.config, n: capacity, room: 0 }
    }

    /// What left the last layer at some of `n` tokens, and the same normed.
    fn head_input(
        &self,
        ctx: ForwardContext<'_, B, T>,
        residual: &ResidualStream<B, T>,
        n: usize,
        rows: View<'_, B, u32>,
        head: &mut Head<'_, B, T>,
    ) -> Result<()> {
        let (m, table) = (rows.len(), residual.last().rows(n));
        GatherRows { table, rows, out: head.x.reborrow().rows(0..m) }.run(ctx.backend)?;
        self.rms_norm(ctx, head.x.mat().rows(0..m), &self.norm, head.normed.reborrow().rows(0..m))
    }

    /// The loss of each target of `batch`, in the order of its tokens, in nats; logits are f32. Allocates nothing on
    /// the device. Waits.
    ///
    /// # Errors
    /// The batch does not fit `acts` or `loss`, or the model; the device refuses.
    pub fn target_losses(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        loss: &mut LossBuffers<B, T>,
        batch: &Batch,
    ) -> Result<Vec<f32>> {
        self.forward(ctx, acts, batch)?;
        let n = loss.take_targets(ctx.backend, batch)?;
        let (labels, losses) = (loss.labels.view(), &mut loss.losses);
        let rows = loss.rows.at(0..n);
        let own = (loss.capacity, &mut loss.own);
        self.each_logits(ctx, acts, own, rows, |logits, chunk| {
            let (labels, losses) = (labels.at(chunk.clone()), losses.at_mut(chunk));
            Ok(CrossEntropy { logits, labels, losses, grad_scale: None }.run(ctx.backend)?)
        })?;
        Ok(ctx.backend.download(losses.at(0..n))?)
    }

    /// The logits of every token of `batch`, `[n, vocab]`; waits. For inspection: they are many.
    ///
    /// # Errors
    /// The batch does not fit `acts` or the model; the device refuses.
    pub fn logits(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        batch: &Batch,
    ) -> Result<Vec<f32>> {
        let n = batch.n_tokens();
        let mut loss = LossBuffers::new(ctx.backend, self, n)?;
        self.forward(ctx, acts, batch)?;
        loss.take_rows(ctx.backend, &(0..n as u32).collect::<Vec<_>>())?;
        let mut all = host::room(elements::<f32>(&[n, self.config.vocab_size])?)?;
        self.each_logits(ctx, acts, (n, &mut loss.own), loss.rows.view(), |logits, _| {
            all.extend(ctx.backend.download(logits.into_view().view())?);
            Ok(())
        })?;
        Ok(all)
    }

    /// Hands on the f32 logits of the tokens `rows`, chunk by chunk, from memory for so many targets.
    fn each_logits(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        (capacity, own): (usize, &mut Option<Workspace<B>>),
        rows: View<'_, B, u32>,
        mut take: impl FnMut(MatMut<'_, B, f32>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let Activations { tokens, residual, workspace, ends, .. } = acts;
        let mut head = own.as_mut().unwrap_or(workspace).head(&self.head_extent(capacity));
        for chunk in head.chunks::<f32>(rows.len()) {
            self.head_input(ctx, residual, tokens.n, rows.at(chunk.clone()), &mut head)?;
            let (m, normed) = (chunk.len(), head.normed.mat().rows(0..chunk.len()));
            self.head_forward(ctx, normed, head.logits.rows::<f32>(m), ends, Chunk(0))?;
            take(head.logits.rows(m), chunk)?;
        }
        Ok(())
    }
}

impl<B: Backend, T: Float> LossBuffers<B, T> {
    /// Puts the targets of `batch` in hand; how many there are.
    fn take_targets(&mut self, backend: &B, batch: &Batch) -> Result<usize> {
        let (rows, labels) = batch.targets();
        self.take_rows(backend, &rows)?;
        backend.write(&labels, self.labels.at_mut(0..labels.len()))?;
        Ok(rows.len())
    }

    /// Puts tokens in hand.
    fn take_rows(&mut self, backend: &B, rows: &[u32]) -> Result<()> {
        if rows.len() > self.capacity {
            let want = format!("the buffers of the loss have room for {}", self.capacity);
            return Err(Error::setting("the number of a batch's targets", rows.len(), want));
        }
        Ok(backend.write(rows, self.rows.at_mut(0..rows.len()))?)
    }
}
