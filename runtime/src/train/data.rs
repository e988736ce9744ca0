//! Training text: files into token ids and a mask of what is trained.
//!
//! A file has records of one [`DataFormat`], on lines or in an array of JSON, packed or not, or in the rows of Parquet. What
//! its keys say tells the format; a key that would change what is trained, and would be ignored, is refused, and other keys
//! are left alone.
//!
//! What is trained is decided by position, never by token id: the `<|im_end|>` of an assistant's turn and an appended
//! end token are trained like any other token, also where the same id serves as padding elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use halfbyte::Count;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::batch::{Batch, Sample};
use crate::builder::builder;
use crate::chat::ChatTemplate;
use crate::config::Qwen3Config;
use crate::error::{Error, Result};
use crate::settings::Value as _;
pub use crate::settings::choices::{DataFormat, Overlong, TrainOnEos};
use crate::tokenizer::Tokenizer;
use crate::train::packing::Share;

mod cache;
mod encode;
mod format;
mod read;
mod records;
mod rows;
mod source;
mod turns;

pub use cache::{Cached, cache_folder};
pub use read::DataReader;
pub use source::{DataFile, DataFiles};

builder! {
    /// How records become samples.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct DataOptions {
        /// What all records are; where nothing is said, what the keys of each say.
        pub format: Option<DataFormat>,
        /// The longest sample, in tokens.
        pub max_seq_length: usize,
        /// What becomes of longer ones.
        pub overlong: Overlong,
        /// End texts and completions with the tokenizer's end token, unless they end with it already.
        pub append_eos: bool,
        /// Which ends of turns are trained. A text or a completion is one turn.
        pub train_on_eos: TrainOnEos,
        /// The template's `enable_thinking`, where the record has none.
        pub enable_thinking: Option<bool>,
    }
}

impl DataOptions {
    /// Samples of up to 2048 tokens with their ends, none longer.
    pub const DEFAULT: Self = Self {
        format: None,
        max_seq_length: 2048,
        overlong: Overlong::Error,
        append_eos: true,
        train_on_eos: TrainOnEos::Turn,
        enable_thinking: None,
    };
}

impl Default for DataOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The samples of some files, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// The samples; each has at least one token to predict.
    pub samples: Vec<Sample>,
    /// How many of them were cut to the limit.
    pub n_truncated: usize,
    /// How many records were left out because of their length.
    pub n_skipped: usize,
    /// The files that they come from.
    pub parts: Vec<Part>,
}

/// What came of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The file.
    pub path: PathBuf,
    /// How often an epoch has each of its samples.
    pub weight: f64,
    /// Records of each format.
    pub formats: BTreeMap<DataFormat, usize>,
    /// Samples of it, which are next to each other.
    pub n_samples: usize,
    /// How many of them were cut to the limit.
    pub n_truncated: usize,
    /// Records that were left out because of their length.
    pub n_skipped: usize,
    /// What the cache had of it.
    pub cached: Cached,
}

impl Part {
    fn new(DataFile { path, weight }: DataFile) -> Self {
        let (formats, cached) = (BTreeMap::new(), Cached::No);
        Part { path, weight, formats, n_samples: 0, n_truncated: 0, n_skipped: 0, cached }
    }

    fn refuse(&self, reason: String) -> Error {
        Error::Data { path: self.path.clone(), reason }
    }

    /// Counts a record, and refuses one that does not go with the first, which is at `place`.
    fn admit(&mut self, found: DataFormat, first: DataFormat, place: &str) -> Result<(), String> {
        *self.formats.entry(found).or_default() += 1;
        if format::go_together(first, found) {
            return Ok(());
        }
        let (found, first) = (found.show(), first.show());
        Err(format!("it is {found}, but {place} is {first}; put each format into a file of its own"))
    }

    fn check(&self) -> Result<()> {
        let reason = match (self.n_samples, self.n_skipped) {
            (0, 0) => "the file is empty; write one JSON object per line, such as {\"text\": \"…\"}".into(),
            (0, n) => format!("{} and none within the limit; raise --max-seq-length", Count(n, "sample")),
            _ => return Ok(()),
        };
        Err(self.refuse(reason))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let formats = self.formats.iter().map(|(format, n)| format!("{n} of {}", format.show())).collect::<Vec<_>>();
        write!(f, "{}: {}", self.path.display(), formats.join(", "))?;
        if self.weight != 1.0 {
            write!(f, ", weight {}", self.weight)?;
        }
        match &self.cached {
            Cached::No => Ok(()),
            Cached::Written => f.write_str(", kept in the cache"),
            Cached::Read => f.write_str(", tokenised before"),
            Cached::Failed(reason) => write!(f, ", not cached: {reason}"),
        }
    }
}

impl Dataset {
    /// Reads and tokenises a file, or those of a folder, as a [`DataReader`] does.
    ///
    /// # Errors
    /// As for [`DataReader::read`].
    pub fn read(
        path: impl AsRef<Path>,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        options: &DataOptions,
    ) -> Result<Self> {
        DataReader::new(tokenizer, template, *options).read(&path.as_ref().to_owned().into())
    }

    /// Refuses samples with tokens or positions that the model has not.
    ///
    /// # Errors
    /// [`Error::Data`] names the file, the sample and the number.
    pub fn expect_fits(&self, config: &Qwen3Config) -> Result<()> {
        let mut rest = &self.samples[..];
        for part in &self.parts {
            let (samples, others) = rest.split_at(part.n_samples);
            rest = others;
            let check = |(i, sample): (usize, &Sample)| {
                let reason = |e| format!("sample {} (from 1, without those left out): {e}", i + 1);
                Batch::new([sample]).check(config).map_err(|e| part.refuse(reason(e)))
            };
            samples.par_iter().enumerate().try_for_each(check)?;
        }
        Ok(())
    }

    /// How often an epoch has each of the samples.
    pub fn shares(&self) -> Vec<Share> {
        self.parts.iter().map(|part| Share { n_samples: part.n_samples, weight: part.weight }).collect()
    }

    /// The most that an epoch has of a sample.
    pub fn times(&self) -> usize {
        self.parts.iter().map(|part| part.weight.ceil() as usize).max().unwrap_or(1)
    }

    /// The number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.samples.iter().map(|sample| sample.ids.len()).sum()
    }

    /// The number of tokens to predict.
    pub fn n_targets(&self) -> usize {
        self.samples.iter().map(Sample::n_targets).sum()
    }

    /// SHA-256 of all that decides what a run learns from it, in hexadecimal.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for Share { n_samples, weight } in self.shares() {
            hash.update((n_samples as u64).to_le_bytes());
            hash.update(weight.to_le_bytes());
        }
        for Sample { ids, mask } in &self.samples {
            hash.update((ids.len() as u64).to_le_bytes());
            for (id, trained) in ids.iter().zip(mask) {
                hash.update(id.to_le_bytes());
                hash.update([u8::from(*trained)]);
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How much it is, for people.
    pub fn told(&self) -> String {
        let (samples, tokens) = (Count(self.samples.len(), "sample"), Count(self.n_tokens(), "token"));
        format!("{samples}, {tokens} ({} trained on)", self.n_targets())
    }

    /// What the user should know: how many samples were cut or left out, if any.
    pub fn note(&self) -> Option<String> {
        let lines = self.samples.len() + self.n_skipped;
        let (cut, skipped) = (self.n_truncated, self.n_skipped);
        (cut + skipped > 0)
            .then(|| format!("of {}, cut to the length limit: {cut}; left out: {skipped}", Count(lines, "sample")))
    }
}
