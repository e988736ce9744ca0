//! What a tokenizer's files may not say: what the tokenizers library would panic on, take hours for or ignore, and what
//! transformers does with them that is not done here.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::bytes::BYTES;
use super::configs::{config_error, read_json, token_content};
use crate::config::keys::Keys;
use crate::error::{Error, Result};

/// Tokenizers that are read.
pub(super) const SUPPORTED: &str = "byte-level BPE, as Qwen3 has it,";

/// What is looked at of a `tokenizer.json`.
#[derive(Deserialize)]
pub(super) struct Parts {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: Option<u32>,
    content: String,
}

#[derive(Deserialize, Default)]
struct Model {
    #[serde(default)]
    dropout: Value,
}

impl Parts {
    /// Before the library reads the same file.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        /// Of an added token, each of which becomes a part of one pattern.
        const MAX_BYTES: usize = 4096;
        let parts: Self = serde_json::from_slice(bytes).map_err(Error::json(path))?;
        let long = |(_, token): &(usize, &Added)| token.content.len() > MAX_BYTES;
        if let Some((i, Added { content, .. })) = parts.added_tokens.iter().enumerate().find(long) {
            let got = format!("of {} bytes (number {i})", content.len());
            return Err(config_error(path, "added_tokens", got, format!("a token has at most {MAX_BYTES}")));
        }
        if parts.model.dropout.as_f64().is_some_and(|share| share != 0.0) {
            let want = "it must be null: the same text must become the same tokens";
            return Err(config_error(path, "model.dropout", &parts.model.dropout, want));
        }
        if !is_byte_level(&parts.pre_tokenizer) && !is_byte_level(&parts.normalizer) {
            let (key, got) = ("pre_tokenizer".into(), "not ByteLevel".into());
            return Err(Error::Unsupported { path: path.to_owned(), key, got, supported: SUPPORTED });
        }
        Ok(parts)
    }

    /// Whether the library took the tokens as the file has them: it gives added ones other ids in silence.
    pub fn check_ids(&self, path: &Path, vocab: &HashMap<String, u32>) -> Result<()> {
        for Added { id, content } in &self.added_tokens {
            let got = vocab.get(content);
            if got.is_none() || id.is_some() && got != id.as_ref() {
                let is = format!("{content:?} with id {}", id.map_or("null".into(), |id| id.to_string()));
                let want = format!(
                    "its id is {}: ids must follow one another, and a token has one; save the tokenizer again",
                    got.map_or("none".into(), u32::to_string)
                );
                return Err(config_error(path, "added_tokens", is, want));
            }
        }
        let mut seen: HashMap<u32, &str> = HashMap::with_capacity(vocab.len());
        let twice = vocab.iter().find_map(|(token, &id)| Some((token, seen.insert(id, token)?, id)));
        match twice {
            Some((a, b, id)) => {
                let want = "each token must have an id of its own; save the tokenizer again";
                Err(config_error(path, "model.vocab", format!("{:?} and {:?} with id {id}", a.min(&b.into()), b), want))
            }
            None => Ok(()),
        }
    }
}

/// Whether one of the steps turns bytes into characters that the vocabulary is made of.
fn is_byte_level(step: &Value) -> bool {
    let inner = ["pretokenizers", "normalizers"].iter().filter_map(|key| step[key].as_array()).flatten();
    step["type"] == "ByteLevel" || inner.into_iter().any(is_byte_level)
}

/// Bytes without a token, which the library leaves out of a text without a word.
pub(super) fn missing_bytes(vocab: &HashMap<String, u32>) -> HashSet<u8> {
    BYTES.iter().filter(|(c, _)| !vocab.contains_key(&c.to_string())).map(|(_, &byte)| byte).collect()
}

/// Refuses a `tokenizer_config.json` by which transformers would make other tokens of a text.
pub(super) fn check_config(path: &Path, config: &Value, vocab: &HashMap<String, u32>) -> Result<()> {
    if config.is_null() {
        return Ok(());
    }
    let keys = Keys::new(path, config)?;
    for key in ["add_bos_token", "add_eos_token", "add_prefix_space", "split_special_tokens"] {
        keys.support(key, !keys.flag(key)?, "false")?;
    }
    for key in ["bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token"] {
        keys.raw(key).map_or(Ok(()), |token| expect_token(path, key, token, None, vocab))?;
    }
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        let tokens: Vec<&Value> = match keys.raw(key) {
            None => continue,
            Some(Value::Array(list)) => list.iter().collect(),
            Some(Value::Object(named)) => named.values().collect(),
            Some(_) => return Err(keys.wrong(key, "it must be a list of tokens")),
        };
        tokens.into_iter().try_for_each(|token| expect_token(path, key, token, None, vocab))?;
    }
    let key = "added_tokens_decoder";
    let by_id =
        keys.raw(key).map(|v| v.as_object().ok_or_else(|| keys.wrong(key, "it must be an object"))).transpose()?;
    by_id.into_iter().flatten().try_for_each(|(id, token)| expect_token(path, key, token, Some(id), vocab))
}

/// transformers adds what is not in tokenizer.json, which changes what texts become.
fn expect_token(path: &Path, key: &str, token: &Value, id: Option<&str>, vocab: &HashMap<String, u32>) -> Result<()> {
    let found = token_content(token).and_then(|content| vocab.get(content));
    let same = |found: &u32| id.is_none_or(|id| id == found.to_string());
    if found.is_some_and(same) {
        return Ok(());
    }
    let (got, of) = match id {
        Some(id) => (format!("{token} with id {id}"), " with that id"),
        None => (token.to_string(), ""),
    };
    Err(config_error(path, key, got, format!("it must be a token of tokenizer.json{of}")))
}

/// Refuses an `added_tokens.json` (of transformers 4) with other tokens than tokenizer.json, for the same reason.
pub(super) fn check_added(path: &Path, vocab: &HashMap<String, u32>) -> Result<()> {
    let Some(tokens) = read_json(path)? else { return Ok(()) };
    Keys::new(path, &tokens)?;
    match tokens
        .as_object()
        .into_iter()
        .flatten()
        .find(|(token, id)| vocab.get(*token).map(|&id| id.into()).as_ref() != Some(*id))
    {
        Some((token, id)) => Err(config_error(path, token, id, "it must be a token of tokenizer.json with that id")),
        None => Ok(()),
    }
}
