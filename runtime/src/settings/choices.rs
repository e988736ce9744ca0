//! Settings that have one of a few values.

use super::values::Value;
use crate::error::{Error, Result};
use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

/// How an answer is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// The option that the model finds most likely.
    #[default]
    Likelihood,
    /// The letter in what the model writes.
    Generate,
}

/// A module that is trained whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whole {
    /// The output head.
    LmHead,
}

/// What training keeps of the forward pass for the backward pass. The adapter comes out the same, to the bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActivationMemory {
    /// Of each layer as much as fits into what is free.
    #[default]
    Auto,
    /// All that the backward pass reads.
    Full,
    /// The same without gate and up, half of it.
    MlpRecompute,
    /// What enters each layer.
    Checkpoint,
    /// The same in the host's memory, and the embedding, where it is not the output head.
    Offload,
}

/// AdamW, and how it keeps its moments; where they lie does not change the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Optim {
    /// In 32 bits.
    #[default]
    AdamW,
    /// In 8 bits, as bitsandbytes does it, but for tensors of fewer than 4096 numbers.
    AdamW8bit,
    /// In 32 bits, in the host's memory.
    PagedAdamW,
    /// In 8 bits, in the host's memory.
    PagedAdamW8bit,
}

impl Optim {
    /// Whether moments of large tensors are in 8 bits.
    pub fn in_8_bits(self) -> bool {
        matches!(self, Optim::AdamW8bit | Optim::PagedAdamW8bit)
    }

    /// Whether moments lie in the host's memory.
    pub fn on_host(self) -> bool {
        matches!(self, Optim::PagedAdamW | Optim::PagedAdamW8bit)
    }
}

/// How a record of training data says what is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DataFormat {
    /// `{"text"}`: all of it is trained.
    Text,
    /// `{"prompt", "completion"}`, both texts or both lists of messages: the completion is trained.
    PromptCompletion,
    /// `{"messages": [{"role", "content"}]}`: the assistant's turns are trained.
    Messages,
    /// `{"conversations": [{"from", "value"}]}`: the turns of `gpt` are trained.
    ShareGpt,
    /// `{"instruction", "input", "output"}`: the output is trained.
    Alpaca,
    /// `{"question", "options", "answer"}`, or lawqa_jp's keys: the text of the right option is trained.
    MultipleChoice,
}

/// Which micro-batch a sample is packed into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackingStrategy {
    /// The first that has room, in the order of the epoch.
    #[default]
    FirstFit,
    /// The fullest that has room, longest samples first (best-fit decreasing).
    BestFit,
}

/// Which ends of turns are trained, by axolotl's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrainOnEos {
    /// Those of the turns that are trained.
    #[default]
    Turn,
    /// The last one of the conversation, whoever speaks.
    Last,
    /// All of them, whoever speaks.
    All,
    /// None.
    None,
}

/// Where a run goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resume {
    /// From the newest checkpoint in the output folder; without one it begins.
    Auto,
    /// From the checkpoint in this folder.
    From(PathBuf),
}

/// Where events for TensorBoard go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorBoard {
    /// Nowhere: there are none.
    #[default]
    Off,
    /// The folder `tensorboard` of the output folder.
    InOutput,
    /// This folder.
    At(PathBuf),
}

impl TensorBoard {
    /// The folder, of a run with this output folder.
    pub fn dir(&self, output: &Path) -> Option<PathBuf> {
        match self {
            TensorBoard::Off => None,
            TensorBoard::InOutput => Some(output.join("tensorboard")),
            TensorBoard::At(dir) => Some(dir.clone()),
        }
    }
}

/// What becomes of a sample longer than the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlong {
    /// It is an error.
    #[default]
    Error,
    /// Its first tokens are kept; it is left out if none of them is trained.
    Truncate,
    /// It is left out.
    Skip,
}

/// The shape of a schedule after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleKind {
    /// Falls linearly to zero at the last step (`get_linear_schedule_with_warmup`).
    Linear,
    /// Falls along half a cosine to zero at the last step (`get_cosine_schedule_with_warmup`).
    Cosine,
    /// The same, to a lowest rate (`get_cosine_with_min_lr_schedule_with_warmup`).
    CosineWithMinLr,
    /// Stays, and falls along half a cosine in the last steps (`get_wsd_schedule`).
    WarmupStableDecay,
    /// Falls as a power of the steps that are left (`get_polynomial_decay_schedule_with_warmup`).
    Polynomial,
    /// Stays (`get_constant_schedule_with_warmup`).
    Constant,
}

impl FromStr for ScheduleKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::setting("lr scheduler type", name, format!("it must be {}", Self::wanted(None)));
        Self::parse(name, None).ok_or_else(unknown)
    }
}
