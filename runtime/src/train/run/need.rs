//! The memory that a run will need.

use super::prepared::Prepared;
use crate::{
    config::Qwen3Config,
    error::Result,
    llm::{AdapterRoom, base_bytes, held},
    lora::LoraConfig,
    model::{Base, Keep, Room},
    train::trainer::SHORTER,
};
use halfbyte::{Count, DType, Size};

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

/// What decides about the memory of a run.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// The model's shape.
    pub config: &'a Qwen3Config,
    /// How its linear layers are held.
    pub base: Base,
    /// The compute type.
    pub dtype: DType,
    /// The adapter.
    pub lora: &'a LoraConfig,
    /// Whether activations are computed again.
    pub gradient_checkpointing: bool,
    /// The most tokens of a micro-batch.
    pub capacity: usize,
    /// Tokens of an exam's longest question; 0 where there is none.
    pub exam_tokens: usize,
}

impl Extent<'_> {
    /// What the run takes on the device, small things not counted.
    ///
    /// # Errors
    /// The adapter has a target that cannot be trained, or no memory could hold it.
    pub fn need(&self) -> Result<Need> {
        let Extent { config, base, dtype, capacity: n, exam_tokens, .. } = *self;
        let AdapterRoom { numbers, tables, n_rows, xa_columns, room } = AdapterRoom::of(self.lora, config)?;
        let room = Room { config, xa_columns, room, size: dtype.bytes() };
        let keep = if self.gradient_checkpointing { Keep::Residual } else { Keep::Everything };
        let exam = match exam_tokens {
            0 => 0,
            n => room.activations(n, Keep::Nothing) + room.loss(n),
        };
        // Rows of tokens find their gradients by a product with rows of the vocabulary, and of a micro-batch.
        let picked = (config.vocab_size + n) * n_rows * dtype.bytes();
        Ok(Need {
            base: base_bytes(config, base, false, dtype),
            // Weights, gradient and two moments are f32 whatever the model computes in.
            adapter: numbers * (4 * size_of::<f32>() + dtype.bytes()) + tables * dtype.bytes(),
            activations: room.activations(n, keep) + room.gradients(n) + room.loss(n) + picked + exam,
        })
    }
}

impl Prepared {
    /// What the run will take on the device.
    ///
    /// # Errors
    /// Those of [`Extent::need`].
    pub fn need(&self) -> Result<Need> {
        let Prepared { config, settings, lora, capacity, texts, .. } = self;
        let extent = Extent {
            config,
            base: held(settings.base(), self.files.quantized_as()),
            dtype: settings.bnb_4bit_compute_dtype,
            lora,
            gradient_checkpointing: settings.gradient_checkpointing,
            capacity: *capacity,
            exam_tokens: if texts.questions.is_some() { texts.exam_tokens } else { 0 },
        };
        extent.need()
    }

    /// Compares what the run will take with what is free on the device, as far as that is known before a GPU is opened,
    /// and says how it stands.
    ///
    /// # Errors
    /// So much is not free, or as for [`Prepared::need`].
    pub fn expect_room(&self) -> Result<String> {
        self.settings.device.expect_room(self.need()?.total(), SHORTER)
    }

    /// What is known without having loaded weights.
    ///
    /// # Errors
    /// The samples come to no step, or as for [`Prepared::need`].
    pub fn check(&self) -> Result<String> {
        let (need, steps) = (self.need()?, self.batcher()?.total_steps());
        self.settings.trainer(self.capacity, steps)?;
        let [all, base, adapter, activations] =
            [need.total(), need.base, need.adapter, need.activations].map(|bytes| Size(bytes as u64));
        Ok(format!(
            "checked: {}; {}\n\
             memory: about {all}: {base} for the base, {adapter} for the adapter and its optimiser, {activations} for \
             activations of up to {} at once",
            self.texts.train.told(),
            Count(steps, "step"),
            Count(self.capacity, "token")
        ))
    }
}
