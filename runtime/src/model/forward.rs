//! The forward pass: one function for each layer, whatever its tokens attend to and whatever of it is kept.

use super::{
    activations::Activations,
    attention::Attend,
    context::{AdapterRows, ForwardContext, Operand},
    keep::Keep,
    qwen3::Qwen3,
    weights::Norm,
};
use crate::{batch::Batch, error::Result};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut,
    ops::{GatherRows, Op, RmsNorm},
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
        let table = self.embedding(ctx);
        let Activations { tokens, residual, ends, .. } = &mut *acts;
        let mut out = residual.first_mut().rows_mut(tokens.n);
        GatherRows { table, rows: tokens.ids(), out: out.reborrow() }.run(ctx.backend)?;
        ctx.adapt_embedding(tokens.ids(), out.reborrow(), ends)?;
        if let Some(noise) = ctx.noise {
            noise.add(ctx.backend, out, tokens.max_len)?;
        }
        (0..self.layers.len()).try_for_each(|i| self.layer_forward(ctx, acts, i, attend))
    }

    /// Layer `i`: from state `2 i` of the residual stream to state `2 i + 2`.
    fn layer_forward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        i: usize,
        attend: &mut Attend<'_, B, T>,
    ) -> Result<()> {
        self.attention_forward(ctx, acts, i, attend)?;
        acts.residual.store(ctx.backend, i, acts.tokens.n)?;
        self.gate_up_forward(ctx, acts, i)?;
        let (n, kept) = (acts.tokens.n, acts.keep[i] != Keep::Nothing);
        let Activations { residual, gate_up, xa, normed, gated, dropped, .. } = acts;
        let input = Operand { x: gated.wide_mut(n), gate_up: kept.then(|| gate_up.at(i).rows(n)) };
        let (next, added) = (residual.advance(ctx.backend, 2 * i + 1, n)?, Some(normed.rows_mut(n)));
        let rows = AdapterRows { xa: xa.at_mut(i).rows_mut(n), dropped };
        ctx.project(i, &self.layers[i].down, input, rows, next, added)
    }

    /// Attention of layer `i`: from state `2 i` of the residual stream to state `2 i + 1`.
    pub(super) fn attention_forward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        i: usize,
        attend: &mut Attend<'_, B, T>,
    ) -> Result<()> {
        let (layer, n) = (&self.layers[i], acts.tokens.n);
        let Activations { tokens, residual, layers, xa, normed, dropped, .. } = acts;
        let (a, xa) = (layers.at_mut(i), xa.at_mut(i));
        let norm = self.norm(residual.at(2 * i).rows(n), &layer.attention_norm, normed.wide_mut(n));
        let rows = AdapterRows { xa: xa.rows_mut(n), dropped };
        ctx.project_normed(i, &layer.qkv, norm, rows, a.qkv.rows_mut(n), None)?;
        self.attend(ctx, i, tokens, a, attend)?;
        let (middle, added) = (residual.advance(ctx.backend, 2 * i, n)?, Some(normed.rows_mut(n)));
        let rows = AdapterRows { xa: xa.rows_mut(n), dropped };
        ctx.project(i, &layer.o, a.attention.wide_mut(n).into(), rows, middle, added)
    }

    /// The MLP of layer `i` as far as gate and up, from state `2 i + 1` of the residual stream; and SwiGLU of them where they
    /// are not kept.
    pub(super) fn gate_up_forward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        i: usize,
    ) -> Result<()> {
        let (layer, n, kept) = (&self.layers[i], acts.tokens.n, acts.keep[i] != Keep::Nothing);
        let Activations { residual, gate_up, xa, normed, gated, dropped, .. } = acts;
        let (gate_up, rows) = (gate_up.at_mut(i), AdapterRows { xa: xa.at_mut(i).rows_mut(n), dropped });
        let norm = self.norm(residual.at(2 * i + 1).rows(n), &layer.mlp_norm, normed.wide_mut(n));
        let fused = (!kept).then(|| gated.rows_mut(n));
        ctx.project_normed(i, &layer.gate_up, norm, rows, gate_up.rows_mut(n), fused)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::Checkpoint,
        config::Qwen3Config,
        embedded,
        model::{Base, EmbeddingNoise},
    };
    use halfbyte::{Cpu, ops::Noise};

    /// In what enters the first layer: alpha over the root of what the longest sequence has.
    #[test]
    fn noise_is_that_of_neftune() {
        let (cpu, dir) = (Cpu::new(), embedded::model());
        let (files, config) = (Checkpoint::open(&dir).unwrap(), Qwen3Config::open(&dir).unwrap());
        let model = Qwen3::<Cpu, f32>::load(&cpu, &files, &config, Base::Unquantized).unwrap();
        let ctx = ForwardContext::new(&cpu, None);
        let batch = Batch::of_prompts(&[vec![1, 2, 3], vec![4, 5]]);
        let mut acts = Activations::new(ctx, &model, 5, Keep::Residual).unwrap();
        let mut first = |noise| {
            model.forward(ForwardContext { noise, ..ctx }, &mut acts, &batch).unwrap();
            cpu.download(acts.residual.at(0).flat(5)).unwrap()
        };
        let without = first(None);
        let with = first(Some(EmbeddingNoise { alpha: 7.0, seed: 3, micro_batch: 2 }));
        let (hidden, mut largest) = (config.hidden_size, 0.0_f32);
        let bound = 7.0 / (3.0 * hidden as f32).sqrt();
        for (i, (with, without)) in with.iter().zip(&without).enumerate() {
            let (row, column) = (i / hidden, i % hidden);
            let noise = Noise::<Cpu, f32>::of(row as u32, column as u32 / 4, bound, 3, 0x2_ffff)[column % 4];
            // One rounded sum.
            assert!((with - without - noise).abs() <= with.abs().max(noise.abs()) * 2.0 * f32::EPSILON, "{i}");
            largest = largest.max(noise.abs());
        }
        assert!(largest <= bound && largest > 0.99 * bound, "{largest} of {bound}");
    }
}
