//! What exports are told, in code and on a command line.

use std::path::{Path, PathBuf};

use clap::Args;
use halfbyte::{DType, quant::Format};

use super::combine::{Combination, MajoritySign, Ties, Weighted, combine};
use super::compressed::{CompressedReport, GROUP_SIZES, export as export_compressed};
use super::gguf::{GgufReport, GgufType, export_adapter, export_model};
use super::merge::{MergeReport, merge};
use super::watch::Watch;
use crate::config::Qwen3Config;
use crate::embedded::EMBEDDED;
use crate::error::{Error, Result};
use crate::hub;
use crate::lora::Adapter;
use crate::options::{ADAPTER_WEIGHT, DENSITY, SHARD_SIZE};
use crate::settings::{Value, parse};

/// Adapters, and how several become one.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct AdapterSettings {
    /// Folder of a PEFT adapter; several are combined
    #[arg(long, alias = "adapter")]
    pub lora_path: Vec<PathBuf>,
    /// How much of each adapter to take, separated by commas [default: 1 each]
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    #[arg(value_parser = |text: &str| ADAPTER_WEIGHT.parse::<f64>(text))]
    pub weights: Vec<f64>,
    /// How several become one: cat (the exact sum), linear or ties, as PEFT has them [default: cat]
    #[arg(long, alias = "combination-type", value_parser = parse::<Combination>)]
    pub combination: Option<Combination>,
    /// The share of each adapter's values that ties keeps, above 0 to 1
    #[arg(long, value_parser = |text: &str| DENSITY.parse::<f64>(text))]
    pub density: Option<f64>,
    /// The sign that ties agrees on: total (of the sum) or frequency (of the most) [default: total]
    #[arg(long, alias = "majority-sign-method", value_parser = parse::<MajoritySign>)]
    pub majority_sign: Option<MajoritySign>,
}

impl AdapterSettings {
    /// One adapter as it is.
    pub fn one(path: impl Into<PathBuf>) -> Self {
        AdapterSettings { lora_path: vec![path.into()], ..AdapterSettings::default() }
    }

    /// The adapters as one, with what the user should know of each; none where none is named.
    pub(super) fn open(&self, model: &Qwen3Config, watch: &mut dyn Watch) -> Result<Option<Adapter>> {
        self.check()?;
        let mut all = self.lora_path.iter().map(|path| open(path, model, watch)).collect::<Result<Vec<_>>>()?;
        let weights = if self.weights.is_empty() { vec![1.0; all.len()] } else { self.weights.clone() };
        if all.is_empty() || weights == [1.0] {
            return Ok(all.pop());
        }
        let how = self.combination.unwrap_or_default();
        let ties = Ties { density: self.density.unwrap_or(1.0), sign: self.majority_sign.unwrap_or_default() };
        let by = if how == Combination::Ties { format!(", by {}", ties.sign.show()) } else { String::new() };
        watch.say(&format!("combined: {}, with weights {weights:?}{by}", how.show()));
        let parts: Vec<_> = all.iter().zip(weights).map(|(adapter, weight)| Weighted { adapter, weight }).collect();
        combine(&parts, how, ties).map(Some)
    }

    /// The same where at least one must be named.
    pub(super) fn expect(&self, model: &Qwen3Config, watch: &mut dyn Watch) -> Result<Adapter> {
        let none = || Error::setting("the adapter", "missing", "name at least one (--lora-path)");
        self.open(model, watch)?.ok_or_else(none)
    }

    /// Refuses what would have no effect, and what is missing.
    fn check(&self) -> Result<()> {
        let n = self.lora_path.len();
        let ties = self.combination == Some(Combination::Ties);
        let needs_ties = "only ties (--combination ties) has one; leave it out";
        refuse_idle(&[
            ("the combination", self.combination.is_some() && n < 2, "one adapter needs none; leave it out"),
            ("the density", self.density.is_some() && !ties, needs_ties),
            ("the majority sign", self.majority_sign.is_some() && !ties, needs_ties),
        ])?;
        if ties && self.density.is_none() {
            return Err(Error::setting("the density", "missing", "ties needs it (--density 0.2 keeps a fifth)"));
        }
        if !self.weights.is_empty() && self.weights.len() != n {
            let want = format!("there must be {n}, one for each adapter");
            return Err(Error::setting("the number of weights", self.weights.len(), want));
        }
        Ok(())
    }
}

