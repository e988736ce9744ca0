//! The range of every number that a user can set: what programs take, and what this library checks again.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The values that a setting may have.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The setting, for errors.
    pub name: &'static str,
    low: f64,
    high: f64,
    /// Whether the bounds themselves are left out.
    open: [bool; 2],
    /// Whether 0, which is outside, has a meaning of its own.
    or_zero: bool,
}

/// From `low` to `high`, both included.
const fn closed(name: &'static str, low: f64, high: f64) -> Range {
    Range { name, low, high, open: [false; 2], or_zero: false }
}

/// Above `low`, up to `high`.
const fn above(name: &'static str, low: f64, high: f64) -> Range {
    Range { name, low, high, open: [true, false], or_zero: false }
}

/// From `low` to below `high`.
const fn below(name: &'static str, low: f64, high: f64) -> Range {
    Range { name, low, high, open: [false, true], or_zero: false }
}

/// Peak learning rate.
pub const LEARNING_RATE: Range = closed("the learning rate", 0.0, 1e4);
/// Share of the steps in which the learning rate rises.
pub const WARMUP_RATIO: Range = closed("the warm-up ratio", 0.0, 1.0);
/// Share of the steps in which the learning rate falls at the end.
pub const DECAY_RATIO: Range = closed("the decay ratio", 0.0, 1.0);
/// Power of a polynomial schedule.
pub const LR_POWER: Range = above("the power of the schedule", 0.0, 100.0);
/// The learning rate of `B` over that of `A`.
pub const LORAPLUS_LR_RATIO: Range = above("the ratio of learning rates", 0.0, 1e6);
/// Decoupled weight decay.
pub const WEIGHT_DECAY: Range = closed("the weight decay", 0.0, 1e3);
/// Norm that gradients are scaled down to; 0 turns it off.
pub const MAX_GRAD_NORM: Range = closed("the largest gradient norm", 0.0, 1e9);
/// Noise on embeddings; 0 is none.
pub const NEFTUNE_ALPHA: Range = closed("neftune_alpha", 0.0, 1e6);
/// Steps of PiSSA's search, as in pissa_niter_16.
pub const PISSA_STEPS: Range = closed("the steps of pissa_niter", 0.0, 100.0);
/// Passes over the data.
pub const EPOCHS: Range = above("the number of epochs", 0.0, 1e6);
/// Steps.
pub const MAX_STEPS: Range = closed("the number of steps", 1.0, 1e9);
/// Samples of a micro-batch.
pub const BATCH_SIZE: Range = closed("the batch size", 1.0, 1e6);
/// Micro-batches of a step.
pub const ACCUMULATION: Range = closed("the gradient accumulation steps", 1.0, 1e6);
/// Tokens of the longest sample.
pub const MAX_SEQ_LENGTH: Range = closed("the longest sequence", 1.0, 1e7);
/// Steps between lines of progress.
pub const LOGGING_STEPS: Range = closed("the steps between lines of progress", 1.0, 1e9);
/// Steps between evaluations; 0 is none.
pub const EVAL_STEPS: Range = closed("the steps between evaluations", 0.0, 1e9);
/// Evaluations without a lower loss after which a run ends.
pub const EARLY_STOPPING_PATIENCE: Range = closed("the patience of early stopping", 1.0, 1e9);
/// Steps between checkpoints; 0 is none.
pub const SAVE_STEPS: Range = closed("the steps between checkpoints", 0.0, 1e9);
/// Minutes between checkpoints; 0 is none.
pub const SAVE_MINUTES: Range = closed("the minutes between checkpoints", 0.0, 1e6);
/// Checkpoints that are kept.
pub const SAVE_TOTAL_LIMIT: Range = closed("the number of checkpoints to keep", 1.0, 1e6);
/// Threads of the CPU.
pub const THREADS: Range = closed("the number of threads", 1.0, 1024.0);
/// Rank of an adapter.
pub const LORA_R: Range = closed("the rank of the adapter", 1.0, 65_536.0);
/// Scaling of an adapter times its rank.
pub const LORA_ALPHA: Range = above("lora_alpha", 0.0, 1e9);
/// Share of an adapter's inputs that training drops.
pub const LORA_DROPOUT: Range = below("lora_dropout", 0.0, 1.0);
/// How often an epoch has each sample of a file.
pub const DATA_WEIGHT: Range = above("the weight of data", 0.0, 100.0);
/// Tokens to generate.
pub const MAX_NEW_TOKENS: Range = closed("the number of new tokens", 1.0, 1e7);
/// Divides logits; 0 takes the most probable token. Much less than the least could take logits to infinity.
pub const TEMPERATURE: Range = Range { or_zero: true, ..closed("the temperature", 1e-6, 1e3) };
/// Choose among so many tokens; 0 is all.
pub const TOP_K: Range = closed("top_k", 0.0, 1e7);
/// Choose among the likeliest tokens with this probability together.
pub const TOP_P: Range = above("top_p", 0.0, 1.0);
/// Choose among tokens at least this share as likely as the likeliest.
pub const MIN_P: Range = closed("min_p", 0.0, 1.0);
/// Divides the logits of tokens that were there.
pub const REPETITION_PENALTY: Range = closed("the repetition penalty", 0.01, 100.0);
/// Passages to retrieve for a question.
pub const PASSAGES: Range = closed("the number of passages", 1.0, 1000.0);
/// Characters of a passage.
pub const CHUNK_SIZE: Range = closed("the chunk size", 2.0, 1e6);
/// Characters that a passage shares with the one before it.
pub const CHUNK_OVERLAP: Range = closed("the chunk overlap", 0.0, 5e5);
/// Tokens of all passages in a prompt.
pub const CONTEXT_TOKENS: Range = closed("the tokens of the context", 1.0, 1e7);
/// Sequences that are decoded together.
pub const SEQUENCES: Range = closed("the number of sequences", 1.0, 1e6);
/// Tokens of each prompt of a measurement.
pub const CONTEXT: Range = closed("the context", 1.0, 1e7);
/// Tokens of each sequence of a measurement: the first is never trained.
pub const TRAINED_LENGTH: Range = closed("the length of sequences", 2.0, 1e7);

