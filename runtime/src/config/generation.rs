use std::path::Path;

use super::keys::Keys;
use crate::error::{Error, Result};
use crate::options::{self, Range};
use crate::{files, json};

/// The defaults for generating text that a checkpoint brings along (`generation_config.json`).
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The padding token.
    pub pad_token_id: Option<u32>,
    /// Whether to sample; the most probable token is taken otherwise.
    pub do_sample: Option<bool>,
    /// Divides the logits; above 0.
    pub temperature: Option<f32>,
    /// Sample among this many of the most probable tokens; 0 is all.
    pub top_k: Option<usize>,
    /// Sample among the fewest tokens whose probabilities reach this sum; above 0, at most 1.
    pub top_p: Option<f32>,
    /// Sample among tokens with at least this share of the highest probability; from 0 to 1.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that came before, if they are positive, and multiplies them otherwise; above 0.
    pub repetition_penalty: Option<f32>,
    /// How many tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// Keys that would change what transformers generates and cannot be followed here, for a note to the user.
    pub ignored: Vec<String>,
}

/// Keys that say nothing about how to generate.
const HARMLESS: [&str; 6] = [
    "_from_model_config",
    "bos_token_id",
    "output_attentions",
    "output_hidden_states",
    "transformers_version",
    "use_cache",
];
/// Keys that change nothing as transformers has them by default.
const DEFAULTS: [(&str, f64); 17] = [
    ("num_beams", 1.0),
    ("num_beam_groups", 1.0),
    ("num_return_sequences", 1.0),
    ("length_penalty", 1.0),
    ("diversity_penalty", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("min_length", 0.0),
    ("early_stopping", 0.0),
    ("remove_invalid_values", 0.0),
    ("output_scores", 0.0),
    ("output_logits", 0.0),
    ("return_dict_in_generate", 0.0),
];
const READ: [&str; 9] = [
    "eos_token_id",
    "pad_token_id",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
];

impl GenerationConfig {
    /// Reads `generation_config.json` of a checkpoint's folder; all defaults where there is none.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("generation_config.json");
        if files::exists(&path) { Self::parse(&path, &files::read_to_string(&path)?) } else { Ok(Self::default()) }
    }

    /// Parses the text of a `generation_config.json`; `path` is for the errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let value = json::parse(text.as_bytes()).map_err(Error::json(path))?;
        let keys = Keys::new(path, &value)?;
        let float = |key, range: &Range| -> Result<Option<f32>> {
            let value = keys.number(key)?;
            keys.in_range(key, range, value)?;
            Ok(value.map(|v| v as f32))
        };
        let config = Self {
            eos_token_ids: keys.token_ids("eos_token_id")?,
            pad_token_id: keys.get("pad_token_id", "a token id")?,
            do_sample: keys.get("do_sample", "true or false")?,
            temperature: float("temperature", &options::TEMPERATURE)?,
            top_k: keys.get("top_k", "a whole number")?,
            top_p: float("top_p", &options::TOP_P)?,
            min_p: float("min_p", &options::MIN_P)?,
            repetition_penalty: float("repetition_penalty", &options::REPETITION_PENALTY)?,
            max_new_tokens: keys.get("max_new_tokens", "a whole number")?,
            ignored: keys.others_but(&[&HARMLESS[..], &READ[..]].concat(), &DEFAULTS),
        };
        keys.in_range("top_k", &options::TOP_K, config.top_k)?;
        keys.in_range("max_new_tokens", &options::MAX_NEW_TOKENS, config.max_new_tokens)?;
        Ok(config)
    }

    /// Which keys of it cannot be followed, for the user.
    pub fn note(&self) -> Option<String> {
        let keys = self.ignored.join(", ");
        (!keys.is_empty())
            .then(|| format!("generation_config.json: not followed here, though it would change the text: {keys}"))
    }
}
