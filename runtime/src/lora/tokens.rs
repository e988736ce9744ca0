//! PEFT's `trainable_token_indices`: rows of the embedding and of the output head that an adapter trains.

use std::fmt::{self, Display, Formatter};

use serde_json::{Map, Value, json};

use crate::config::keys::Keys;
use crate::config::{Module, Qwen3Config};
use crate::error::{Error, Result};

const KEY: &str = "trainable_token_indices";

/// Which tokens have rows of their own in an adapter, as `adapter_config.json` says it.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum TrainableTokens {
    /// None.
    #[default]
    None,
    /// In the embedding, and in the output head where that is the embedding.
    Ids(Vec<u32>),
    /// In the modules of these names, `embed_tokens` and `lm_head`.
    Modules(Vec<(String, Vec<u32>)>),
}

/// A matrix with a row for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// What tokens become when they are read. Also what they are written by, where the head is the embedding.
    Embedding,
    /// What they are written by.
    Head,
}

/// The rows of a table that an adapter has values of its own for.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRows {
    /// The table.
    pub table: Table,
    /// The tokens.
    pub ids: Vec<u32>,
    /// `[ids, hidden]`
    pub weight: Vec<f32>,
}

impl Table {
    /// The checkpoint's tensor of it.
    pub(crate) fn tensor(self) -> String {
        format!("{self}.weight")
    }
}

/// The module's name.
impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Table::Embedding => f.write_str("model.embed_tokens"),
            Table::Head => Module::LmHead.fmt(f),
        }
    }
}

impl TrainableTokens {
    /// Of a text from the command line: ids with commas between them, or JSON as `adapter_config.json` has it.
    pub fn from_text(text: &str) -> Option<Self> {
        let listed = format!("[{text}]");
        let json = if text.trim_start().starts_with(['[', '{']) { text } else { &listed };
        serde_json::from_str(json).ok().as_ref().and_then(Self::of_json)
    }

    pub(super) fn parse(keys: Keys) -> Result<Self> {
        let Some(value) = keys.raw(KEY) else { return Ok(Self::None) };
        let want = "it must be a list of token ids, or an object with such a list for each of embed_tokens and lm_head";
        Self::of_json(value).ok_or_else(|| keys.wrong(KEY, want))
    }

    fn of_json(value: &Value) -> Option<Self> {
        let ids = |value: &Value| -> Option<Vec<u32>> {
            value.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
        };
        match value {
            Value::Object(modules) if modules.is_empty() => Some(Self::None),
            Value::Object(modules) => {
                let modules = modules.iter().map(|(name, value)| Some((name.clone(), ids(value)?)));
                Some(Self::Modules(modules.collect::<Option<_>>()?))
            }
            _ => Some(ids(value)?).map(|ids| if ids.is_empty() { Self::None } else { Self::Ids(ids) }),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Ids(ids) => json!(ids),
            Self::Modules(modules) => {
                modules.iter().map(|(name, ids)| (name.clone(), json!(ids))).collect::<Map<_, _>>().into()
            }
        }
    }

    /// The tokens of each table of a model, the embedding first. A head that is the embedding has none of its own: it
    /// follows.
    ///
    /// # Errors
    /// [`Error::Target`] for a module that has no row for each token, a token that the model has not or that comes twice,
    /// and a head that would be parted from the embedding that it is.
    pub(super) fn resolve(&self, model: &Qwen3Config) -> Result<Vec<(Table, Vec<u32>)>> {
        let mut tables: Vec<(Table, Vec<u32>)> = match self {
            Self::None => Vec::new(),
            Self::Ids(ids) => vec![(Table::Embedding, ids.clone())],
            Self::Modules(modules) => {
                modules.iter().map(|(name, ids)| Ok((table(name)?, ids.clone()))).collect::<Result<_>>()?
            }
        };
        tables.sort_by_key(|(table, _)| *table == Table::Head);
        tables.iter().try_for_each(|(_, ids)| check_ids(ids, model.vocab_size))?;
        match &mut tables[..] {
            [(a, _), (b, _), ..] if a == b => Err(wrong(a, "it is named twice; leave one out")),
            [(Table::Embedding, ids), (Table::Head, of_head)] if model.tie_word_embeddings && ids == of_head => {
                tables.truncate(1);
                Ok(tables)
            }
            [.., (Table::Head, _)] if model.tie_word_embeddings => {
                Err(wrong("lm_head", "it is the embedding; give both the same tokens, or only `embed_tokens`"))
            }
            _ => Ok(tables),
        }
    }
}

/// As it is written on the command line.
impl Display for TrainableTokens {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("[]"),
            Self::Ids(ids) => f.write_str(&ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
            Self::Modules(_) => self.to_json().fmt(f),
        }
    }
}

/// PEFT takes the end of a module's name.
fn table(name: &str) -> Result<Table> {
    match name {
        "embed_tokens" | "model.embed_tokens" => Ok(Table::Embedding),
        "lm_head" => Ok(Table::Head),
        _ => Err(wrong(name, "the modules with a row for each token are embed_tokens and lm_head")),
    }
}

fn check_ids(ids: &[u32], vocab: usize) -> Result<()> {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(wrong(pair[0], "it comes twice, and has one row; leave one out"));
    }
    match sorted.last() {
        Some(&last) if last as usize >= vocab => Err(wrong(last, &format!("the model has {vocab} ids (from 0)"))),
        Some(_) => Ok(()),
        None => Err(wrong("[]", "it must name at least one token")),
    }
}

fn wrong(entry: impl Display, reason: &str) -> Error {
    Error::Target { target: format!("`{entry}` of `{KEY}`"), reason: reason.to_owned() }
}
