//! The files beside `tokenizer.json`.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::{files, json};

/// What says which tokens are special, and how transformers tokenises.
pub(super) const CONFIG: &str = "tokenizer_config.json";

pub(super) fn config_error(path: &Path, key: &str, got: impl ToString, want: impl Into<String>) -> Error {
    Error::Config { path: path.to_owned(), key: key.into(), got: got.to_string(), want: want.into() }
}

/// A token of `tokenizer_config.json`: a string, or an object with its `content`.
pub(crate) fn token_content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// `tokenizer_config.json` as transformers has it: where it does not list the added tokens, special tokens are those of
/// `special_tokens_map.json`. Null if there is neither.
pub(crate) fn read_config(dir: &Path) -> Result<Value> {
    let mut config = read_json(&dir.join(CONFIG))?.unwrap_or_default();
    if lists_no_tokens(&config)
        && let Some(Value::Object(special)) = read_json(&dir.join("special_tokens_map.json"))?
    {
        match &mut config {
            Value::Object(keys) => keys.extend(special),
            Value::Null => config = special.into(),
            _ => {}
        }
    }
    Ok(config)
}

/// Whether transformers takes special and added tokens from files of their own, too.
pub(super) fn lists_no_tokens(config: &Value) -> bool {
    config.get("added_tokens_decoder").is_none()
}

/// A JSON file, or `None` if there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    if !files::exists(path) {
        return Ok(None);
    }
    let bytes = files::read(path)?;
    json::parse(&bytes).map(Some).map_err(Error::json(path))
}
