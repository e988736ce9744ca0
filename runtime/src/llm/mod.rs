//! A model that answers, without the backend and the type in its name.
//!
//! ```no_run
//! use halfbyte_runtime::{llm::Llm, settings::LlmSettings};
//!
//! let settings = LlmSettings { model_name: "Qwen3-8B".into(), ..LlmSettings::default() };
//! let llm = Llm::new(&settings)?;
//! println!("{}", llm.invoke("Where is Kyoto?")?);
//! # Ok::<(), halfbyte_runtime::Error>(())
//! ```

mod conversation;
mod engine;
mod force;
mod need;

pub use conversation::Conversation;
pub use engine::Stream;
pub(crate) use force::{base_line, describe, idle, model_line};
pub use force::{expect_effect, in_force, sampling};
pub(crate) use need::{AdapterRoom, base_bytes, held};
pub use need::{Extent, Need, Work};

use crate::{
    Result,
    batch::Branches,
    chat::{Chat, ChatTemplate, message},
    checkpoint::{Checkpoint, QuantizedAs},
    config::{GenerationConfig, Qwen3Config},
    evaluate::score::log_likelihood,
    generate::generator::{GenerateOptions, Generated},
    lora::Adapter,
    model::{Base, checkpoint_note},
    settings::{EMBEDDED, LlmSettings},
    tokenizer::Tokenizer,
};
use engine::{Engine, Load};
use halfbyte::MemoryUse;
use serde_json::Value;
use std::{ops::ControlFlow, path::PathBuf};

/// All that is known of a model before its weights are loaded.
pub struct Prepared {
    /// As they were given.
    pub settings: LlmSettings,
    /// The checkpoint's folder.
    pub dir: PathBuf,
    /// The model's shape.
    pub config: Qwen3Config,
    /// Its weights, still in their files.
    pub files: Checkpoint,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// What the user should know.
    pub notes: Vec<String>,
    adapter: Option<Adapter>,
    template: Option<ChatTemplate>,
    stop_tokens: Vec<u32>,
}

impl Prepared {
    /// Opens and checks everything but the weights: milliseconds, and no GPU.
    ///
    /// # Errors
    /// A file is missing, damaged or contradicts another, or a setting would have no effect on this model.
    pub fn new(settings: &LlmSettings) -> Result<Self> {
        let dir = settings.model_dir()?;
        let (config, tokenizer) = (Qwen3Config::open(&dir)?, Tokenizer::open(&dir)?);
        let files = Checkpoint::open(&dir)?;
        force::expect_base(settings, &files)?;
        let generation = GenerationConfig::open(&dir)?;
        let adapter = settings.lora_path.as_ref().map(|path| Adapter::open(path, &config)).transpose()?;
        let (adapter, adapter_note) = adapter.unzip();
        let raw = settings.raw || settings.model_name == EMBEDDED;
        let template = if raw { None } else { Some(ChatTemplate::open(&dir, &tokenizer)?) };
        force::expect_template(settings, template.as_ref())?;
        force::expect_head(settings, &config, &files, adapter.as_ref())?;
        let template_note = template.as_ref().and_then(ChatTemplate::note).map(str::to_owned);
        let notes = [checkpoint_note(&files, &config)?, generation.note(), adapter_note.flatten(), template_note];
        let mut stop_tokens = tokenizer.eos_ids().to_vec();
        stop_tokens.extend(generation.eos_token_ids.iter().chain(&config.eos_token_ids));
        let (settings, notes) = (settings.clone(), notes.into_iter().flatten().collect());
        Ok(Prepared { settings, dir, config, files, tokenizer, notes, adapter, template, stop_tokens })
    }

    /// How the head is held, where the settings ask for 4 bits.
    fn head(&self) -> Option<QuantizedAs> {
        match self.base() {
            Base::Quantized { format, double_quant, .. } if self.settings.head_4bit => {
                Some(QuantizedAs { format, double_quant })
            }
            _ => None,
        }
    }

    /// Whether prompts become turns of a conversation, by a chat template.
    pub fn chats(&self) -> bool {
        self.template.is_some()
    }

    /// The text of a conversation as the model reads it, the system prompt of the settings first; without a template the
    /// texts of the messages, which a model that was never taught to converse may continue.
    ///
    /// # Errors
    /// The template refuses it.
    pub fn text(&self, messages: &[Value]) -> Result<String> {
        let Some(template) = &self.template else { return Ok(texts(messages)) };
        let own = messages.first().is_some_and(|message| message["role"] == "system");
        let system = self.settings.system.iter().filter(|_| !own).map(|text| message("system", text));
        let messages: Vec<_> = system.chain(messages.iter().cloned()).collect();
        let enable_thinking = self.settings.enable_thinking;
        template.render(&Chat { messages: &messages, add_generation_prompt: true, enable_thinking, ..Chat::default() })
    }