/// Questions to ask.
pub const LIMIT: Range = closed("the limit of questions", 1.0, 1e9);

/// How much of an adapter to take.
pub const ADAPTER_WEIGHT: Range = closed("the weight of an adapter", -1e3, 1e3);
/// The share of an adapter's values that TIES keeps.
pub const DENSITY: Range = above("the density", 0.0, 1.0);
/// Megabytes of a checkpoint's file.
pub const SHARD_SIZE: Range = closed("the size of a file in MB", 1.0, 1e9);

/// A number that has a range.
pub trait Number: Copy + fmt::Display + FromStr {
    /// As f64; whole numbers too large for it become larger.
    fn value(self) -> f64;
    /// What its text must be.
    const KIND: &'static str;
}

macro_rules! numbers {
    ($($T:ty: $kind:literal),*) => {$(
        impl Number for $T {
            const KIND: &'static str = $kind;

            fn value(self) -> f64 {
                self as f64
            }
        }
    )*};
}

numbers!(f32: "a number", f64: "a number", usize: "a whole number", u64: "a whole number");

impl Range {
    pub(crate) fn holds(&self, value: f64) -> bool {
        let [low_open, high_open] = self.open;
        let above = if low_open { value > self.low } else { value >= self.low };
        let below = if high_open { value < self.high } else { value <= self.high };
        above && below || self.or_zero && value == 0.0
    }

    /// Refuses a value outside; NaN is outside of every range.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check<N: Number>(&self, value: N) -> Result<()> {
        if self.holds(value.value()) {
            return Ok(());
        }
        Err(Error::setting(self.name, value, format!("it must be {self}")))
    }

    /// A value from its text, for programs.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse<N: Number>(&self, text: &str) -> Result<N, String> {
        let value = text.parse::<N>().ok().filter(|value| self.holds(value.value()));
        value.ok_or_else(|| format!("it must be {}, {self}", N::KIND))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low_open, high_open] = self.open;
        let low = if low_open { "above" } else { "from" };
        let high = if high_open { "to below" } else { "to" };
        let zero = if self.or_zero { "0, or " } else { "" };
        write!(f, "{zero}{low} {} {high} {}", self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_in_or_out() {
        assert_eq!(LORA_DROPOUT.parse::<f32>("0"), Ok(0.0));
        assert!(LORA_DROPOUT.parse::<f32>("1").is_err());
        assert!(LORA_ALPHA.parse::<f64>("0").is_err());
        assert_eq!(TOP_P.parse::<f32>("1"), Ok(1.0));
        for text in ["nan", "inf", "-inf", "1e400", "-1", "", "x"] {
            for range in [LEARNING_RATE, MAX_GRAD_NORM, WEIGHT_DECAY, LORA_ALPHA, EPOCHS, TEMPERATURE] {
                assert!(range.parse::<f64>(text).is_err(), "{text} as {}", range.name);
            }
        }
        for text in ["0", "18446744073709551615", "4611686018427387904", "1.5"] {
            assert!(LORA_R.parse::<usize>(text).is_err(), "{text}");
        }
        assert_eq!(TEMPERATURE.parse::<f32>("0"), Ok(0.0));
        assert_eq!(TEMPERATURE.parse::<f32>("1e-38").unwrap_err(), "it must be a number, 0, or from 0.000001 to 1000");
        let message = LORA_DROPOUT.check(f32::NAN).unwrap_err().to_string();
        assert_eq!(message, "lora_dropout is NaN, but it must be from 0 to below 1");
    }
}
