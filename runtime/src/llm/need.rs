//! What can be known of a run before weights are loaded.

use super::{answer::SCORED_AT_ONCE, prepared::Prepared};
use crate::{
    batch::Batch,
    chat::message,
    checkpoint::QuantizedAs,
    config::{Module, Qwen3Config},
    error::{Error, Result},
    lora::{Layout, LoraConfig},
    model::{Base, CacheType, Home, PREFILL_TOKENS, Part, Room, SampleOptions},
    settings::LlmSettings,
};
use halfbyte::{Count, DType, Size, elements};
use std::fmt;

/// How to do with less memory.
const SMALLER: &str = "take --load-in-4bit, a smaller model, or fewer tokens (--max-new-tokens)";

/// Bytes on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The base's weights.
    pub base: usize,
    /// The head in 8 bits, beside it, where there is memory in plenty.
    pub screen: usize,
    /// The adapter, and copies of tables in which it has rows.
    pub adapter: usize,
    /// Keys and values.
    pub cache: usize,
    /// Activations and logits.
    pub activations: usize,
}

impl Need {
    /// All together.
    pub fn total(&self) -> usize {
        self.least() + self.screen
    }

    /// What it cannot do without.
    pub fn least(&self) -> usize {
        self.base + self.adapter + self.cache + self.activations
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [all, base, adapter, cache, activations] =
            [self.total(), self.base, self.adapter, self.cache, self.activations].map(|bytes| Size(bytes as u64));
        write!(f, "about {all}: {base} for the base, ")?;
        if self.screen > 0 {
            write!(f, "{} for its head in 8 bits, ", Size(self.screen as u64))?;
        }
        if self.adapter > 0 {
            write!(f, "{adapter} for the adapter, ")?;
        }
        if self.cache > 0 {
            write!(f, "{cache} for keys and values, ")?;
        }
        write!(f, "{activations} for activations")
    }
}

/// Of a GPU, for which memory is counted: `Backend::most_screened`.
const MOST_SCREENED: usize = 8;

/// What a model does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// It continues texts together.
    Write {
        /// How many.
        n_texts: usize,
        /// Tokens of all their prompts.
        n_read: usize,
        /// Tokens of the longest prompt and the most that follow it.
        longest: usize,
    },
    /// It scores options of questions.
    Score {
        /// Tokens of the longest question with its options.
        n_tokens: usize,
    },
}

impl Work {
    /// The answer to one prompt.
    pub fn answer(n_prompt: usize, n_new: usize) -> Self {
        Work::Write { n_texts: 1, n_read: n_prompt, longest: n_prompt.saturating_add(n_new) }
    }

    /// Tokens whose keys and values are kept.
    fn cached(&self) -> usize {
        if let Work::Write { n_texts, longest, .. } = *self { n_texts.saturating_mul(longest) } else { 0 }
    }

    /// Tokens that a prompt goes on from, at most, where prompts are run in parts.
    fn read_before(&self) -> usize {
        match *self {
            Work::Write { n_read, longest, .. } if n_read > PREFILL_TOKENS => n_read.min(longest),
            _ => 0,
        }
    }

    /// Bytes of all that it takes beside the model, with a cache of the compute type.
    pub(crate) fn bytes(&self, room: &Room<'_>) -> usize {
        self.cache(CacheType::Plain, room.config, room.size) + self.activations(room)
    }

    /// Bytes of keys and values.
    fn cache(&self, kind: CacheType, config: &Qwen3Config, size: usize) -> usize {
        kind.bytes_of_token(config, size) * self.cached() + kind.bytes_of_prefix(config, self.read_before(), size)
    }

    /// Bytes of activations and logits.
    fn activations(&self, room: &Room<'_>) -> usize {
        match *self {
            Work::Write { n_texts, n_read, .. } => {
                room.inference(n_read.min(PREFILL_TOKENS))
                    + room.inference(n_texts)
                    + n_texts * room.config.vocab_size * DType::F32.bytes()
            }
            Work::Score { n_tokens } => {
                let n = n_tokens.max(SCORED_AT_ONCE);
                room.inference(n) + room.loss(n)
            }
        }
    }
}

/// What decides about the memory of answers.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// The model's shape.
    pub config: &'a Qwen3Config,
    /// How its linear layers are held.
    pub base: Base,
    /// Whether the output head is held like them.
    pub head_4bit: bool,
    /// How keys and values are kept.
    pub cache: CacheType,
    /// How tokens are chosen.
    pub sample: SampleOptions,
    /// The compute type.
    pub dtype: DType,
    /// Its adapter.
    pub lora: Option<&'a LoraConfig>,
    /// What it does.
    pub work: Work,
}

