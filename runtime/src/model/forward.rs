//! The forward pass: one function for each layer, whatever its tokens attend to and whatever of it is kept.

use super::{
    activations::Activations, attention::Attend, context::ForwardContext, qwen3::Qwen3, residual::Keep, weights::Norm,
};
use crate::{batch::Batch, error::Result};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut,
    ops::{GatherRows, Op, RmsNorm, Swiglu},
};

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Runs `batch` through all layers; what the backward pass and the head need is left in `acts`.
    ///
    /// # Errors
    /// The batch has more tokens than fit, or ids or positions that the model has not; the device refuses.
    pub fn forward(&self, ctx: ForwardContext<'_, B, T>, acts: &mut Activations<B, T>, batch: &Batch) -> Result<()> {
        acts.take(ctx.backend, &self.config, batch)?;
        self.run(ctx, acts, &mut Attend::Packed)
    }

    /// Runs the tokens in hand through all layers.
    pub(super) fn run(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        attend: &mut Attend<'_, B, T>,
    ) -> Result<()> {
        let table = Mat::new(self.embedding(ctx), self.config.vocab_size, self.config.hidden_size);
        let out = acts.residual.first_mut().rows_mut(acts.tokens.n);
        GatherRows { table, rows: acts.tokens.ids(), out }.run(ctx.backend)?;
        (0..self.layers.len()).try_for_each(|i| self.layer_forward(ctx, acts, i, attend))
    }

    /// Layer `i`: from state `2 i` of the residual stream to state `2 i + 2`.
    pub(super) fn layer_forward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        i: usize,
        attend: &mut Attend<'_, B, T>,
    ) -> Result<()> {
        let (layer, n, slot) = (&self.layers[i], acts.tokens.n, acts.slot(i));
        let Activations { tokens, residual, layers, normed, gated, .. } = acts;
        let a = &mut layers[slot];

        let norm = self.norm(residual.at(2 * i).rows(n), &layer.attention_norm, normed.wide_mut(n));
        ctx.project_normed(i, &layer.qkv, norm, a.xa.rows_mut(n), a.qkv.rows_mut(n), None)?;
        self.attend(ctx, i, tokens, a, attend)?;
        let middle = residual.advance(ctx.backend, 2 * i, n)?;
        ctx.project(i, &layer.o, a.attention.wide_mut(n), a.xa.rows_mut(n), middle, true)?;

        let norm = self.norm(residual.at(2 * i + 1).rows(n), &layer.mlp_norm, normed.wide_mut(n));
        let (gate_up, xa) = (a.gate_up.rows_mut(n), a.xa.rows_mut(n));
        if residual.keep() == Keep::Nothing {
            ctx.project_normed(i, &layer.gate_up, norm, xa, gate_up, Some(gated.rows_mut(n)))?;
        } else {
            ctx.project_normed(i, &layer.gate_up, norm, xa, gate_up, None)?;
            Swiglu { gate_up: a.gate_up.rows(n), out: gated.rows_mut(n) }.run(ctx.backend)?;
        }
        let next = residual.advance(ctx.backend, 2 * i + 1, n)?;
        ctx.project(i, &layer.down, gated.wide_mut(n), a.xa.rows_mut(n), next, true)
    }

    fn norm<'a>(&self, x: Mat<'a, B, T>, weight: &'a Buf<B, f32>, out: MatMut<'a, B, T>) -> Norm<'a, B, T> {
        Norm { x, weight: weight.view(), eps: self.config.rms_norm_eps, out }
    }

    pub(super) fn rms_norm(
        &self,
        ctx: ForwardContext<'_, B, T>,
        x: Mat<'_, B, T>,
        weight: &Buf<B, f32>,
        out: MatMut<'_, B, T>,
    ) -> Result<()> {
        RmsNorm { x, add: None, weight: weight.view(), eps: self.config.rms_norm_eps, out }.run(ctx.backend)?;
        Ok(())
    }
}
