//! The memory that a run will need.

use super::Prepared;
use crate::{
    Result,
    config::Module,
    llm::base_bytes,
    lora::Layout,
    model::{Keep, Room},
};
use halfbyte::{Size, elements};

/// Bytes on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The base's weights.
    pub base: usize,
    /// The adapter, its gradient and the optimiser's moments, and copies of tables in which it has rows.
    pub adapter: usize,
    /// Activations and their gradients, the logits, and what an exam takes beside them.
    pub activations: usize,
}

impl Need {
    /// All together.
    pub fn total(&self) -> usize {
        self.base + self.adapter + self.activations
    }
}

impl Prepared {
    /// What the run will take on the device, small things not counted.
    ///
    /// # Errors
    /// The adapter has a target that cannot be trained, or no memory could hold it.
    pub fn need(&self) -> Result<Need> {
        let (config, settings, dtype) = (&self.config, &self.settings, self.settings.bnb_4bit_compute_dtype);
        let head = self.lora.save_lm_head.then(|| elements::<f32>(&config.shape(Module::LmHead))).transpose()?;
        let layout = Layout::new(self.lora.resolve(config)?, head)?;
        let tokens = self.lora.tokens(config)?;
        // Rows of tokens lie in a copy of their table, and a product with another of such height finds their gradients.
        let columns = |ids: &[u32]| ids.len().next_multiple_of(8);
        let n_rows: usize = tokens.iter().map(|(_, ids)| columns(ids)).sum();
        let numbers = layout.len + n_rows * config.hidden_size;
        let tables = (tokens.len() * config.hidden_size + n_rows) * config.vocab_size * dtype.bytes();
        let room = Room { config, xa_columns: layout.xa_columns, size: dtype.bytes() };
        let keep = if settings.gradient_checkpointing { Keep::Residual } else { Keep::Everything };
        let n = self.capacity;
        let picked = n * n_rows * dtype.bytes();
        let exam = match &self.texts.questions {
            Some(_) => room.activations(self.texts.exam_tokens, Keep::Nothing) + room.loss(self.texts.exam_tokens),
            None => 0,
        };
        Ok(Need {
            base: base_bytes(config, self.files.quantized_as(), settings.base(), dtype),
            // Weights, gradient and two moments are f32 whatever the model computes in.
            adapter: numbers * (4 * size_of::<f32>() + dtype.bytes()) + tables,
            activations: room.activations(n, keep) + room.gradients(n) + room.loss(n) + picked + exam,
        })
    }

    /// What is known without having loaded weights.
    ///
    /// # Errors
    /// The samples come to no step, or as for [`Prepared::need`].
    pub fn check(&self) -> Result<String> {
        let (need, steps, train) = (self.need()?, self.batcher()?.total_steps(), &self.texts.train);
        self.settings.trainer(self.capacity, steps)?;
        let [all, base, adapter, activations] =
            [need.total(), need.base, need.adapter, need.activations].map(|bytes| Size(bytes as u64));
        let (samples, tokens, targets, most) =
            (train.samples.len(), train.n_tokens(), train.n_targets(), self.capacity);
        Ok(format!(
            "checked: {samples} samples, {tokens} tokens ({targets} trained on); {steps} steps\n\
             memory: about {all}: {base} for the base, {adapter} for the adapter and its optimiser, {activations} for \
             activations of up to {most} tokens at once",
        ))
    }
}