    /// Loads the weights.
    ///
    /// # Errors
    /// A weight is missing or damaged, or the device cannot be used or has too little memory.
    pub fn load(self) -> Result<Llm> {
        let Prepared { files, config, adapter, settings, .. } = &self;
        let load = Load { files, config, base: settings.base(), head: self.head(), adapter: adapter.as_ref() };
        let engine = load.on(settings.device, settings.bnb_4bit_compute_dtype)?;
        Ok(Llm { engine, prepared: self })
    }
}

fn texts(messages: &[Value]) -> String {
    messages.iter().filter_map(|message| message["content"].as_str()).collect::<Vec<_>>().join("\n\n")
}

/// A model that answers. Threads may share it.
pub struct Llm {
    prepared: Prepared,
    engine: Box<dyn Engine>,
}

/// What an option of a question is worth to the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Log-likelihood of the option after the prompt, in nats.
    pub sum: f64,
    /// Its tokens.
    pub n_tokens: usize,
}

impl Score {
    /// Log-likelihood of a token, on average.
    pub fn mean(&self) -> f64 {
        self.sum / self.n_tokens as f64
    }
}

/// Tokens of options that are scored at once.
const SCORED_AT_ONCE: usize = 4096;

impl Llm {
    /// Loads the model that the settings name, with its adapter.
    ///
    /// # Errors
    /// See [`Prepared::new`] and [`Prepared::load`].
    pub fn new(settings: &LlmSettings) -> Result<Self> {
        Prepared::new(settings)?.load()
    }

    /// What was known before the weights were loaded.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The name of the device.
    pub fn device(&self) -> String {
        self.engine.device()
    }

    /// What its buffers take.
    pub fn memory(&self) -> MemoryUse {
        self.engine.memory()
    }

    /// The answer to a prompt.
    ///
    /// # Errors
    /// The prompt is empty or too long, or the device refuses.
    pub fn invoke(&self, prompt: &str) -> Result<String> {
        Ok(self.chat(&[message("user", prompt)])?.text)
    }

    /// The next turn of a conversation of messages `{"role", "content"}`.
    ///
    /// # Errors
    /// The template refuses the conversation, it is too long, or the device refuses.
    pub fn chat(&self, messages: &[Value]) -> Result<Generated> {
        self.stream(messages, |_| ControlFlow::Continue(()))
    }

    /// [`Llm::chat`], which hands each piece of text to `each` as soon as it is there; that may end it.
    ///
    /// # Errors
    /// See [`Llm::chat`].
    pub fn stream(&self, messages: &[Value], mut each: impl FnMut(&str) -> ControlFlow<()>) -> Result<Generated> {
        let mut made = self.continue_all(&[self.prepared.text(messages)?], &mut |_, piece| each(piece))?;
        Ok(made.remove(0))
    }

    /// The answers to several conversations, written together.
    ///
    /// # Errors
    /// See [`Llm::chat`].
    pub fn chat_all(&self, conversations: &[Vec<Value>]) -> Result<Vec<Generated>> {
        let texts = conversations.iter().map(|messages| self.prepared.text(messages));
        self.continue_all(&texts.collect::<Result<Vec<_>>>()?, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Continues texts as they are, without a template, together.
    ///
    /// # Errors
    /// A text is empty or too long, or the device refuses.
    pub fn continue_all(&self, texts: &[String], stream: Stream<'_>) -> Result<Vec<Generated>> {
        let Prepared { tokenizer, settings, stop_tokens, .. } = &self.prepared;
        let prompts = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        let options = GenerateOptions {
            max_new_tokens: settings.max_new_tokens,
            stop_tokens: stop_tokens.clone(),
            sample: settings.sampling(),
            skip_special: true,
        };
        self.engine.generate(tokenizer, &prompts, &options, stream)
    }

    /// How likely each option is as the continuation of a text, which is read as it is.
    ///
    /// # Errors
    /// The text or an option is empty or too long, or the device refuses.
    pub fn scores(&self, prompt: &str, options: &[&str]) -> Result<Vec<Score>> {
        let tokenizer = &self.prepared.tokenizer;
        let options = options.iter().map(|option| tokenizer.encode(option)).collect::<Result<_>>()?;
        let branches = Branches { prompt: tokenizer.encode(prompt)?, options };
        let score = |losses: &Vec<f32>| Score { sum: log_likelihood(losses), n_tokens: losses.len() };
        Ok(self.losses(&[branches])?.iter().flatten().map(score).collect())
    }

    /// The loss in nats of every token of every option of each prompt. A prompt is computed once.
    ///
    /// # Errors
    /// A prompt or an option is empty, too long or has a token that the model has not, or the device refuses.
    pub fn losses(&self, all: &[Branches]) -> Result<Vec<Vec<Vec<f32>>>> {
        self.engine.losses(all, SCORED_AT_ONCE)
    }
}