/// Refuses the first setting that is set but idle: its name, whether it is, and what to do.
pub(crate) fn refuse_idle(settings: &[(&'static str, bool, &str)]) -> Result<()> {
    match settings.iter().find(|(_, idle, _)| *idle) {
        Some((name, _, advice)) => Err(Error::setting(name, "set", format!("it has no effect: {advice}"))),
        None => Ok(()),
    }
}

/// An adapter, with what the user should know of it.
fn open(path: &Path, model: &Qwen3Config, watch: &mut dyn Watch) -> Result<Adapter> {
    let (adapter, note) = Adapter::open(&hub::adapter(path)?, model)?;
    note.iter().for_each(|note| watch.note(note));
    let base = adapter.config.base_model.as_deref().unwrap_or("a model that it does not name");
    watch.say(&format!("adapter {}, trained on {base}", path.display()));
    Ok(adapter)
}

/// A merge: which adapters go into which checkpoint, and how the outcome is written.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct MergeSettings {
    /// Folder of the Hugging Face Qwen3 checkpoint that the adapter was trained on, in 4 bits or not, or `embedded`
    #[arg(long, alias = "model", default_value = EMBEDDED)]
    pub model_name: String,
    /// The adapters
    #[command(flatten)]
    pub adapters: AdapterSettings,
    /// Folder for the merged checkpoint; it must have none yet
    #[arg(long, alias = "output-dir")]
    pub output: PathBuf,
    /// bfloat16, float16 or float32 [default: what config.json says]
    #[arg(long, alias = "torch-dtype", value_parser = parse::<DType>)]
    pub dtype: Option<DType>,
    /// Megabytes of a file before another is begun
    #[arg(long, default_value_t = 5000, value_parser = |text: &str| SHARD_SIZE.parse::<u64>(text))]
    pub max_shard_size: u64,
    /// Write the merged weights in 4 bits; how much that rounding changes them is measured
    #[arg(long, alias = "load-in-4bit")]
    pub use_4bit: bool,
    /// nf4 or fp4, with --use-4bit [default: nf4]
    #[arg(long, value_parser = parse::<Format>)]
    pub bnb_4bit_quant_type: Option<Format>,
    /// Quantise the scales too, with --use-4bit: true or false [default: true]
    #[arg(long, value_parser = parse::<bool>, num_args = 0..=1, default_missing_value = "true")]
    pub bnb_4bit_use_double_quant: Option<bool>,
}

impl MergeSettings {
    /// The defaults, with the adapters and a folder to write into.
    pub fn new(adapters: AdapterSettings, output: impl Into<PathBuf>) -> Self {
        MergeSettings {
            model_name: EMBEDDED.into(),
            adapters,
            output: output.into(),
            dtype: None,
            max_shard_size: 5000,
            use_4bit: false,
            bnb_4bit_quant_type: None,
            bnb_4bit_use_double_quant: None,
        }
    }

    /// Merges as they say; `None` where `watch` broke it off.
    ///
    /// # Errors
    /// A setting is bad or has no effect; the checkpoint or an adapter is damaged or incomplete, or they do not belong
    /// together; an adapter has something that one checkpoint cannot have; the output folder has a checkpoint or cannot
    /// take it. Nothing is left in it then.
    pub fn run(&self, watch: &mut dyn Watch) -> Result<Option<MergeReport>> {
        refuse_idle(&[
            ("the 4-bit type", self.bnb_4bit_quant_type.is_some() && !self.use_4bit, "say --use-4bit, too"),
            ("double quantisation", self.bnb_4bit_use_double_quant.is_some() && !self.use_4bit, "say --use-4bit, too"),
        ])?;
        SHARD_SIZE.check(self.max_shard_size)?;
        merge(self, watch)
    }
}

/// A GGUF file for llama.cpp: of a model, or of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufSettings {
    /// Folder of a Hugging Face Qwen3 checkpoint, in 4 bits or not, or `embedded`
    pub model_name: String,
    /// Adapters that are merged into the model
    pub adapters: AdapterSettings,
    /// The file to write; it must not exist yet
    pub output: PathBuf,
    /// How it stores a model \[default: f16, and f32 for an adapter\]
    pub format: Option<GgufType>,
    /// Write the adapter alone, which llama.cpp adds to a model while that runs
    pub adapter_only: bool,
}

impl GgufSettings {
    /// The embedded model in f16, with a file to write.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        GgufSettings {
            model_name: EMBEDDED.into(),
            adapters: AdapterSettings::default(),
            output: output.into(),
            format: None,
            adapter_only: false,
        }
    }

    /// Writes the file; `None` where `watch` broke it off.
    ///
    /// # Errors
    /// A setting is bad or has no effect; the checkpoint, its tokenizer or an adapter is damaged, incomplete or nothing that
    /// GGUF can hold; the file exists or cannot be written. Nothing is left behind then.
    pub fn run(&self, watch: &mut dyn Watch) -> Result<Option<GgufReport>> {
        if self.adapter_only { export_adapter(self, watch) } else { export_model(self, watch) }
    }
}

/// A checkpoint for vLLM and transformers, whose linear layers compressed-tensors packed into 4 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct CompressedSettings {
    /// Folder of a Hugging Face Qwen3 checkpoint, in 4 bits or not, or `embedded`
    pub model_name: String,
    /// Adapters that are merged into the model
    pub adapters: AdapterSettings,
    /// The folder to write; it must have no checkpoint yet
    pub output: PathBuf,
    /// Weights that share a scale: 32, 64 or 128
    pub group_size: usize,
    /// Megabytes of a file before another is begun
    pub max_shard_size: u64,
}

impl CompressedSettings {
    /// The embedded model in groups of 128, with a folder to write.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        CompressedSettings {
            model_name: EMBEDDED.into(),
            adapters: AdapterSettings::default(),
            output: output.into(),
            group_size: 128,
            max_shard_size: 5000,
        }
    }

    /// Writes the checkpoint; `None` where `watch` broke it off.
    ///
    /// # Errors
    /// A setting is bad or has no effect; the checkpoint or an adapter is damaged, incomplete, or has layers that are no whole
    /// groups; the output folder has a checkpoint or cannot take it. Nothing is left in it then.
    pub fn run(&self, watch: &mut dyn Watch) -> Result<Option<CompressedReport>> {
        if !GROUP_SIZES.contains(&self.group_size) {
            return Err(Error::setting("the group size", self.group_size, "must be 32, 64 or 128"));
        }
        SHARD_SIZE.check(self.max_shard_size)?;
        export_compressed(self, watch)
    }
}