impl Extent<'_> {
    /// What the work takes on the device, small things not counted.
    ///
    /// # Errors
    /// The adapter has a target that the model has not, or no memory could hold it.
    pub fn need(&self) -> Result<Need> {
        let Extent { config, dtype, work, .. } = *self;
        let size = dtype.bytes();
        let adapter = self.lora.map(|lora| AdapterRoom::of(lora, config)).transpose()?.unwrap_or_default();
        let room = adapter.room(config, size);
        Ok(Need {
            base: base_bytes(config, self.base, self.head_4bit, dtype),
            screen: if !adapter.changes_head && self.screens() { config.screen_bytes() } else { 0 },
            adapter: (adapter.numbers + adapter.tables) * size + adapter.dora_bytes,
            cache: work.cache(self.cache, config, size),
            activations: work.activations(&room),
        })
    }

    /// Whether decoding reads the model's own head in 8 bits.
    fn screens(&self) -> bool {
        !self.head_4bit
            && matches!(self.work, Work::Write { n_texts, .. } if self.sample.screens(n_texts, MOST_SCREENED).is_some())
    }
}

impl Prepared {
    /// Reads a prompt as a run would, and says what memory it would take.
    ///
    /// # Errors
    /// The prompt does not fit the model.
    pub fn check(&self, prompt: Option<&str>) -> Result<String> {
        let (n_prompt, new) = (self.n_prompt(prompt)?, self.settings.max_new_tokens);
        let (n_tokens, positions) = (n_prompt.saturating_add(new), self.config.positions());
        if n_tokens > positions {
            let want = format!("the model has {positions} positions; lower max_new_tokens, or shorten the prompt");
            return Err(Error::setting("prompt and new tokens together", n_tokens, want));
        }
        Ok(format!(
            "checked: {} to read, up to {new} to write\nmemory: {}",
            Count(n_prompt, "token"),
            self.need(n_prompt)?
        ))
    }

    fn n_prompt(&self, prompt: Option<&str>) -> Result<usize> {
        let Some(prompt) = prompt else { return Ok(0) };
        let prompt = self.tokenizer.encode(&self.text(&[message("user", prompt)])?)?;
        Batch::of_prompts(std::slice::from_ref(&prompt)).check(&self.config)?;
        Ok(prompt.len())
    }

    /// What an answer to a prompt of so many tokens takes on the device.
    ///
    /// # Errors
    /// No memory could hold it.
    pub fn need(&self, n_prompt: usize) -> Result<Need> {
        self.need_of(Work::answer(n_prompt, self.settings.max_new_tokens))
    }

    /// What the work takes on the device.
    ///
    /// # Errors
    /// No memory could hold it.
    pub fn need_of(&self, work: Work) -> Result<Need> {
        let LlmSettings { bnb_4bit_compute_dtype: dtype, head_4bit, .. } = self.settings;
        let lora = self.adapter.as_ref().map(|adapter| &adapter.config);
        let cache = self.settings.cache();
        let sample = self.settings.sampling();
        Extent { config: &self.config, base: self.base(), head_4bit, cache, sample, dtype, lora, work }.need()
    }

    /// What an answer to this prompt takes on the device.
    ///
    /// # Errors
    /// The prompt does not fit the model, or as for [`Prepared::need`].
    pub fn need_for(&self, prompt: Option<&str>) -> Result<Need> {
        self.need(self.n_prompt(prompt)?)
    }

    /// Compares `bytes` with what is free on the device, as far as that is known before a GPU is opened, and says how it
    /// stands.
    ///
    /// # Errors
    /// So much is not free.
    pub fn expect_room(&self, bytes: usize) -> Result<String> {
        self.settings.device.expect_room(bytes, SMALLER)
    }

    pub(super) fn base(&self) -> Base {
        held(self.settings.base(), self.files.quantized_as())
    }
}

/// How a base is held that the checkpoint may have in 4 bits already.
pub(crate) fn held(asked: Base, found: Option<QuantizedAs>) -> Base {
    match found {
        Some(QuantizedAs { format, double_quant }) => Base::Quantized { format, block_size: 64, double_quant },
        None => asked,
    }
}

/// What the weights of a base take on the device, with the tables of its rotations.
fn base_bytes(config: &Qwen3Config, base: Base, head_4bit: bool, dtype: DType) -> usize {
    Part::on_device(&base_parts(config, base, head_4bit, dtype, Home::Device))
}

