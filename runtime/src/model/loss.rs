//! The output head and the loss, in chunks: the logits of all tokens never exist at once.

use super::{
    activations::{Activations, Gradients},
    context::ForwardContext,
    qwen3::Qwen3,
    rows::{self, Rows},
};
use crate::{
    batch::Batch,
    error::{Error, Result},
    lora::DeviceAdapter,
};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut, elements, host,
    ops::{CrossEntropy, GatherRows, Linear, LinearGrad, Op, RmsNormGrad, ScatterRows, Sum, WeightGrad},
};
use std::ops::Range;

/// Rows whose logits exist at once: 300 MiB of bf16 at 151,936 tokens.
pub(super) const CHUNK: usize = 1024;

/// Memory for the logits of some rows, which are of the compute type in training and f32 in evaluation.
struct Logits<B: Backend> {
    memory: Buf<B, f32>,
    vocab: usize,
}

impl<B: Backend> Logits<B> {
    /// For `rows` rows of `T`, and one row of f32 at least.
    fn new<T: Float>(backend: &B, rows: usize, vocab: usize) -> Result<Self> {
        // f32 words, so that either type is aligned.
        let memory = rows::zeros(backend, &[(rows * size_of::<T>()).div_ceil(size_of::<f32>()).max(1), vocab])?;
        Ok(Logits { memory, vocab })
    }

    /// Rows that fit.
    fn capacity<O: Float>(&self) -> usize {
        self.memory.view().cast::<O>().len() / self.vocab
    }

    /// `[n, vocab]`
    fn rows<O: Float>(&self, n: usize) -> Mat<'_, B, O> {
        Mat::new(self.memory.view().cast().at(0..n * self.vocab), n, self.vocab)
    }

    /// `[n, vocab]`
    fn rows_mut<O: Float>(&mut self, n: usize) -> MatMut<'_, B, O> {
        MatMut::new(self.memory.view_mut().cast().into_at(0..n * self.vocab), n, self.vocab)
    }

    /// `0..n` in as many rows at a time as fit.
    fn chunks<O: Float>(&self, n: usize) -> impl Iterator<Item = Range<usize>> + use<B, O> {
        let step = self.capacity::<O>().min(CHUNK);
        (0..n).step_by(step).map(move |start| start..(start + step).min(n))
    }
}

/// The memory of the output head over some tokens.
struct HeadBuffers<B: Backend, T: Float> {
    /// The most tokens that fit.
    capacity: usize,
    /// `[n]`: the tokens, as rows of the activations.
    rows: Buf<B, u32>,
    /// `[n, hidden]`: what leaves the last layer there.
    x: Rows<B, T>,
    /// `[n, hidden]`: normed.
    normed: Rows<B, T>,
    /// Of a chunk.
    logits: Logits<B>,
}

impl<B: Backend, T: Float> HeadBuffers<B, T> {
    fn new(backend: &B, model: &Qwen3<B, T>, capacity: usize) -> Result<Self> {
        let (hidden, vocab) = (model.config.hidden_size, model.config.vocab_size);
        Ok(HeadBuffers {
            capacity,
            rows: backend.zeros(capacity)?,
            x: Rows::new(backend, capacity, hidden)?,
            normed: Rows::new(backend, capacity, hidden)?,
            logits: Logits::new::<T>(backend, CHUNK.min(capacity), vocab)?,
        })
    }
}

/// The memory of the head and the loss, allocated once.
pub struct LossBuffers<B: Backend, T: Float> {
    head: HeadBuffers<B, T>,
    /// `[n_targets]`
    labels: Buf<B, u32>,
    /// `[n_targets]`
    losses: Buf<B, f32>,
    /// `[1]`: the summed loss.
    total: Buf<B, f32>,
    /// `[n_targets, hidden]`: the gradients of the head's `normed` and `x`.
    d_normed: Rows<B, T>,
    d_x: Rows<B, T>,
}

