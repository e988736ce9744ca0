//! Templates and tokenizers that are made to take memory or time, or to panic.

use std::fs;
use std::time::{Duration, Instant};

use halfbyte_runtime::chat::{Chat, ChatTemplate, message};
use halfbyte_runtime::tokenizer::Tokenizer;
use serde_json::Value;

use super::{test_data, tiny_model};

fn render(source: &str, messages: &[Value]) -> Result<String, String> {
    let template = ChatTemplate::from_source("hostile", source).map_err(|e| e.to_string())?;
    template.render(&Chat { messages, add_generation_prompt: true, ..Chat::default() }).map_err(|e| e.to_string())
}

#[test]
fn templates_end() {
    let messages = [message("user", "hello")];
    let sources = [
        "{{ messages | tojson(indent=18446744073709551615) }}",
        "{{ messages | tojson(indent=9999999999) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set n = namespace(x='x' * 99999) %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set x = 'x' * 9999999 %}{% for a in range(99999) %}{% if x | upper == x %}{% endif %}{% endfor %}",
    ];
    for source in sources {
        let began = Instant::now();
        let error = render(source, &messages).unwrap_err();
        assert!(error.starts_with("chat template `hostile`"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{source}: {:?}", began.elapsed());
    }
}

/// What a filter does takes as many steps as its text is long.
#[test]
fn templates_end_that_write_a_long_conversation_over_and_over() {
    let messages = [message("user", &"x".repeat(1_000_000))];
    let began = Instant::now();
    let source = "{% for a in range(99999) %}{% set text = messages | tojson %}{% endfor %}";
    let error = render(source, &messages).unwrap_err();
    assert!(error.contains("fuel"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// The limits are far above what real conversations take.
#[test]
fn long_conversations_are_rendered() {
    let Some(folder) = test_data("qwen3-tokenizer") else { return };
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let template = ChatTemplate::open(&folder, &tokenizer).unwrap();
    let text = "The ferry leaves at noon. ".repeat(8);
    let messages: Vec<_> = (0..10_000)
        .map(|i| message(["user", "assistant"][i % 2], &text))
        .chain([message("user", "And then?")])
        .collect();
    let tools = serde_json::json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let chat = Chat { messages: &messages, tools: Some(&tools), add_generation_prompt: true, ..Chat::default() };
    assert!(template.render(&chat).unwrap().len() > 2_000_000);
}

/// The embedded tokenizer with a change to its text.
fn tokenizer(change: impl FnOnce(&str) -> String) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(tiny_model().join("tokenizer.json")).unwrap();
    fs::write(dir.path().join("tokenizer.json"), change(&text)).unwrap();
    Tokenizer::open(dir.path()).map_err(|e| e.to_string())
}

#[test]
fn damaged_tokenizers_are_refused() {
    let without_comma = |text: &str| {
        let at = text.find("\"decoder\"").unwrap();
        let comma = at + text[at..].find(',').unwrap();
        format!("{}{}", &text[..comma], &text[comma + 1..])
    };
    let error = tokenizer(without_comma).unwrap_err();
    assert!(error.contains("tokenizer.json") && error.contains("JSON"), "{error}");
    let error =
        tokenizer(|text| text.replacen("\"content\": \"", &format!("\"content\": \"{}", "x".repeat(200_000)), 1));
    let error = error.unwrap_err();
    assert!(error.contains("added_tokens") && error.contains("number 0"), "{error}");
    assert!(tokenizer(|text| text.to_owned()).is_ok());
}
