//! The output head and the loss, in chunks: the logits of all tokens never exist at once.

use super::{Activations, AdapterGradients, ForwardContext, Gradients, Qwen3};
use crate::{Result, batch::Batch, lora::DeviceAdapter};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut,
    ops::{
        CrossEntropy, GatherRows, IGNORE, Linear, LinearGrad, Op, RmsNorm, RmsNormGrad, ScatterRows, Sum, WeightGrad,
    },
};
use std::ops::Range;

/// Rows whose logits exist at once: 300 MiB of bf16 at 151,936 tokens.
const CHUNK: usize = 1024;

/// The memory of the head and the loss, allocated once.
pub struct LossBuffers<B: Backend, T: Float> {
    /// `[n_targets]`: the tokens that have a target.
    rows: Buf<B, u32>,
    /// `[n_targets]`
    labels: Buf<B, u32>,
    /// `[n_targets]`
    losses: Buf<B, f32>,
    /// `[1]`: the summed loss.
    total: Buf<B, f32>,
    /// `[n_targets, hidden]`: what leaves the last layer there, then its gradient's source.
    x: Buf<B, T>,
    /// `[n_targets, hidden]`: normed.
    normed: Buf<B, T>,
    /// `[n_targets, hidden]`: the gradients of `normed` and of `x`.
    d_normed: Buf<B, T>,
    d_x: Buf<B, T>,
    /// `[chunk, vocab]`
    logits: Buf<B, T>,
}

/// The tokens that have a target, and the targets.
fn targets(batch: &Batch) -> (Vec<u32>, Vec<u32>) {
    let with_target = batch.labels.iter().enumerate().filter(|(_, label)| **label != IGNORE);
    with_target.map(|(i, label)| (i as u32, *label)).unzip()
}

