//! What a GGUF file says of a Qwen3 and of its tokenizer, under the names that llama.cpp's converter uses.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use super::writer::Value;
use crate::chat::template_source;
use crate::config::{GenerationConfig, Qwen3Config, Yarn};
use crate::error::{Error, Result};
use crate::tokenizer::{Tokenizer, read_config, read_json, token_content};

/// What llama.cpp calls the architecture.
pub(super) const ARCHITECTURE: &str = "qwen3";
/// The version of ggml's block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// Entries in the order in which they are written.
#[derive(Default)]
pub(super) struct Metadata(pub Vec<(String, Value)>);

impl Metadata {
    pub fn put(&mut self, key: impl Into<String>, value: Value) {
        self.0.push((key.into(), value));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.put(key, Value::Text(text.to_owned()));
    }

    /// What every file begins with: `kind` is "model" or "adapter", `dir` the folder that it is made of.
    pub fn general(kind: &str, dir: &Path, file_type: u32) -> Self {
        let mut all = Metadata::default();
        all.text("general.architecture", ARCHITECTURE);
        all.text("general.type", kind);
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        all.text("general.name", name.strip_prefix("embedded:").unwrap_or(&name));
        all.put("general.file_type", Value::U32(file_type));
        all.put("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
        all
    }

    /// How the checkpoint would have its tokens chosen.
    pub fn sampling(&mut self, dir: &Path) -> Result<()> {
        let config = GenerationConfig::open(dir)?;
        let numbers = [
            ("top_p", config.top_p),
            ("min_p", config.min_p),
            ("temp", config.temperature),
            ("penalty_repeat", config.repetition_penalty),
        ];
        let top_k = config.top_k.map(|k| ("top_k", Value::I32(k as i32)));
        let numbers = numbers.into_iter().filter_map(|(name, v)| Some((name, Value::F32(v?))));
        numbers.chain(top_k).for_each(|(name, value)| self.put(format!("general.sampling.{name}"), value));
        Ok(())
    }

    /// The model's sizes, and how it turns positions.
    pub fn sizes(&mut self, config: &Qwen3Config, path: &Path) -> Result<()> {
        let mut size = |key: &str, size: usize| -> Result<()> {
            let wrong = |_| Error::setting("a size of the model", size, "it must be below 2^32 in a GGUF file");
            self.put(format!("{ARCHITECTURE}.{key}"), Value::U32(u32::try_from(size).map_err(wrong)?));
            Ok(())
        };
        size("block_count", config.n_layers)?;
        size("context_length", config.max_position_embeddings)?;
        size("embedding_length", config.hidden_size)?;
        size("feed_forward_length", config.intermediate_size)?;
        size("attention.head_count", config.n_heads)?;
        size("attention.head_count_kv", config.n_kv_heads)?;
        size("attention.key_length", config.head_dim)?;
        size("attention.value_length", config.head_dim)?;
        self.number("rope.freq_base", config.rope.theta);
        self.number("attention.layer_norm_rms_epsilon", f64::from(config.rms_norm_eps));
        config.rope.yarn.iter().try_for_each(|yarn| self.yarn(yarn, path))
    }

    fn number(&mut self, key: &str, v: f64) {
        self.put(format!("{ARCHITECTURE}.{key}"), Value::F32(v as f32));
    }

    fn yarn(&mut self, yarn: &Yarn, path: &Path) -> Result<()> {
        if !yarn.truncate {
            let (path, key) = (path.to_owned(), "rope_parameters.truncate".to_owned());
            let supported = "true (llama.cpp rounds YaRN's bounds to whole dimensions)";
            return Err(Error::Unsupported { path, key, got: "false".into(), supported });
        }
        self.text(&format!("{ARCHITECTURE}.rope.scaling.type"), "yarn");
        self.number("rope.scaling.factor", yarn.factor);
        let original = yarn.original_max_position_embeddings as u32;
        self.put(format!("{ARCHITECTURE}.rope.scaling.original_context_length"), Value::U32(original));
        // llama.cpp multiplies what the factor calls for by this.
        let usual = 1.0 + 0.1 * yarn.factor.ln();
        if (yarn.attention_factor / usual - 1.0).abs() > 1e-6 {
            self.number("rope.scaling.attn_factor", yarn.attention_factor / usual);
        }
        self.number("rope.scaling.yarn_beta_fast", yarn.beta_fast);
        self.number("rope.scaling.yarn_beta_slow", yarn.beta_slow);
        Ok(())
    }

    /// The tokenizer and the chat template of a checkpoint.
    pub fn tokenizer(&mut self, dir: &Path, config: &Qwen3Config) -> Result<()> {
        let tokenizer = Tokenizer::open(dir)?;
        let path = tokenizer.path().to_owned();
        if !tokenizer.cuts_as_qwen() {
            let (key, got) = ("pre_tokenizer".to_owned(), "another".to_owned());
            return Err(Error::Unsupported { path, key, got, supported: "Qwen's, which llama.cpp knows by name," });
        }
        if tokenizer.vocab_size() > config.vocab_size {
            let (key, got) = ("the number of tokens".into(), tokenizer.vocab_size().to_string());
            return Err(Error::Config { path, key, got, want: format!("the model has {} ids", config.vocab_size) });
        }
        self.text("tokenizer.ggml.model", "gpt2");
        self.text("tokenizer.ggml.pre", "qwen2");
        let (tokens, types) = tokens(&tokenizer, config.vocab_size);
        self.put("tokenizer.ggml.tokens", Value::Texts(tokens));
        self.put("tokenizer.ggml.token_type", Value::I32s(types));
        self.put("tokenizer.ggml.merges", Value::Texts(merges(&path)?));
        for (name, id) in special_ids(dir, &tokenizer)? {
            self.put(format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
        }
        for end in ["bos", "eos"] {
            self.put(format!("tokenizer.ggml.add_{end}_token"), Value::Bool(false));
        }
        if let Some(template) = template_source(dir)? {
            self.text("tokenizer.chat_template", &template);
        }
        Ok(())
    }
}

/// What a token is, by ggml's numbers.
#[derive(Clone, Copy)]
enum TokenType {
    Normal = 1,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
}

/// Every row of the embedding: rows without a token are padding.
fn tokens(tokenizer: &Tokenizer, rows: usize) -> (Vec<String>, Vec<i32>) {
    let added: HashMap<&str, bool> =
        tokenizer.added_tokens().iter().map(|token| (token.content.as_str(), token.special)).collect();
    // Some checkpoints have control tokens that are not marked as special.
    let is_control = |token: &str| token.starts_with("<|") && token.ends_with("|>");
    let one = |id: usize| match tokenizer.id_to_token(id as u32) {
        None => (format!("[PAD{id}]"), TokenType::Unused),
        Some(token) => match added.get(token.as_str()) {
            None => (token, TokenType::Normal),
            Some(special) if *special || is_control(&token) => (token, TokenType::Control),
            Some(_) => (token, TokenType::UserDefined),
        },
    };
    (0..rows).map(one).map(|(token, kind)| (token, kind as i32)).unzip()
}

/// The merges of `tokenizer.json`, `left right`, first the first.
fn merges(path: &Path) -> Result<Vec<String>> {
    let json = read_json(path)?.unwrap_or_default();
    let wrong = || Error::Corrupt {
        path: path.to_owned(),
        format: "tokenizer.json",
        reason: "`model.merges` must be a list of `left right` or [left, right]".into(),
    };
    let merge = |merge: &Json| match merge {
        Json::String(both) => Some(both.clone()),
        Json::Array(pair) => match &pair[..] {
            [Json::String(left), Json::String(right)] => Some(format!("{left} {right}")),
            _ => None,
        },
        _ => None,
    };
    let list = json["model"]["merges"].as_array().ok_or_else(wrong)?;
    list.iter().map(merge).collect::<Option<_>>().ok_or_else(wrong)
}

/// The ids of tokens with a role: those of tokenizer_config.json, else those of config.json.
fn special_ids(dir: &Path, tokenizer: &Tokenizer) -> Result<Vec<(&'static str, u32)>> {
    let (of_tokenizer, of_model) = (read_config(dir)?, read_json(&dir.join("config.json"))?.unwrap_or_default());
    let id = |role: &str| {
        let token = token_content(&of_tokenizer[format!("{role}_token")]);
        let id = of_model[format!("{role}_token_id")].as_u64().and_then(|id| u32::try_from(id).ok());
        token.and_then(|token| tokenizer.token_to_id(token)).or(id)
    };
    let roles = [("bos", id("bos")), ("eos", tokenizer.eos_id()), ("unknown", id("unk")), ("padding", id("pad"))];
    Ok(roles.into_iter().filter_map(|(role, id)| Some((role, id?))).collect())
}
