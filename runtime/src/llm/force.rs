//! What is in force, for the first lines of a program; and settings that would have no effect, which are errors.

use super::prepared::Prepared;
use crate::{
    checkpoint::{Checkpoint, QuantizedAs},
    config::Qwen3Config,
    error::Result,
    lora::{LoraConfig, Targets},
    model::Base,
    settings::{LlmSettings, Loaded, Section, Value},
};
use halfbyte::{Count, DType};
use std::path::Path;

/// Refuses what was asked for of the section `llm` and cannot have an effect, even where it asks for the default;
/// `seed_matters` where the seed has another use than to choose tokens.
///
/// # Errors
/// Names the setting and where it was asked for.
pub fn expect_effect(loaded: &Loaded, files: &Checkpoint, seed_matters: bool) -> Result<()> {
    let llm = &loaded.config.llm;
    if llm.temperature == 0.0 {
        let chance = ["top_k", "top_p", "min_p", "seed"];
        let chance = if seed_matters { &chance[..3] } else { &chance };
        loaded.refuse_options("llm", chance, "at temperature 0 the likeliest token is taken")?;
    }
    idle(llm, llm.load_in_4bit, files).iter().try_for_each(|(name, why)| loaded.refuse("llm", name, why))
}

/// The settings of a 4-bit base that cannot have an effect, and why.
pub(crate) fn idle(settings: &dyn Section, in_4bit: bool, files: &Checkpoint) -> Vec<(&'static str, String)> {
    let found = files.quantized_as();
    let why = |(name, text): (&'static str, Option<String>)| match text {
        Some(text) if settings.show(name).as_ref() != Some(&text) => {
            Some((name, format!("the checkpoint is in 4 bits already, with {text}")))
        }
        None if !in_4bit => Some((name, "the base is not held in 4 bits".into())),
        _ => None,
    };
    let all = [
        ("bnb_4bit_quant_type", found.map(|found| found.format.show())),
        ("bnb_4bit_use_double_quant", found.map(|found| found.double_quant.show())),
    ];
    all.into_iter().filter_map(why).collect()
}

/// Model, base with its compute type, and adapter, a line for each.
pub fn in_force(prepared: &Prepared) -> Vec<String> {
    let settings = &prepared.settings;
    let adapter = match (&settings.lora_path, &prepared.adapter) {
        (Some(path), Some(adapter)) => format!("{} ({})", path.display(), describe(&adapter.config)),
        _ => "none".into(),
    };
    vec![
        model_line(&prepared.dir, &prepared.config),
        base_line(settings.base(), prepared.files.quantized_as(), settings.bnb_4bit_compute_dtype)
            + if settings.head_4bit { "; the head in 4 bits, too" } else { "" },
        format!("adapter: {adapter}"),
    ]
}

pub(crate) fn model_line(dir: &Path, config: &Qwen3Config) -> String {
    format!("model: {} ({}, hidden {})", dir.display(), Count(config.n_layers, "layer"), config.hidden_size)
}

/// How the base is held, and who says so.
pub(crate) fn base_line(base: Base, found: Option<QuantizedAs>, dtype: DType) -> String {
    let held = match (found, base) {
        (Some(found), _) => format!("{found} (as the checkpoint has it)"),
        (None, Base::Quantized { format, double_quant, .. }) => {
            format!("{} (quantised while loading)", QuantizedAs { format, double_quant })
        }
        (None, Base::Unquantized) => "unquantised".into(),
    };
    format!("base: {held}; computing in {}", dtype.show())
}

pub(crate) fn describe(lora: &LoraConfig) -> String {
    let targets = match &lora.target_modules {
        Targets::Names(names) => names.join(", "),
        other => other.to_string(),
    };
    let dora = if lora.use_dora { "DoRA, " } else { "" };
    format!("{dora}r {}, alpha {}, targets {targets}", lora.r, lora.alpha)
}

/// How answers are written, in a line.
pub fn sampling(settings: &LlmSettings) -> String {
    let LlmSettings {
        temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, seed, kv_cache_8bit, ..
    } = settings;
    let penalty =
        if *repetition_penalty == 1.0 { String::new() } else { format!(", repetition penalty {repetition_penalty}") };
    let choice = match *temperature {
        0.0 => "the likeliest token".into(),
        t => format!("temperature {t}, top-k {top_k}, top-p {top_p}, min-p {min_p}, seed {seed}"),
    };
    let cache = if *kv_cache_8bit { "; keys and values in 8 bits" } else { "" };
    format!("sampling: {choice}{penalty}; up to {}{cache}", Count(*max_new_tokens, "token"))
}
