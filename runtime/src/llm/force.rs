//! What is in force, for the first lines of a program; and settings that would have no effect, which are errors.

use super::Prepared;
use crate::{
    Error, Result,
    chat::ChatTemplate,
    checkpoint::{Checkpoint, QuantizedAs},
    lora::LoraConfig,
    settings::{LlmSettings, Loaded, Value},
};

/// Refuses ways of holding the base that a checkpoint in 4 bits does not leave open.
pub(super) fn expect_base(settings: &LlmSettings, files: &Checkpoint) -> Result<()> {
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

/// Refuses settings of a conversation where there is none, or whose template does not read them.
pub(super) fn expect_template(settings: &LlmSettings, template: Option<&ChatTemplate>) -> Result<()> {
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

/// Refuses what was asked for of `section` and cannot have an effect, even where it asks for the default.
///
/// # Errors
/// Names the setting and where it was asked for.
pub fn expect_effect(loaded: &Loaded, section: &str, in_4bit: bool, files: &Checkpoint) -> Result<()> {
    let found = files.quantized_as();
    for (name, text) in [
        ("bnb_4bit_quant_type", found.map(|found| found.format.show())),
        ("bnb_4bit_use_double_quant", found.map(|found| found.double_quant.show())),
    ] {
        let asked = loaded.config.section(section).and_then(|section| section.show(name));
        match text {
            Some(text) if asked.as_ref() != Some(&text) => {
                loaded.refuse(section, name, &format!("the checkpoint is in 4 bits already, with {text}"))?;
            }
            None if !in_4bit => loaded.refuse(section, name, "the base is not held in 4 bits")?,
            _ => {}
        }
    }
    Ok(())
}

/// Model, base, compute type, adapter and sampling, a line for each.
pub fn in_force(prepared: &Prepared) -> Vec<String> {
    let settings = &prepared.settings;
    let adapter = match (&settings.lora_path, &prepared.adapter) {
        (Some(path), Some(adapter)) => format!("{} ({})", path.display(), describe(&adapter.config)),
        _ => "none".into(),
    };
    vec![
        format!(
            "model: {} ({} layers, hidden {})",
            prepared.dir.display(),
            prepared.config.n_layers,
            prepared.config.hidden_size
        ),
        format!(
            "base: {}; computing in {}",
            base(settings, prepared.files.quantized_as()),
            settings.bnb_4bit_compute_dtype.show()
        ),
        format!("adapter: {adapter}"),
        format!("sampling: {}", sampling(settings)),
    ]
}

/// How the base is held, and who says so.
fn base(settings: &LlmSettings, found: Option<QuantizedAs>) -> String {
    match found {
        Some(found) => format!("{found} (as the checkpoint has it)"),
        None if settings.load_in_4bit => {
            let format = settings.bnb_4bit_quant_type;
            format!(
                "{} (quantised while loading)",
                QuantizedAs { format, double_quant: settings.bnb_4bit_use_double_quant }
            )
        }
        None => "unquantised".into(),
    }
}

fn describe(lora: &LoraConfig) -> String {
    format!("r {}, alpha {}, targets {}", lora.r, lora.alpha, lora.target_modules)
}

fn sampling(settings: &LlmSettings) -> String {
    let LlmSettings { temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, seed, .. } = settings;
    let penalty =
        if *repetition_penalty == 1.0 { String::new() } else { format!(", repetition penalty {repetition_penalty}") };
    let choice = match *temperature {
        0.0 => "the likeliest token".into(),
        t => format!("temperature {t}, top-k {top_k}, top-p {top_p}, min-p {min_p}, seed {seed}"),
    };
    format!("{choice}{penalty}; up to {max_new_tokens} tokens")
}