impl<B: Backend, T: Float> LossBuffers<B, T> {
    /// Memory for `capacity` targets.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(backend: &B, model: &Qwen3<B, T>, capacity: usize) -> Result<Self> {
        let (hidden, vocab) = (model.config.hidden_size, model.config.vocab_size);
        let wide = || backend.zeros(capacity * hidden);
        Ok(LossBuffers {
            rows: backend.zeros(capacity)?,
            labels: backend.zeros(capacity)?,
            losses: backend.zeros(capacity)?,
            total: backend.zeros(1)?,
            x: wide()?,
            normed: wide()?,
            d_normed: wide()?,
            d_x: wide()?,
            logits: backend.zeros(CHUNK.min(capacity) * vocab)?,
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

fn chunks(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(CHUNK).map(move |start| start..(start + CHUNK).min(n))
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Rows of what left the last layer, normed: `x` and `normed` are `[rows, hidden]`.
    fn final_norm(
        &self,
        backend: &B,
        acts: &Activations<B, T>,
        rows: &Buf<B, u32>,
        n: usize,
        x: &mut Buf<B, T>,
        normed: &mut Buf<B, T>,
    ) -> Result<()> {
        let hidden = self.config.hidden_size;
        let table = acts.residual[self.layers.len()].mat(acts.n, hidden);
        GatherRows { table, rows: rows.at(0..n), out: x.mat_mut(n, hidden) }.run(backend)?;
        let (weight, eps) = (self.norm.view(), self.config.rms_norm_eps);
        RmsNorm { x: x.mat(n, hidden), add: None, weight, eps, out: normed.mat_mut(n, hidden) }.run(backend)?;
        Ok(())
    }

    /// `out = normed · headᵀ`, `[n, vocab]`.
    pub(super) fn head_forward<O: Float>(
        &self,
        ctx: ForwardContext<'_, B, T>,
        normed: Mat<'_, B, T>,
        out: MatMut<'_, B, O>,
    ) -> Result<()> {
        if let Some(head) = ctx.adapter.and_then(DeviceAdapter::head) {
            Linear { x: normed, weight: head, out, accumulate: false }.run(ctx.backend)?;
            return Ok(());
        }
        match &self.head {
            Some(head) => head.forward(ctx.backend, normed, out, false),
            None => {
                Linear { x: normed, weight: self.embedding.view(), out, accumulate: false }.run(ctx.backend)?;
                Ok(())
            }
        }
    }

    fn head_backward(&self, ctx: ForwardContext<'_, B, T>, d_out: Mat<'_, B, T>, d_x: MatMut<'_, B, T>) -> Result<()> {
        if let Some(weight) = ctx.adapter.and_then(DeviceAdapter::head) {
            LinearGrad { d_out, weight, d_x, accumulate: false }.run(ctx.backend)?;
            return Ok(());
        }
        match &self.head {
            Some(head) => head.backward(ctx.backend, d_out, d_x, false),
            None => {
                LinearGrad { d_out, weight: self.embedding.view(), d_x, accumulate: false }.run(ctx.backend)?;
                Ok(())
            }
        }
    }

    /// Adds the summed loss of `batch`, whose forward pass is in `acts`, to `loss`, and puts the gradient of what left
    /// the last layer, times `grad_scale`, into `grads`; the gradient of a trained head is added to `adapter_grads`.
    ///
    /// # Errors
    /// The device refuses.
    #[expect(clippy::too_many_arguments, reason = "the buffers of a training step, each named at the call")]
    pub fn loss_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        batch: &Batch,
        acts: &Activations<B, T>,
        loss: &mut LossBuffers<B, T>,
        grads: &mut Gradients<B, T>,
        adapter_grads: &mut AdapterGradients<B>,
        grad_scale: f32,
    ) -> Result<()> {
        let (backend, hidden, vocab) = (ctx.backend, self.config.hidden_size, self.config.vocab_size);
        let n = self.take_targets(backend, batch, acts, loss)?;
        for chunk in chunks(n) {
            let rows = chunk.len();
            let normed = loss.normed.mat(n, hidden).rows(chunk.clone());
            self.head_forward(ctx, normed, loss.logits.mat_mut(rows, vocab))?;
            let losses = loss.losses.at_mut(chunk.clone());
            let labels = loss.labels.at(chunk.clone());
            let logits = loss.logits.mat_mut(rows, vocab);
            CrossEntropy { logits, labels, losses, grad_scale: Some(grad_scale) }.run(backend)?;
            let d_logits = loss.logits.mat(rows, vocab);
            self.head_backward(ctx, d_logits, loss.d_normed.mat_mut(n, hidden).rows(chunk.clone()))?;
            if let Some(range) = ctx.adapter.and_then(|a| a.layout.head.clone()) {
                let d_weight = adapter_grads.flat.at_mut(range);
                WeightGrad { x: normed, d_out: d_logits, d_weight }.run(backend)?;
            }
        }
        Sum { x: loss.losses.at(0..n), out: loss.total.view_mut(), accumulate: true }.run(backend)?;
        let (weight, eps, x) = (self.norm.view(), self.config.rms_norm_eps, loss.x.mat(n, hidden));
        let (d_out, d_x) = (loss.d_normed.mat(n, hidden), loss.d_x.mat_mut(n, hidden));
        RmsNormGrad { x, weight, eps, d_out, d_x, accumulate: false }.run(backend)?;
        backend.clear(grads.residual.at_mut(0..acts.n * hidden))?;
        let out = grads.residual.mat_mut(acts.n, hidden);
        ScatterRows { x: loss.d_x.mat(n, hidden), rows: loss.rows.at(0..n), out }.run(backend)?;
        Ok(())
    }

    /// Puts the targets of `batch` in hand; how many there are.
    fn take_targets(
        &self,
        backend: &B,
        batch: &Batch,
        acts: &Activations<B, T>,
        loss: &mut LossBuffers<B, T>,
    ) -> Result<usize> {
        let (rows, labels) = targets(batch);
        let n = rows.len();
        backend.write(&rows, loss.rows.at_mut(0..n))?;
        backend.write(&labels, loss.labels.at_mut(0..n))?;
        self.final_norm(backend, acts, &loss.rows, n, &mut loss.x, &mut loss.normed)?;
        Ok(n)
    }

    /// The loss of each target of `batch`, in the order of its tokens, in nats; logits are f32. Waits.
    ///
    /// # Errors
    /// The device refuses.
    pub fn target_losses(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        batch: &Batch,
    ) -> Result<Vec<f32>> {
        let (rows, labels) = targets(batch);
        let labels = ctx.backend.upload(&labels)?;
        let mut losses: Buf<B, f32> = ctx.backend.zeros(rows.len())?;
        self.forward(ctx, acts, batch)?;
        self.each_logits(ctx, acts, &rows, |logits, chunk| {
            let (labels, losses) = (labels.at(chunk.clone()), losses.at_mut(chunk));
            CrossEntropy { logits, labels, losses, grad_scale: None }.run(ctx.backend)?;
            Ok(())
        })?;
        Ok(losses.to_vec(ctx.backend)?)
    }

    /// The logits of every token of `batch`, `[n, vocab]`; waits. For inspection: they are many.
    ///
    /// # Errors
    /// The device refuses.
    pub fn logits(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        batch: &Batch,
    ) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(batch.n_tokens() * self.config.vocab_size);
        self.forward(ctx, acts, batch)?;
        let rows: Vec<u32> = (0..batch.n_tokens() as u32).collect();
        self.each_logits(ctx, acts, &rows, |logits, _| {
            all.extend(ctx.backend.download(logits.into_view().view())?);
            Ok(())
        })?;
        Ok(all)
    }

    /// Hands on the f32 logits of some tokens of the forward pass in `acts`, chunk by chunk.
    pub(super) fn each_logits(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &Activations<B, T>,
        rows: &[u32],
        mut take: impl FnMut(MatMut<'_, B, f32>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let (backend, n, hidden, vocab) = (ctx.backend, rows.len(), self.config.hidden_size, self.config.vocab_size);
        let rows = backend.upload(rows)?;
        let (mut x, mut normed) = (backend.zeros(n * hidden)?, backend.zeros(n * hidden)?);
        self.final_norm(backend, acts, &rows, n, &mut x, &mut normed)?;
        let mut logits = backend.zeros(n.min(CHUNK) * vocab)?;
        for chunk in chunks(n) {
            let normed = normed.mat(n, hidden).rows(chunk.clone());
            self.head_forward(ctx, normed, logits.mat_mut(chunk.len(), vocab))?;
            take(logits.mat_mut(chunk.len(), vocab), chunk)?;
        }
        Ok(())
    }
}