impl<B: Backend, T: Float> LossBuffers<B, T> {
    /// Memory for `capacity` targets.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(backend: &B, model: &Qwen3<B, T>, capacity: usize) -> Result<Self> {
        Ok(LossBuffers {
            head: HeadBuffers::new(backend, model, capacity)?,
            labels: backend.zeros(capacity)?,
            losses: backend.zeros(capacity)?,
            total: backend.zeros(1)?,
            d_normed: Rows::new(backend, capacity, model.config.hidden_size)?,
            d_x: Rows::new(backend, capacity, model.config.hidden_size)?,
        })
    }

    /// Sets the summed loss to zero.
    ///
    /// # Errors
    /// The device refuses.
    pub fn clear(&mut self, backend: &B) -> Result<()> {
        Ok(backend.clear(self.total.view_mut())?)
    }

    /// The loss summed since [`LossBuffers::clear`], in nats; waits.
    ///
    /// # Errors
    /// The device refuses.
    pub fn total(&self, backend: &B) -> Result<f32> {
        Ok(self.total.to_vec(backend)?[0])
    }
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// `out = normed · headᵀ`, `[n, vocab]`.
    pub(super) fn head_forward<O: Float>(
        &self,
        ctx: ForwardContext<'_, B, T>,
        normed: Mat<'_, B, T>,
        out: MatMut<'_, B, O>,
    ) -> Result<()> {
        let own = ctx.adapter.and_then(DeviceAdapter::head);
        match (own, &self.head) {
            (None, Some(head)) => head.forward(ctx.backend, normed, out, false),
            (own, _) => {
                let weight = own.unwrap_or(self.embedding(ctx));
                Ok(Linear { x: normed, weight, out, accumulate: false }.run(ctx.backend)?)
            }
        }
    }

    fn head_backward(&self, ctx: ForwardContext<'_, B, T>, d_out: Mat<'_, B, T>, d_x: MatMut<'_, B, T>) -> Result<()> {
        let own = ctx.adapter.and_then(DeviceAdapter::head);
        match (own, &self.head) {
            (None, Some(head)) => head.backward(ctx.backend, d_out, d_x, false),
            (own, _) => {
                let weight = own.unwrap_or(self.embedding(ctx));
                Ok(LinearGrad { d_out, weight, d_x, accumulate: false }.run(ctx.backend)?)
            }
        }
    }

    /// Adds the summed loss of `batch`, whose forward pass is in `acts`, to `loss`, and puts the gradient of what left
    /// the last layer, times `grad_scale`, into `grads`; the gradient of a trained head is added to the adapter's.
    ///
    /// # Errors
    /// `loss` has room for fewer targets, or the device refuses.
    pub fn loss_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        batch: &Batch,
        acts: &Activations<B, T>,
        loss: &mut LossBuffers<B, T>,
        grads: &mut Gradients<B, T>,
        grad_scale: f32,
    ) -> Result<()> {
        let backend = ctx.backend;
        let n = self.take_targets(ctx, batch, acts, loss)?;
        let LossBuffers { head, labels, losses, total, d_normed, d_x } = loss;
        for chunk in head.logits.chunks::<T>(n) {
            let (rows, normed) = (chunk.len(), head.normed.rows(n).rows(chunk.clone()));
            self.head_forward(ctx, normed, head.logits.rows_mut::<T>(rows))?;
            let (labels, losses) = (labels.at(chunk.clone()), losses.at_mut(chunk.clone()));
            let logits = head.logits.rows_mut::<T>(rows);
            CrossEntropy { logits, labels, losses, grad_scale: Some(grad_scale) }.run(backend)?;
            let d_out = head.logits.rows::<T>(rows);
            self.head_backward(ctx, d_out, d_normed.rows_mut(n).rows(chunk))?;
            if let Some(range) = ctx.adapter.and_then(|a| a.layout.head.clone()) {
                WeightGrad { x: normed, d_out, d_weight: grads.adapter.at_mut(range) }.run(backend)?;
            }
            self.head_rows_backward(ctx, normed, d_out, grads)?;
        }
        Sum { x: losses.at(0..n), out: total.view_mut(), accumulate: true }.run(backend)?;
        let (x, weight, eps) = (head.x.rows(n), self.norm.view(), self.config.rms_norm_eps);
        RmsNormGrad { x, weight, eps, d_out: d_normed.rows(n), d_x: d_x.rows_mut(n), accumulate: false }
            .run(backend)?;
        backend.clear(grads.residual.flat_mut(acts.tokens.n))?;
        let out = grads.residual.rows_mut(acts.tokens.n);
        ScatterRows { x: d_x.rows(n), rows: head.rows.at(0..n), out }.run(backend)?;
        Ok(())
    }

    /// Puts the targets of `batch` in hand; how many there are.
    fn take_targets(
        &self,
        ctx: ForwardContext<'_, B, T>,
        batch: &Batch,
        acts: &Activations<B, T>,
        loss: &mut LossBuffers<B, T>,
    ) -> Result<usize> {
        let (rows, labels) = batch.targets();
        self.take_rows(ctx, acts, &mut loss.head, &rows)?;
        ctx.backend.write(&labels, loss.labels.at_mut(0..labels.len()))?;
        Ok(rows.len())
    }

    /// What left the last layer at some tokens, normed, into `head`.
    fn take_rows(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &Activations<B, T>,
        head: &mut HeadBuffers<B, T>,
        rows: &[u32],
    ) -> Result<()> {
        let n = rows.len();
        if n > head.capacity {
            let want = format!("the buffers of the loss have room for {}", head.capacity);
            return Err(Error::setting("the number of a batch's targets", n, want));
        }
        ctx.backend.write(rows, head.rows.at_mut(0..n))?;
        let table = acts.residual.last().rows(acts.tokens.n);
        GatherRows { table, rows: head.rows.at(0..n), out: head.x.rows_mut(n) }.run(ctx.backend)?;
        self.rms_norm(ctx, head.x.rows(n), &self.norm, head.normed.rows_mut(n))
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
        let n = self.take_targets(ctx, batch, acts, loss)?;
        let LossBuffers { head, labels, losses, .. } = loss;
        self.each_logits(ctx, head, n, |logits, chunk| {
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
        let mut head = HeadBuffers::new(ctx.backend, self, n)?;
        self.forward(ctx, acts, batch)?;
        self.take_rows(ctx, acts, &mut head, &(0..n as u32).collect::<Vec<_>>())?;
        let mut all = host::room(elements::<f32>(&[n, self.config.vocab_size])?)?;
        self.each_logits(ctx, &mut head, n, |logits, _| {
            all.extend(ctx.backend.download(logits.into_view().view())?);
            Ok(())
        })?;
        Ok(all)
    }

    /// Hands on the f32 logits of the `n` tokens in `head`, chunk by chunk.
    fn each_logits(
        &self,
        ctx: ForwardContext<'_, B, T>,
        head: &mut HeadBuffers<B, T>,
        n: usize,
        mut take: impl FnMut(MatMut<'_, B, f32>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        for chunk in head.logits.chunks::<f32>(n) {
            let normed = head.normed.rows(n).rows(chunk.clone());
            self.head_forward(ctx, normed, head.logits.rows_mut::<f32>(chunk.len()))?;
            take(head.logits.rows_mut(chunk.len()), chunk)?;
        }
        Ok(())
    }
}
