//! Rows of the embedding and the head that an adapter trains: PEFT's `trainable_token_indices`.
//!
//! Their gradient is that of the whole table but for the other rows. A product with a one-hot matrix picks what belongs to
//! them, so that the ops of dense layers do the rest, in their order.

use super::{
    activations::{Activations, Gradients},
    context::ForwardContext,
    qwen3::Qwen3,
};
use crate::{
    error::{Error, Result},
    lora::{Adapter, DeviceAdapter, Layout, Table},
};
use halfbyte::{
    Backend, Float, Mat, View,
    ops::{GatherRows, LinearGrad, Op, WeightGrad},
};

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Puts an adapter into `backend`'s memory.
    ///
    /// # Errors
    /// The device has too little memory, or rows of the head are trained that are in 4 bits, or of an embedding that
    /// config.json ties to a head that is another.
    pub fn adapt(&self, backend: &B, adapter: &Adapter) -> Result<DeviceAdapter<B, T>> {
        let (layout, flat) = Layout::of(adapter)?;
        self.adapt_flat(backend, layout, &flat)
    }

    /// [`Self::adapt`] with the adapter laid out.
    pub(crate) fn adapt_flat(&self, backend: &B, layout: Layout, flat: &[f32]) -> Result<DeviceAdapter<B, T>> {
        let originals = layout.tokens.iter().map(|tokens| self.table(tokens.table)).collect::<Result<Vec<_>>>()?;
        let mut adapter = DeviceAdapter::new(backend, layout, flat, &originals)?;
        self.begin_norms(backend, &mut adapter)?;
        Ok(adapter)
    }

    /// A table of which an adapter may have rows.
    fn table(&self, table: Table) -> Result<View<'_, B, T>> {
        use super::Weight::{Dense, Quantized};
        let refuse = |reason: &str| Err(Error::Adapter { path: Default::default(), reason: reason.into() });
        match (table, &self.head) {
            (Table::Embedding, Some(_)) if self.config.tie_word_embeddings => refuse(
                "trainable_token_indices: config.json ties the head to the embedding, but the checkpoint has another; set \
                 `tie_word_embeddings` to false, or remove `lm_head.weight`",
            ),
            (Table::Head, Some(Quantized(_))) => {
                refuse("trainable_token_indices: the head is in 4 bits, and single rows of it cannot be replaced")
            }
            (Table::Head, Some(Dense(head))) => Ok(head.packed()),
            _ => Ok(self.embedding.view()),
        }
    }

    /// The embedding, `[vocab, hidden]`, with an adapter's rows.
    pub(super) fn embedding<'s>(&'s self, ctx: ForwardContext<'s, B, T>) -> Mat<'s, B, T> {
        self.as_table(ctx.adapter.and_then(DeviceAdapter::embedding).unwrap_or(self.embedding.view()))
    }

    /// The numbers of a table as one.
    pub(super) fn as_table<'s>(&self, table: View<'s, B, T>) -> Mat<'s, B, T> {
        Mat::new(table, self.config.vocab_size, self.config.hidden_size)
    }

    /// From the gradient of the embedding's output, in the residual stream's, to those of its rows or its adapter, which are
    /// added.
    pub(super) fn embedding_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        grads: &mut Gradients<B, T>,
    ) -> Result<()> {
        let n = acts.tokens.n;
        ctx.adapt_embedding_grad(acts, grads)?;
        for rows in grads.tokens.iter_mut().filter(|rows| rows.table == Table::Embedding) {
            let table = rows.one_hot.mat(self.config.vocab_size, rows.columns);
            GatherRows { table, rows: acts.tokens.ids(), out: rows.picked.rows_mut(n) }.run(ctx.backend)?;
            let d_weight = grads.adapter.at_mut(rows.range.clone());
            WeightGrad { x: grads.residual.rows(n), d_out: rows.picked.rows(n), d_weight }.run(ctx.backend)?;
        }
        Ok(())
    }

    /// Adds the gradients of the head's rows: of the head's input and the logits' gradient.
    pub(super) fn head_rows_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        normed: Mat<'_, B, T>,
        d_logits: Mat<'_, B, T>,
        grads: &mut Gradients<B, T>,
    ) -> Result<()> {
        let head = if self.head.is_some() { Table::Head } else { Table::Embedding };
        let [n, _] = normed.shape();
        for rows in grads.tokens.iter_mut().filter(|rows| rows.table == head) {
            let (weight, d_x) = (rows.one_hot.mat(d_logits.shape()[1], rows.columns), rows.picked.rows_mut(n));
            LinearGrad { d_out: d_logits, weight, d_x, accumulate: false }.run(ctx.backend)?;
            let d_weight = grads.adapter.at_mut(rows.range.clone());
            WeightGrad { x: normed, d_out: rows.picked.rows(n), d_weight }.run(ctx.backend)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::Checkpoint,
        config::Qwen3Config,
        lora::{LoraConfig, Targets, TrainableTokens},
        model::Base,
    };
    use halfbyte::{Cpu, quant::Format};
    use std::path::Path;

    #[test]
    fn rows_of_a_head_in_4_bits_are_refused() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden/qwen3-tiny/untied");
        let (config, files) = (Qwen3Config::open(&dir).unwrap(), Checkpoint::open(&dir).unwrap());
        let cpu = Cpu::new();
        let mut model = Qwen3::<_, f32>::load(&cpu, &files, &config, Base::Unquantized).unwrap();
        let mut lora = LoraConfig::new(8, 16.0, Targets::AllLinear);
        lora.trainable_tokens = TrainableTokens::from_text(r#"{"lm_head": [3]}"#).unwrap();
        let adapter = Adapter::init(lora, &config, &files, 0).unwrap();
        assert!(model.adapt(&cpu, &adapter).is_ok());
        model.quantize_head(&cpu, Format::Nf4, false).unwrap();
        let error = model.adapt(&cpu, &adapter).err().unwrap().to_string();
        assert!(error.contains("trainable_token_indices") && error.contains("4 bits"), "{error}");
    }
}
