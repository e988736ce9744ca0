//! `config.json`.

use std::path::Path;

use halfbyte::DType;

use super::dtype::dtype_by_name;
use super::keys::Keys;
use super::quantization::QuantizationConfig;
use super::rope::Rope;
use crate::error::{Error, Result};
use crate::{files, json};

/// The shape of a dense Qwen3 model.
///
/// Source: transformers' `configuration_qwen3.py`. Whatever a `config.json` asks for beyond these fields and would
/// change the result (other activations, biases, sliding windows, other RoPE scalings) is refused when it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Qwen3Config {
    /// Rows of the embedding; may exceed the tokenizer's tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width between the MLP's projections.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head; even. `n_heads · head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// The positions that the model was made for.
    pub max_position_embeddings: usize,
    /// ε of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Rotary embedding.
    pub rope: Rope,
    /// The type that unquantised weights were saved in, where the file says so.
    pub dtype: Option<DType>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The padding token.
    pub pad_token_id: Option<u32>,
    /// How the file says that the weights are quantised. For people only: each tensor tells for itself.
    pub quantization: Option<QuantizationConfig>,
}

impl Qwen3Config {
    /// Reads `config.json` of a checkpoint's folder.
    pub fn open(dir: &Path) -> Result<Self> {
        // The first file of a checkpoint that is read: a save that was cut short is ended before.
        files::read_together(dir, &["config.json"], || Self::read(dir))
    }

    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        if !files::exists(&path) {
            let hint = "give the folder of a Hugging Face Qwen3 checkpoint";
            return Err(Error::MissingFile { dir: dir.to_owned(), wanted: "config.json".into(), hint });
        }
        Self::parse(&path, &files::read_to_string(&path)?)
    }

    /// Parses the text of a `config.json`; `path` is for the errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let value = json::parse(text.as_bytes()).map_err(Error::json(path))?;
        let keys = Keys::new(path, &value)?;
        refuse_other_models(keys)?;
        let config = Self {
            vocab_size: keys.size("vocab_size", 1 << 24)?,
            hidden_size: keys.size("hidden_size", 1 << 20)?,
            intermediate_size: keys.size("intermediate_size", 1 << 22)?,
            n_layers: keys.size("num_hidden_layers", 1 << 12)?,
            n_heads: keys.size("num_attention_heads", 1 << 12)?,
            n_kv_heads: keys.size("num_key_value_heads", 1 << 12)?,
            head_dim: head_dim(keys)?,
            max_position_embeddings: keys.size("max_position_embeddings", 1 << 32)?,
            rms_norm_eps: rms_norm_eps(keys)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            rope: Rope::parse(keys)?,
            dtype: dtype(keys)?,
            eos_token_ids: keys.token_ids("eos_token_id")?,
            pad_token_id: keys.get("pad_token_id", "a token id")?,
            quantization: QuantizationConfig::parse(keys)?,
        };
        config.check_layers(keys)?;
        keys.check("num_attention_heads", config.n_heads.is_multiple_of(config.n_kv_heads), || {
            format!("it must be a multiple of `num_key_value_heads` ({})", config.n_kv_heads)
        })?;
        Ok(config)
    }

    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Only full attention: no layer may have a sliding window.
    fn check_layers(&self, keys: Keys) -> Result<()> {
        if let Some(types) = keys.get::<Vec<String>>("layer_types", "a list of texts")? {
            keys.check("layer_types", types.len() == self.n_layers, || {
                format!("it must have one entry for each of the {} layers", self.n_layers)
            })?;
            return keys.support("layer_types", types.iter().all(|t| t == "full_attention"), "\"full_attention\"");
        }
        let first = keys.get("max_window_layers", "a whole number")?.unwrap_or(28_usize);
        // Of a file without the key, transformers makes a window of 4096.
        let window = !keys.has("sliding_window") || keys.raw("sliding_window").is_some();
        let slides = keys.flag("use_sliding_window")? && window && first < self.n_layers;
        keys.support("use_sliding_window", !slides, "false")
    }
}

/// Fails on what makes another model of it.
fn refuse_other_models(keys: Keys) -> Result<()> {
    let architectures: Option<Vec<String>> = keys.get("architectures", "a list of texts")?;
    let ours = match &architectures {
        Some(names) => names.iter().any(|n| n == "Qwen3ForCausalLM"),
        None => keys.text("model_type")?.as_deref() == Some("qwen3"),
    };
    keys.support("architectures", ours, "[\"Qwen3ForCausalLM\"]")?;
    // It is by this one that transformers chooses the class.
    keys.support("model_type", keys.text("model_type")?.is_none_or(|t| t == "qwen3"), "\"qwen3\"")?;
    keys.support("is_causal", keys.get("is_causal", "true or false")?.unwrap_or(true), "true")?;
    let alike = keys.object("per_layer_config")?.is_none_or(|layers| layers.is_empty());
    keys.support("per_layer_config", alike, "a model whose layers are alike")?;
    let act = keys.text("hidden_act")?;
    keys.support("hidden_act", act.is_none_or(|a| a == "silu" || a == "swish"), "\"silu\"")?;
    keys.support("attention_bias", !keys.flag("attention_bias")?, "false")?;
    keys.support("attention_dropout", keys.number("attention_dropout")?.unwrap_or(0.0) == 0.0, "0.0")
}

/// transformers takes 128 where the file gives none; it does not derive it from the hidden size.
fn head_dim(keys: Keys) -> Result<usize> {
    if keys.raw("head_dim").is_none() {
        return Ok(128);
    }
    let head_dim = keys.size("head_dim", 1 << 12)?;
    keys.check("head_dim", head_dim.is_multiple_of(2), || "it must be even, as RoPE turns pairs".to_owned())?;
    Ok(head_dim)
}

fn rms_norm_eps(keys: Keys) -> Result<f32> {
    let eps = keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    keys.check("rms_norm_eps", eps > 0.0 && eps < 1.0, || "it must be above 0 and below 1".to_owned())?;
    Ok(eps)
}

fn dtype(keys: Keys) -> Result<Option<DType>> {
    let key = if keys.raw("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(name) = keys.text(key)? else {
        return Ok(None);
    };
    let dtype = dtype_by_name(&name);
    keys.support(key, dtype.is_some(), "\"bfloat16\", \"float16\" or \"float32\"")?;
    Ok(dtype)
}
