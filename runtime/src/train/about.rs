//! What a run's metrics say beside its steps.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a run is: the first line of its metrics has it, so that they can be read without what made them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The version of halfbyte.
    pub version: String,
    /// The base model, as it was named.
    pub model: String,
    /// What computed.
    pub device: String,
    /// Steps that the settings ask for.
    pub total_steps: u64,
    /// Numbers that are trained.
    pub n_trainable: usize,
    /// Model, base, compute type, adapter and files of the data, a line for each.
    pub in_force: Vec<String>,
    /// The training data by numbers, likewise.
    pub data: Vec<String>,
    /// How many samples have so many tokens.
    pub lengths: Vec<Bin>,
    /// The memory that the run needs, buffer by buffer, as estimated.
    pub memory: Vec<Room>,
    /// All settings.
    pub settings: Map<String, Value>,
    /// Those of them that are not their defaults.
    pub changed: Vec<String>,
}

/// A bar of a histogram of lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bin {
    /// The fewest tokens.
    pub from: usize,
    /// The most.
    pub to: usize,
    /// Samples.
    pub n: usize,
}

/// What a buffer takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Room {
    /// What it is.
    pub name: String,
    /// How much.
    pub bytes: u64,
}

/// How the model went on from a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// The prompt, as it was given.
    pub prompt: String,
    /// What followed.
    pub text: String,
    /// Whether the model ended it, and not the limit of tokens.
    pub stopped: bool,
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let rest = if self.stopped { "" } else { " …" };
        write!(f, "{} -> {}{rest}", line(&self.prompt), line(&self.text))
    }
}

/// A sample that was hard to the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worst {
    /// Its number among the samples, counted from 1.
    pub sample: usize,
    /// The step in which it was last seen.
    pub step: u64,
    /// The mean loss of its targets then, in nats.
    pub loss: f64,
    /// How it begins.
    pub text: String,
}
