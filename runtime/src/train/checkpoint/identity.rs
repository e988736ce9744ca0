//! What a run is made of, by which a checkpoint knows its own.

use crate::{
    batch::Sample,
    checkpoint::{Checkpoint, TensorRef},
    error::{Error, Result},
    files,
    lora::LoraConfig,
    settings::{Optim, Section, TrainSettings},
    train::packing::Share,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Settings that may differ when a run goes on: they say where things are, what is told or how it is computed, and the
/// adapter is the same. What the files have that they name is compared.
const FREE: [&str; 21] = [
    "model_name",
    "data",
    "eval_data",
    "exam",
    "auto_batch_size",
    "no_cache",
    "output",
    "push_to_hub",
    "overwrite",
    "activation_memory",
    "gradient_checkpointing",
    "device",
    "threads",
    "logging_steps",
    "log_sample_losses",
    "sample_prompts",
    "tensorboard",
    "save_steps",
    "save_minutes",
    "save_total_limit",
    "resume",
];

/// What decides how a run ends. Hashes are SHA-256 in hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Settings by their names.
    settings: BTreeMap<String, String>,
    /// The adapter's configuration.
    adapter: String,
    /// The tokens to train on.
    data: String,
    /// The tokens to evaluate on.
    eval_data: Option<String>,
    /// The base model.
    base: String,
}

/// What an [`Identity`] is made of.
pub(crate) struct Parts<'a> {
    pub settings: &'a TrainSettings,
    pub lora: &'a LoraConfig,
    pub train: &'a [Sample],
    /// How often an epoch has them.
    pub shares: Vec<Share>,
    pub heldout: Option<&'a [Sample]>,
    pub base: &'a Checkpoint,
}

impl Identity {
    /// Reads all samples, and of the base what [`hash_base`] does.
    pub fn of(parts: &Parts<'_>) -> Result<Self> {
        let names = parts.settings.fields().into_iter().map(|field| field.name).filter(|name| !FREE.contains(name));
        // Where moments lie decides nothing.
        let optim = if parts.settings.optim.in_8_bits() { Optim::AdamW8bit } else { Optim::AdamW };
        let settings = TrainSettings { optim, ..parts.settings.clone() };
        let settings = names.filter_map(|name| Some((name.into(), settings.show(name)?))).collect();
        let mut lora = parts.lora.clone();
        // Where the model lies decides nothing.
        lora.base_model = None;
        Ok(Identity {
            settings,
            adapter: hex(Sha256::digest(lora.to_json())),
            data: hash_data(parts.train, &parts.shares),
            eval_data: parts.heldout.map(hash_samples),
            base: hash_base(parts.base)?,
        })
    }

    /// The text of a setting that decides how a run ends.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// What is another in `now`, each as a sentence's part.
    pub fn differences(&self, now: &Identity) -> Vec<String> {
        let defaults = TrainSettings::default();
        let value = |of: &Identity, name: &str| of.settings.get(name).cloned().or_else(|| defaults.show(name));
        let names: BTreeSet<_> = self.settings.keys().chain(now.settings.keys()).collect();
        let told = names.into_iter().filter_map(|name| {
            let (was, is) = (value(self, name), value(now, name));
            let show = |value: Option<String>| value.unwrap_or_else(|| "unknown here".into());
            (was != is).then(|| format!("{name} was {} and is {}", show(was), show(is)))
        });
        let mut told: Vec<_> = told.collect();
        if told.is_empty() && self.adapter != now.adapter {
            told.push("the adapter's configuration is another one".into());
        }
        let parts = [
            ("the data to train on", self.data != now.data),
            ("the held-out data", self.eval_data != now.eval_data),
            ("the base model", self.base != now.base),
        ];
        told.extend(parts.into_iter().filter(|(_, other)| *other).map(|(name, _)| format!("{name} is another one")));
        told
    }
}

/// Samples, and how often an epoch has them.
fn hash_data(samples: &[Sample], shares: &[Share]) -> String {
    let mut hash = Sha256::new();
    hash.update(hash_samples(samples));
    for Share { n_samples, weight } in shares {
        hash.update((*n_samples as u64).to_le_bytes());
        hash.update(weight.to_le_bytes());
    }
    hex(hash.finalize())
}

/// Tokens, and which of them are targets; parts of so many samples on all cores.
fn hash_samples(samples: &[Sample]) -> String {
    const PART: usize = 4096;
    let part = |samples: &[Sample]| {
        let mut hash = Sha256::new();
        for Sample { ids, mask } in samples {
            hash.update((ids.len() as u64).to_le_bytes());
            hash.update(bytemuck::cast_slice::<u32, u8>(ids));
            hash.update(bytemuck::cast_slice::<bool, u8>(mask));
        }
        hash.finalize().to_vec()
    };
    let parts: Vec<_> = samples.par_chunks(PART).map(part).collect();
    hex(Sha256::digest(parts.concat()))
}

/// The configuration, and of each tensor its name, type, shape and a part of its bytes: a model that was trained further,
/// or quantised otherwise, differs in all of them, and 16 GB need not be read for it.
fn hash_base(base: &Checkpoint) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(files::read(&base.dir().join("config.json"))?);
    let names: Vec<_> = base.names().collect();
    let tensors = names.par_iter().map(|name| base.tensor(name).map(|tensor| hash_tensor(&tensor)));
    tensors.collect::<Result<Vec<_>, Error>>()?.iter().for_each(|tensor| hash.update(tensor));
    Ok(hex(hash.finalize()))
}

fn hash_tensor(tensor: &TensorRef<'_>) -> [u8; 32] {
    // So many pieces of this size, evenly spread from the first byte to the last.
    const PIECES: usize = 16;
    const PIECE: usize = 4096;
    let mut hash = Sha256::new();
    hash.update(format!("{} {:?} {:?}", tensor.name, tensor.dtype, tensor.shape));
    let last = tensor.data.len().saturating_sub(PIECE);
    for piece in 0..PIECES {
        let rest = &tensor.data[last * piece / (PIECES - 1)..];
        hash.update(&rest[..rest.len().min(PIECE)]);
    }
    hash.finalize().into()
}

fn hex(hash: impl AsRef<[u8]>) -> String {
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
