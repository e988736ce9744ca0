//! The model card of an adapter, with PEFT's metadata.

use super::{
    history::{History, smoothed},
    page::plain,
    render, signed,
};
use crate::{
    error::Result,
    lora::{LoraConfig, PEFT_VERSION},
};
use serde::Serialize;

#[derive(Serialize)]
struct Card<'a> {
    name: String,
    /// As YAML writes a text.
    base: String,
    base_tag: String,
    /// As Markdown, Python and a shell take it.
    base_shown: String,
    base_python: String,
    base_shell: String,
    qlora: bool,
    /// Whether `loss.svg` lies beside it.
    figure: bool,
    rows: Vec<(&'static str, String)>,
    lines: Vec<String>,
    version: &'a str,
    peft: &'static str,
}

/// What is known of an adapter, as `README.md`.
pub(super) fn card(name: &str, history: &History, lora: &LoraConfig, figure: bool) -> Result<String> {
    let about = &history.about;
    let base = lora.base_model.as_deref().unwrap_or(&about.model);
    let card = Card {
        name: escaped(name),
        base: quoted(base),
        base_tag: quoted(&format!("base_model:adapter:{base}")),
        base_shown: code(base),
        base_python: serde_json::Value::from(base).to_string(),
        base_shell: format!("'{}'", base.replace('\'', r"'\''")),
        qlora: about.settings.get("use_4bit") == Some(&true.into()),
        figure,
        rows: rows(history, lora),
        lines: about.data.iter().map(|line| escaped(line)).collect(),
        version: if about.version.is_empty() { env!("CARGO_PKG_VERSION") } else { &about.version },
        peft: PEFT_VERSION,
    };
    Ok(signed::sign(&render("card", include_str!("card.md"), &card)?))
}

fn rows(history: &History, lora: &LoraConfig) -> Vec<(&'static str, String)> {
    let loss = smoothed(&history.series(|record| record.loss));
    let heldout = history.series(|record| record.eval_loss);
    let exam = history.series(|record| record.eval_accuracy);
    let last = |series: &[(f64, f64)]| series.last().map(|point| point.1);
    let setting = |name: &str| history.about.settings.get(name).map(plain);
    let in_4bit = history.about.settings.get("use_4bit") == Some(&true.into());
    let base = if in_4bit {
        setting("bnb_4bit_quant_type").map(|format| format + " in 4 bits")
    } else {
        Some("unquantised".into())
    };
    let rate = history.series(|record| record.lr).into_iter().map(|(_, rate)| rate).reduce(f64::max);
    [
        ("Rank, alpha", Some(format!("{}, {}", lora.r, lora.alpha))),
        ("Target modules", Some(escaped(&lora.target_modules.to_string()))),
        (
            "Base, compute type",
            base.zip(setting("bnb_4bit_compute_dtype")).map(|(base, dtype)| format!("{base}, {dtype}")),
        ),
        (
            "Highest learning rate, schedule",
            rate.zip(setting("lr_scheduler_type")).map(|(rate, kind)| format!("{rate:e}, {kind}")),
        ),
        ("Steps", Some(history.done().to_string())),
        ("Loss at the end, smoothed", last(&loss).map(|loss| format!("{loss:.3} nats a token"))),
        ("Held-out loss at the end", last(&heldout).map(|loss| format!("{loss:.3} nats a token"))),
        ("Accuracy in the exam", last(&exam).map(|share| format!("{:.1} %", 100.0 * share))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// JSON's texts are YAML's and Python's, too.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    let is_plain =
        text.chars().all(plain) && text.starts_with(|c: char| c.is_ascii_alphabetic()) && !text.ends_with(':');
    let json = serde_json::Value::from(text).to_string();
    if is_plain { text.to_owned() } else { json }
}

/// Of Markdown: what would begin something, or end a cell of a table.
fn escaped(text: &str) -> String {
    let special = |c: char| "\\`*_[]<>|#".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

fn code(text: &str) -> String {
    format!("`{}`", text.replace('`', "'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::Targets;

    fn of(base: &str) -> String {
        let mut lora = LoraConfig::new(8, 16.0, Targets::from_text("q_proj"));
        lora.set_base(base.into(), None);
        let metrics = r#"{"step":0,"run":{"version":"1","model":"m","settings":{"use_4bit":true,"learning_rate":null}}}
            {"step":1,"loss":3.5,"lr":0.1}"#;
        card("my_run", &History::parse(metrics), &lora, true).unwrap()
    }

    #[test]
    fn it_has_the_metadata_of_peft() {
        let card = of("Qwen/Qwen3-8B");
        let head = "---\nbase_model: Qwen/Qwen3-8B\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n\
                    - base_model:adapter:Qwen/Qwen3-8B\n- lora\n- transformers\n- qlora\n---\n\n# my\\_run\n";
        assert!(card.starts_with(head), "{card}");
        assert!(card.contains("(loss.svg)") && card.contains("| Steps | 1 |") && card.contains("q\\_proj"), "{card}");
        assert!(signed::is_own(&card));
    }

    #[test]
    fn a_path_is_quoted_where_yaml_would_read_something_else() {
        let card = of("/my models/a: \"b\" #c");
        assert!(card.contains("\nbase_model: \"/my models/a: \\\"b\\\" #c\"\n"), "{card}");
        assert!(quoted("/models/Qwen3").starts_with('"') && quoted("true:") == "\"true:\"");
    }
}
