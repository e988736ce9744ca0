//! All that is known of a model before its weights are loaded.

use crate::{
    chat::{Chat, ChatTemplate, message},
    checkpoint::{Checkpoint, QuantizedAs},
    config::{GenerationConfig, Qwen3Config},
    error::{Error, Result},
    lora::Adapter,
    model::{Base, checkpoint_note},
    settings::{EMBEDDED, LlmSettings, Value as _},
    tokenizer::Tokenizer,
};
use serde_json::Value;
use std::path::PathBuf;

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
    pub(super) adapter: Option<Adapter>,
    pub(super) template: Option<ChatTemplate>,
    pub(super) stop_tokens: Vec<u32>,
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
        expect_base(settings, &files)?;
        let generation = GenerationConfig::open(&dir)?;
        let adapter = settings.adapter_dir()?.map(|dir| Adapter::open(&dir, &config)).transpose()?;
        let (adapter, adapter_note) = adapter.unzip();
        let raw = settings.raw || settings.model_name == EMBEDDED;
        let template = if raw { None } else { Some(ChatTemplate::open(&dir, &tokenizer)?) };
        expect_template(settings, template.as_ref())?;
        expect_head(settings, &config, &files, adapter.as_ref())?;
        let template_note = template.as_ref().and_then(ChatTemplate::note).map(str::to_owned);
        let notes = [checkpoint_note(&files, &config)?, generation.note(), adapter_note.flatten(), template_note];
        let mut stop_tokens = tokenizer.eos_ids().to_vec();
        stop_tokens.extend(generation.eos_token_ids.iter().chain(&config.eos_token_ids));
        let (settings, notes) = (settings.clone(), notes.into_iter().flatten().collect());
        Ok(Prepared { settings, dir, config, files, tokenizer, notes, adapter, template, stop_tokens })
    }

    /// How the head is held, where the settings ask for 4 bits.
    pub(super) fn head(&self) -> Option<QuantizedAs> {
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
}

fn texts(messages: &[Value]) -> String {
    messages.iter().filter_map(|message| message["content"].as_str()).collect::<Vec<_>>().join("\n\n")
}

/// Refuses ways of holding the base that a checkpoint in 4 bits does not leave open.
fn expect_base(settings: &LlmSettings, files: &Checkpoint) -> Result<()> {
    let Some(found) = files.quantized_as() else { return Ok(()) };
    let defaults = LlmSettings::default();
    let refuse = |name, got: String| {
        let want =
            format!("`{}` is already in {found}; leave it out, or use the original checkpoint", files.dir().display());
        Err(Error::setting(name, got, want))
    };
    if !settings.load_in_4bit {
        return refuse("load_in_4bit", "false".into());
    }
    let format = settings.bnb_4bit_quant_type;
    if format != found.format && format != defaults.bnb_4bit_quant_type {
        return refuse("bnb_4bit_quant_type", format.show());
    }
    let double = settings.bnb_4bit_use_double_quant;
    if double != found.double_quant && double != defaults.bnb_4bit_use_double_quant {
        return refuse("bnb_4bit_use_double_quant", double.show());
    }
    Ok(())
}

/// Refuses a head in 4 bits where it would be as it was, or not be used.
fn expect_head(
    settings: &LlmSettings,
    config: &Qwen3Config,
    files: &Checkpoint,
    adapter: Option<&Adapter>,
) -> Result<()> {
    let refuse = |want: &str| Err(Error::setting("head_4bit", "true", want));
    if !settings.head_4bit {
        return Ok(());
    }
    if !settings.load_in_4bit {
        return refuse("the base is not held in 4 bits: leave it out, or set load_in_4bit");
    }
    if files.get("lm_head.weight.absmax").is_some() {
        return refuse("the checkpoint has its head in 4 bits already: leave it out");
    }
    if adapter.is_some_and(|adapter| adapter.has_head(config)) {
        return refuse("the adapter has a head, or rows of it, of its own: leave it out");
    }
    Ok(())
}

/// Refuses settings of a conversation where there is none, or whose template does not read them.
fn expect_template(settings: &LlmSettings, template: Option<&ChatTemplate>) -> Result<()> {
    let thinking = settings.enable_thinking.is_some();
    match template {
        None if settings.system.is_some() || thinking => {
            let name = if thinking { "enable_thinking" } else { "system" };
            Err(Error::setting(name, "set", "prompts are continued as they are, without a chat template: leave it out"))
        }
        Some(template) if thinking && !template.uses("enable_thinking") => {
            Err(Error::setting("enable_thinking", "set", "the model's chat template does not read it: leave it out"))
        }
        _ => Ok(()),
    }
}
