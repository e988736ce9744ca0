//! Text to token ids and back, by the checkpoint's `tokenizer.json`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::error::{Error, Result};
use crate::files;

mod bytes;
mod check;
mod configs;

use bytes::BYTES;
use check::{Parts, SUPPORTED};
use configs::{CONFIG, config_error, lists_no_tokens};
pub(crate) use configs::{read_config, read_json, token_content};

/// Longer texts are cut at line starts and encoded in parallel.
const PARALLEL_BYTES: usize = 1 << 16;

/// How Qwen's tokenizers cut text before byte-pair encoding.
const QWEN_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A checkpoint's tokenizer: Qwen3's byte-level BPE, with the checkpoint's own vocabulary and end tokens.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    vocab_size: usize,
    missing_bytes: HashSet<u8>,
    special_ids: HashSet<u32>,
    added_tokens: Vec<AddedToken>,
    eos_id: Option<u32>,
    eos_ids: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and the end tokens from the configuration files beside it.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing, damaged or not a byte-level one, or an end token is not in it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        if !files::exists(&path) {
            let hint = "copy it from the model's original checkpoint, or save it there with transformers' \
                        AutoTokenizer.save_pretrained";
            return Err(Error::MissingFile { dir: dir.to_owned(), wanted: "tokenizer.json".into(), hint });
        }
        let bytes = files::read(&path)?;
        let parts = Parts::read(&path, &bytes)?;
        let corrupt = |e: tokenizers::Error| corrupt(&path, &e);
        // The library panics on some files that are JSON, but no tokenizer.
        let read = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes));
        let mut inner = read.unwrap_or_else(|_| Err("it is no tokenizer that can be read".into())).map_err(corrupt)?;
        inner.with_truncation(None).map_err(corrupt)?;
        inner.with_padding(None);
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            let (key, got) = ("decoder".into(), "not ByteLevel".into());
            return Err(Error::Unsupported { path, key, got, supported: SUPPORTED });
        }
        let vocab = inner.get_vocab(true);
        parts.check_ids(&path, &vocab)?;
        let added = inner.get_added_tokens_decoder();
        let mut tokenizer = Self {
            missing_bytes: check::missing_bytes(&vocab),
            vocab_size: vocab.values().max().map_or(0, |&id| id as usize + 1),
            special_ids: added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect(),
            added_tokens: added.into_values().collect(),
            inner,
            path,
            eos_id: None,
            eos_ids: Vec::new(),
        };
        tokenizer.read_eos(dir, &vocab)?;
        Ok(tokenizer)
    }

    /// The ids of `text`. Nothing is added; special tokens written out in the text become their ids, as in
    /// transformers.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() <= PARALLEL_BYTES || !self.splits_at_lines() {
            return self.encode_piece(text);
        }
        let pieces: Vec<_> = line_pieces(text, PARALLEL_BYTES / 2).par_iter().map(|p| self.encode_piece(p)).collect();
        let mut ids = Vec::with_capacity(text.len() / 3);
        for piece in pieces {
            ids.extend(piece?);
        }
        Ok(ids)
    }

    fn encode_piece(&self, text: &str) -> Result<Vec<u32>> {
        self.expect_bytes(text)?;
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|e| corrupt(&self.path, &e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Refuses a text with bytes that would be left out of it.
    fn expect_bytes(&self, text: &str) -> Result<()> {
        if self.missing_bytes.is_empty() {
            return Ok(());
        }
        let missing =
            |&(_, c): &(usize, char)| c.encode_utf8(&mut [0; 4]).bytes().any(|b| self.missing_bytes.contains(&b));
        match text.char_indices().find(missing) {
            Some((at, c)) => {
                let want = "its vocabulary must have a token for each byte; take the tokenizer of another checkpoint";
                Err(config_error(&self.path, "model.vocab", format!("without {c:?} (byte {at} of a text)"), want))
            }
            None => Ok(()),
        }
    }

    /// Whether no token reaches across a line break into a line that begins with something other than white space.
    ///
    /// So it is for Qwen's pre-tokenizer: its pieces that hold a line break end with one, it looks behind nowhere,
    /// and NFC composes nothing with a line break. Added tokens must not reach across either.
    fn splits_at_lines(&self) -> bool {
        self.cuts_as_qwen() && !self.added_tokens.iter().any(|token| token.lstrip || token.content.contains('\n'))
    }

    /// Whether text is cut before byte-pair encoding as Qwen's tokenizers cut it.
    pub(crate) fn cuts_as_qwen(&self) -> bool {
        let qwen = |split: &Split| split.pattern == SplitPattern::Regex(QWEN_SPLIT.into()) && !split.invert;
        matches!(self.inner.get_normalizer(), None | Some(NormalizerWrapper::NFC(_)))
            && matches!(self.inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::Sequence(sequence))
                if matches!(sequence.as_ref(), [PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(_)]
                    if qwen(split)))
    }

    /// A token as the vocabulary writes it.
    pub(crate) fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokens beside the base vocabulary, special or not.
    pub(crate) fn added_tokens(&self) -> &[AddedToken] {
        &self.added_tokens
    }

    /// The text of `ids`, without special tokens if `skip_special`. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// Ids beyond the vocabulary have no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id, skip_special)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that a token stands for; none for ids beyond the vocabulary and, if `skip_special`, special tokens.
    pub(crate) fn token_bytes(&self, id: u32, skip_special: bool) -> Vec<u8> {
        if skip_special && self.special_ids.contains(&id) {
            return Vec::new();
        }
        let token = self.inner.id_to_token(id).unwrap_or_default();
        let bytes: Option<Vec<u8>> = token.chars().map(|c| BYTES.get(&c).copied()).collect();
        bytes.unwrap_or_else(|| token.into_bytes())
    }

    /// The id of a token in its written form, such as `<|im_end|>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The number of ids in use: base vocabulary and added tokens. A model's head may have more rows; ids from here
    /// on must never be sampled.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that ends a training text: the tokenizer's `eos_token`, or the model's `eos_token_id`.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// The tokens that end a generation: `eos_token_id` of `generation_config.json`, else of `config.json`, else
    /// [`Self::eos_id`].
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The file this was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read_eos(&mut self, dir: &Path, vocab: &HashMap<String, u32>) -> Result<()> {
        let config = read_config(dir)?;
        check::check_config(&dir.join(CONFIG), &config, vocab)?;
        if lists_no_tokens(&config) {
            check::check_added(&dir.join("added_tokens.json"), vocab)?;
        }
        let of_tokenizer = token_content(&config["eos_token"]).and_then(|token| self.token_to_id(token));
        let of_generation = self.eos_token_ids(&dir.join("generation_config.json"))?;
        let of_model = self.eos_token_ids(&dir.join("config.json"))?;
        self.eos_id = of_tokenizer.or(of_model.first().copied()).or(of_generation.first().copied());
        self.eos_ids = [of_generation, of_model, self.eos_id.into_iter().collect()]
            .into_iter()
            .find(|ids| !ids.is_empty())
            .unwrap_or_default();
        Ok(())
    }

    fn eos_token_ids(&self, path: &Path) -> Result<Vec<u32>> {
        let Some(config) = read_json(path)? else {
            return Ok(Vec::new());
        };
        let ids = match &config["eos_token_id"] {
            Value::Null => return Ok(Vec::new()),
            Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        };
        let check = |id: &Value| match id.as_u64() {
            Some(id) if id < self.vocab_size as u64 => Ok(id as u32),
            _ => {
                let want =
                    format!("it must be an id below {}, the size of the tokenizer's vocabulary", self.vocab_size);
                Err(config_error(path, "eos_token_id", id, want))
            }
        };
        ids.iter().map(check).collect()
    }
}

fn corrupt(path: &Path, reason: &tokenizers::Error) -> Error {
    Error::Corrupt { path: path.to_owned(), format: "tokenizer.json", reason: reason.to_string() }
}

/// Cuts `text` at starts of lines that do not begin with white space, into pieces of `at_least` bytes or more.
fn line_pieces(text: &str, at_least: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (newline, _) in text.match_indices('\n') {
        let cut = newline + 1;
        let next = text[cut..].chars().next();
        if cut - start >= at_least && next.is_some_and(|c| !c.is_whitespace()) {
            pieces.push(&text[start..cut]);
            start = cut;
        }
    }
    pieces.push(&text[start..]);
    pieces
}