/// The same, part by part.
pub(crate) fn base_parts(
    config: &Qwen3Config,
    base: Base,
    head_4bit: bool,
    dtype: DType,
    embedding: Home,
) -> Vec<Part> {
    let (hidden, dim) = (config.hidden_size, config.head_dim);
    let (q, kv) = (config.n_heads * dim, config.n_kv_heads * dim);
    let layer = hidden * (2 * q + 2 * kv + 3 * config.intermediate_size);
    let held = |numbers: usize| match base {
        // Half a byte, and for 64 of them a scale of one byte (4 for 256 more) or of four.
        Base::Quantized { double_quant: true, .. } => numbers / 2 + numbers / 64 + numbers / 4096,
        Base::Quantized { .. } => numbers / 2 + numbers / 16,
        Base::Unquantized => numbers * dtype.bytes(),
    };
    let (table, norms) = (config.vocab_size * hidden, config.n_layers * (2 * hidden + 2 * dim) + hidden);
    let head = match (head_4bit, config.tie_word_embeddings) {
        (true, _) => held(table),
        (false, true) => 0,
        (false, false) => table * dtype.bytes(),
    };
    let table = table * dtype.bytes();
    vec![
        Part::new("linear layers", held(config.n_layers * layer)),
        match embedding {
            Home::Device => Part::new("embedding", table),
            Home::Host => Part::on_host("embedding, on the host", table),
        },
        Part::new("output head", head),
        Part::new("norms and rotations", (norms + config.positions() * dim) * DType::F32.bytes()),
    ]
}

/// What an adapter takes, in numbers.
#[derive(Default)]
pub(crate) struct AdapterRoom {
    /// Of its own.
    pub numbers: usize,
    /// Of these, of tensors whose moments may be in 8 bits.
    pub large: usize,
    /// Of copies of tables in which it has rows.
    pub tables: usize,
    /// Whether the output head is another with it.
    pub changes_head: bool,
    /// Rows of tokens, as a product takes them.
    pub n_rows: usize,
    /// [`Layout::xa_columns`].
    pub xa_columns: usize,
    /// [`Layout::room`].
    pub room: usize,
    /// [`Layout::room_around`].
    pub room_around: usize,
    /// [`Layout::end_columns`].
    pub end_columns: usize,
    /// That of the embedding.
    pub embedding_rank: Option<usize>,
    /// [`Layout::dora_columns`].
    pub dora_columns: usize,
    /// [`Layout::dropped_columns`].
    pub dropped_columns: usize,
    /// [`Layout::dora_bytes`].
    pub dora_bytes: usize,
}

impl AdapterRoom {
    /// What activations are made with it, of a compute type of `size` bytes.
    pub fn room<'a>(&self, config: &'a Qwen3Config, size: usize) -> Room<'a> {
        let AdapterRoom { xa_columns, room, end_columns, embedding_rank, dora_columns, dropped_columns, .. } = *self;
        Room { config, xa_columns, room, end_columns, embedding_rank, dora_columns, dropped_columns, size }
    }

    pub fn of(lora: &LoraConfig, config: &Qwen3Config) -> Result<Self> {
        let head = lora.save_lm_head.then(|| elements::<f32>(&config.shape(Module::LmHead))).transpose()?;
        let mut layout = Layout::new(lora.resolve(config)?, head)?;
        if lora.use_dora {
            layout.take_magnitudes(lora.dropout)?;
        }
        let tokens = lora.tokens(config)?;
        tokens.iter().try_for_each(|(table, ids)| layout.take_tokens(*table, ids, config.hidden_size))?;
        let n_rows: usize = tokens.iter().map(|(_, ids)| ids.len().next_multiple_of(8)).sum();
        Ok(AdapterRoom {
            numbers: layout.len,
            large: layout.groups.iter().filter(|group| group.kind.large).map(|group| group.range.len()).sum(),
            tables: tokens.len() * config.hidden_size * config.vocab_size,
            changes_head: layout.changes_head(config.tie_word_embeddings),
            n_rows,
            xa_columns: layout.xa_columns,
            room: layout.room,
            room_around: layout.room_around(config)?,
            end_columns: layout.end_columns,
            embedding_rank: layout.embedding().map(|lora| lora.rank),
            dora_columns: layout.dora_columns(config),
            dropped_columns: layout.dropped_columns(),
            dora_bytes: layout.dora_bytes()?,
        })
    }
}
