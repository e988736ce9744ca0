//! Templates and tokenizers that are made to take memory or time, or to panic.

use std::fs;
use std::time::{Duration, Instant};

use halfbyte::host;
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
        "{% set x = 'x' * 9999999 %}{% for a in range(99999) %}{% if x | upper == x %}{% endif %}{% endfor %}",
    ];
    for source in sources {
        let began = Instant::now();
        let error = render(source, &messages).unwrap_err();
        assert!(error.starts_with("chat template `hostile`"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{source}: {:?}", began.elapsed());
    }
}

/// Each would make half a gigabyte or more, with a few rounds more any size.
#[test]
fn templates_that_make_too_much_are_refused() {
    let messages = [message("user", "hello")];
    let doubled = |start: &str, change: &str| {
        let double = "{% for i in range(25) %}CHANGE{% endfor %}{{ ns.x | length }}".replace("CHANGE", change);
        format!("{{% set ns = namespace(x={start}) %}}{double}")
    };
    let text = |change| doubled("'sixteen letters.'", change);
    let sources = [
        text("{% set ns.x = ns.x ~ ns.x %}"),
        text("{% set ns.x = ns.x + ns.x %}"),
        text("{% set ns.x = [ns.x, ns.x] | join %}"),
        text("{% set ns.x = ''.join([ns.x, ns.x]) %}"),
        text("{% set ns.x = ns.x.replace('s', 'ss').replace('.', 'letters.letters.') %}"),
        text("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
        doubled("[1]", "{% set ns.x = (ns.x + ns.x) | list %}"),
        doubled("[1]", "{% set ns.x = [ns.x, ns.x] %}").replace("length", "tojson | length"),
        "{{ ([1] * 99999) | tojson(separators=('x' * 30000, ':')) | length }}".into(),
        "{{ '{:2999999999}'.format(1) | length }}".into(),
        "{{ '{0:}>2999999999}'.format(1) | length }}".into(),
    ];
    for source in &sources {
        let error = render(source, &messages).expect_err(source);
        assert!(error.contains("out of fuel"), "{error}\n{source}");
        // Also of what is made before it can be charged.
        let peak = host::process_peak().unwrap_or(0);
        assert!(peak < 2 << 30, "{peak} bytes were taken\n{source}");
    }
    let widths = "{{ '{:>3}{:}^3}{{99999999999}}'.format(1, 2) }} {{ '{} 99999999999'.format(1) }}";
    assert_eq!(render(widths, &messages).unwrap(), "  1}2}{99999999999} 1 99999999999");
    let depth = "{% set ns = namespace(x=[1]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}";
    let error = render(depth, &messages).unwrap_err();
    assert!(error.contains("at most 128 levels"), "{error}");
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
