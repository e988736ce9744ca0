//! How a model answers.

use super::section::section;
use crate::{
    config::GenerationConfig,
    device::Device,
    embedded::EMBEDDED,
    error::Result,
    hub,
    model::{Base, CacheType, SampleOptions},
    options::{MAX_NEW_TOKENS, MIN_P, REPETITION_PENALTY, TEMPERATURE, THREADS, TOP_K, TOP_P},
};
use halfbyte::{DType, quant::Format};
use std::path::PathBuf;

section! {
    /// The model that answers, and how it chooses its words.
    LlmSettings {
        /// Folder of a Qwen3 checkpoint, its name on the Hugging Face hub, or `embedded`
        model_name: String = EMBEDDED.into(), also ["model"];
        /// Folder of a PEFT adapter, or its name on the hub
        lora_path: Option<PathBuf> = None, also ["adapter"];
        /// Where to compute
        device: Device = Device::Auto;
        /// Threads that compute on the CPU [default: one for each core]
        threads: Option<usize> = None, within THREADS;
        /// Hold the base in 4 bits
        load_in_4bit: bool = true, also ["hf_load_in_4bit"];
        /// Type of activations in computations
        bnb_4bit_compute_dtype: DType = DType::Bf16, also ["dtype", "torch_dtype"];
        /// How 4 bits mean a weight
        bnb_4bit_quant_type: Format = Format::Nf4;
        /// Quantise the scales too
        bnb_4bit_use_double_quant: bool = true;
        /// Hold the output head in 4 bits, too: faster, less exact
        head_4bit: bool = false;
        /// Keep keys and values of tokens in 8 bits: about half the memory, less exact
        kv_cache_8bit: bool = false;
        /// Write at most so many tokens
        max_new_tokens: usize = 256, within MAX_NEW_TOKENS;
        /// 0 takes the most probable token
        temperature: f32 = 0.0, within TEMPERATURE;
        /// Choose among so many; 0 is off
        top_k: usize = 0, within TOP_K;
        /// Choose among the likeliest with this probability together; 1 is off
        top_p: f32 = 1.0, within TOP_P;
        /// Choose among those at least this share as likely as the likeliest; 0 is off
        min_p: f32 = 0.0, within MIN_P;
        /// Makes tokens that were there less likely; 1 is off
        repetition_penalty: f32 = 1.0, within REPETITION_PENALTY;
        /// Same seed, same text
        seed: u64 = 0;
        /// Instructions that come before a conversation
        system: Option<String> = None, also ["system_prompt"];
        /// The chat template's enable_thinking
        enable_thinking: Option<bool> = None;
        /// Continue a prompt as it is, without the chat template
        raw: bool = false;
    }
}

impl LlmSettings {
    /// How to hold the base.
    pub fn base(&self) -> Base {
        let (format, double_quant) = (self.bnb_4bit_quant_type, self.bnb_4bit_use_double_quant);
        if self.load_in_4bit { Base::Quantized { format, block_size: 64, double_quant } } else { Base::Unquantized }
    }

    /// How keys and values are kept.
    pub fn cache(&self) -> CacheType {
        CacheType::of(self.kv_cache_8bit)
    }

    /// How tokens are chosen.
    pub fn sampling(&self) -> SampleOptions {
        let LlmSettings { temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = *self;
        SampleOptions { temperature, top_k, top_p, min_p, repetition_penalty, seed }
    }

    /// The folder of the model, which is downloaded where it is not at hand.
    ///
    /// # Errors
    /// It is neither here nor on the hub.
    pub fn model_dir(&self) -> Result<PathBuf> {
        hub::model(&self.model_name)
    }

    /// The folder of the adapter, if there is to be one, likewise.
    ///
    /// # Errors
    /// As for the model.
    pub fn adapter_dir(&self) -> Result<Option<PathBuf>> {
        self.lora_path.as_deref().map(hub::adapter).transpose()
    }

    /// What a checkpoint's `generation_config.json` says of settings here: their names with their texts.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn recommended(&self) -> Result<Vec<(&'static str, String)>> {
        let config = GenerationConfig::open(&self.model_dir()?)?;
        let sampled = config.do_sample == Some(true);
        let text = |value: Option<f32>| value.map(|value| value.to_string());
        // transformers' own defaults for what a checkpoint that samples leaves out.
        let choice = [
            ("temperature", Some(text(config.temperature).unwrap_or("1".into()))),
            ("top_k", Some(config.top_k.unwrap_or(50).to_string())),
            ("top_p", text(config.top_p)),
            ("min_p", text(config.min_p)),
        ];
        let choice = choice.into_iter().filter(|_| sampled);
        let always = [
            ("repetition_penalty", text(config.repetition_penalty)),
            ("max_new_tokens", config.max_new_tokens.map(|n| n.to_string())),
        ];
        Ok(choice.chain(always).filter_map(|(name, text)| Some((name, text?))).collect())
    }
}

impl Default for SampleOptions {
    /// Of [`LlmSettings`]: greedy.
    fn default() -> Self {
        LlmSettings::default().sampling()
    }
}
