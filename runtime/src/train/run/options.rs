//! From the settings of a run to the options of what it is made of.

use crate::{
    error::Result,
    model::Kept,
    settings::TrainSettings,
    train::{
        packing::{BatchOptions, TrainLength},
        schedule::{Fall, Schedule, Warmup},
        trainer::{OptimizerOptions, TrainerOptions},
    },
};

impl TrainSettings {
    /// How samples become micro-batches and steps.
    pub fn batches(&self) -> BatchOptions {
        let (epochs, batch_size) = if self.embedded() { (8.0, 16) } else { (3.0, 4) };
        let epochs = TrainLength::Epochs(self.epochs.unwrap_or(epochs));
        BatchOptions {
            batch_size: self.batch_size.unwrap_or(batch_size),
            max_seq_length: self.max_seq_length,
            packing: self.packing,
            packing_strategy: self.packing_strategy,
            gradient_accumulation_steps: self.gradient_accumulation_steps,
            shuffle: true,
            seed: self.seed,
            length: self.max_steps.map_or(epochs, TrainLength::Steps),
        }
    }

    /// How the trainer runs, with micro-batches of up to `capacity` tokens of which so much is kept.
    ///
    /// # Errors
    /// The schedule makes no sense.
    pub fn trainer(&self, capacity: usize, kept: Kept, total_steps: u64) -> Result<TrainerOptions> {
        let learning_rate = self.learning_rate.unwrap_or(if self.embedded() { 5e-3 } else { 2e-4 });
        let warmup = Warmup::Ratio(self.warmup_ratio);
        let fall = Fall { min_lr: self.min_lr, decay_ratio: self.decay_ratio, power: self.lr_power };
        Ok(TrainerOptions {
            capacity,
            kept,
            schedule: Schedule::new(self.lr_scheduler_type, learning_rate, warmup, total_steps)?.falling(fall)?,
            optimizer: OptimizerOptions {
                optim: self.optim,
                lora_plus: self.loraplus_lr_ratio,
                weight_decay: self.weight_decay,
                max_grad_norm: self.max_grad_norm,
                ..OptimizerOptions::default()
            },
            seed: self.seed,
        })
    }
}
