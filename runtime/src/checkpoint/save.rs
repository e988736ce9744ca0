use std::path::Path;

use halfbyte::DType;
use halfbyte::quant::Format;
use serde_json::{Value, json};

use super::writer::CheckpointWriter;
use crate::builder::builder;
use crate::config::dtype_name;
use crate::error::{Error, Result};
use crate::{files, python_json};

/// What belongs to a model beside its weights and `config.json`.
pub(crate) const COMPANIONS: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

builder! {
    /// How a 4-bit checkpoint was quantised: what is ours to choose of `quantization_config`, transformers' `BitsAndBytesConfig`.
    #[derive(Debug, Clone, Copy)]
    pub struct BnbConfig {
        /// Which codes.
        pub format: Format,
        /// Whether the block scales are quantised too.
        pub double_quant: bool,
        /// The type to compute in.
        pub compute: DType,
    }
}

impl BnbConfig {
    /// With scales that are quantised, too.
    pub fn new(format: Format, compute: DType) -> Self {
        BnbConfig { format, double_quant: true, compute }
    }
}

impl CheckpointWriter {
    /// Adds `config.json` from the text of the source model's, with the `quantization_config` that transformers writes
    /// for a bitsandbytes model, or without any.
    pub fn put_config(&mut self, source: &str, bnb: Option<BnbConfig>) -> Result<()> {
        self.put_config_with(source, bnb.map(BnbConfig::to_json))
    }

    /// The same with any `quantization_config`.
    pub(crate) fn put_config_with(&mut self, source: &str, quantization: Option<Value>) -> Result<()> {
        const NAME: &str = "config.json";
        let mut config: Value = serde_json::from_str(source).map_err(Error::json(Path::new(NAME)))?;
        if let Some(keys) = config.as_object_mut() {
            match quantization {
                Some(quantization) => keys.insert("quantization_config".to_owned(), quantization),
                None => keys.shift_remove("quantization_config"),
            };
        }
        self.put_file(NAME, (python_json::sorted(&config) + "\n").as_bytes())
    }

    /// Copies the tokenizer, the chat template and the generation defaults of the model in `from`, those that there are.
    pub fn put_companions(&mut self, from: &Path) -> Result<()> {
        for name in COMPANIONS {
            let path = from.join(name);
            if files::exists(&path) {
                self.put_file(name, files::open(&path)?)?;
            }
        }
        Ok(())
    }
}

impl BnbConfig {
    fn to_json(self) -> Value {
        json!({
            "_load_in_4bit": true,
            "_load_in_8bit": false,
            "bnb_4bit_compute_dtype": dtype_name(self.compute),
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": self.format.to_string(),
            "bnb_4bit_use_double_quant": self.double_quant,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": null,
            "llm_int8_threshold": 6.0,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "quant_method": "bitsandbytes",
        })
    }
}
