use halfbyte_runtime::chat::{Chat, ChatTemplate, message};
use halfbyte_runtime::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use crate::{test_data, tiny_model};

/// Renders `messages` with a template given by its text.
fn render(source: &str, chat: Chat) -> halfbyte_runtime::Result<String> {
    ChatTemplate::from_source("test.jinja", source)?.render(&chat)
}

#[test]
fn qwen3_conversations_are_those_of_transformers() {
    let Some(folder) = test_data("qwen3-tokenizer") else { return };
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let template = ChatTemplate::open(&folder, &tokenizer).unwrap();
    assert!(template.uses("enable_thinking") && template.uses("tools") && template.note().is_none());
    let golden: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("golden_chat.json")).unwrap()).unwrap();
    assert_eq!(golden.len(), 7);
    for case in golden {
        let input = &case["input"];
        let text = template.render(&Chat {
            messages: input["messages"].as_array().unwrap(),
            tools: input.get("tools"),
            add_generation_prompt: input["add_generation_prompt"] == true,
            enable_thinking: input["enable_thinking"].as_bool(),
            extra: None,
        });
        let text = text.unwrap();
        assert_eq!(text, case["rendered"]);
        assert_eq!(json!(tokenizer.encode(&text).unwrap()), case["ids"]);
    }
}

#[test]
fn markers_without_a_template_give_plain_chatml_and_a_note() {
    let tokenizer = Tokenizer::open(tiny_model()).unwrap();
    let template = ChatTemplate::open(tiny_model(), &tokenizer).unwrap();
    assert!(template.note().unwrap().contains("has no chat template: using plain ChatML"));
    let messages = [message("system", "Be brief."), message("user", "Hi\n"), message("assistant", "Hello")];
    let chat = Chat { messages: &messages, ..Chat::default() };
    let text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n";
    assert_eq!(template.render(&chat).unwrap(), text);
    let asked = template.render(&Chat { messages: &messages[..2], add_generation_prompt: true, ..chat });
    assert!(asked.unwrap().ends_with("<|im_end|>\n<|im_start|>assistant\n"));
    assert!(!template.uses("enable_thinking"));
    let tools = json!([{"name": "f"}]);
    let refusal = template.render(&Chat { tools: Some(&tools), ..chat }).unwrap_err().to_string();
    assert!(refusal.contains("no chat template that knows tools"), "{refusal}");
}

#[test]
fn templates_are_found_where_transformers_puts_them() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let tokenizer = Tokenizer::open(tiny_model()).unwrap();
    let (messages, tools) = ([message("user", "Hi")], json!([]));
    let open = || ChatTemplate::open(folder.path(), &tokenizer);
    let render = |tools| open().unwrap().render(&Chat { messages: &messages, tools, ..Chat::default() }).unwrap();
    write(
        "tokenizer_config.json",
        r#"{"chat_template": "one {{ eos_token }}", "eos_token": {"content": "<|im_end|>"}}"#,
    );
    assert_eq!(render(None), "one <|im_end|>");
    let named =
        json!({"chat_template": [{"name": "default", "template": "two"}, {"name": "tool_use", "template": "tools"}]});
    write("tokenizer_config.json", &named.to_string());
    assert_eq!((render(None), render(Some(&tools))), ("two".into(), "tools".into()));
    for bad in [json!({"chat_template": 1}), json!({"chat_template": [{"name": "rag", "template": ""}]})] {
        write("tokenizer_config.json", &bad.to_string());
        assert!(open().unwrap_err().to_string().contains("`chat_template` is"));
    }
    write("chat_template.jinja", "three\n");
    assert_eq!(render(None), "three");
    write("chat_template.jinja", "fine\n{% for %}");
    let refusal = open().unwrap_err().to_string();
    assert!(refusal.contains("chat_template.jinja") && refusal.contains("line 2"), "{refusal}");
}

#[test]
fn a_tokenizer_without_markers_has_no_chat() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = std::fs::read_to_string(tiny_model().join("tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.replace("<|im_start|>", "<|other|>")).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let refusal = ChatTemplate::open(folder.path(), &tokenizer).unwrap_err().to_string();
    assert!(refusal.contains("has no chat_template.jinja") && refusal.contains("--raw"), "{refusal}");
}

#[test]
fn templates_may_use_python() {
    let messages = [message("user", " <a> b\n")];
    let mut extra = Map::new();
    extra.insert("tool".into(), json!({"b": 1.0, "a": [true, null, "é<"]}));
    let chat = Chat { messages: &messages, extra: Some(&extra), add_generation_prompt: true, ..Chat::default() };
    let cases = [
        ("{{ messages[0].content.strip() }}", "<a> b"),
        ("{{ messages[0]['content'].split('>')[-1].lstrip().rstrip('\\n') }}", "b"),
        ("{{ messages[0].content.startswith(' <') and not messages[-1].content.endswith('x') }}", "True"),
        ("{{ tool | tojson }}", "{\"b\": 1.0, \"a\": [true, null, \"é<\"]}"),
        ("{{ add_generation_prompt }} {{ tools }} {{ nothing }}", "True None "),
        ("{%- if tools is none %}\n  {%- set x = 'y' %}\n  {{- x }}\n{%- endif %}\n", "y"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}{{ messages[::-1] | length }}", "21"),
        ("{{ (strftime_now('%Y') | int) >= 2025 }}", "True"),
    ];
    for (source, want) in cases {
        assert_eq!(render(source, chat).unwrap(), want, "{source}");
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    let refusal = |source: &str, messages: &[Value]| {
        render(source, Chat { messages, ..Chat::default() }).unwrap_err().to_string()
    };
    let hi = [message("user", "Hi")];
    let cases = [
        (refusal("\n{{ raise_exception('roles must alternate') }}", &hi), "roles must alternate (line 2)"),
        (refusal("{{ nothing.field }}", &hi), "test.jinja"),
        (refusal("{{ strftime_now('%i') }}", &hi), "%i"),
        (refusal("", &[]), "there are no messages"),
        (refusal("", &[json!("hi")]), "message 0: \"hi\" is not an object"),
        (refusal("", &[hi[0].clone(), message("robot", "x")]), "message 1: `role` is \"robot\", but must be"),
        (refusal("", &[json!({"role": "user"})]), "message 0: `content` is null, but must be a string"),
        (refusal("", &[json!({"role": "user", "content": ["x"]})]), "`content` is [\"x\"]"),
    ];
    for (message, want) in cases {
        assert!(message.contains(want), "{message}\nwanted: {want}");
    }
}

#[test]
fn reasoning_goes_by_other_names_too() {
    for name in ["reasoning_content", "reasoning", "thinking"] {
        let messages = [json!({"role": "assistant", "content": "x", name: "because"})];
        let chat = Chat { messages: &messages, ..Chat::default() };
        assert_eq!(render("{{ messages[0].reasoning_content }}", chat).unwrap(), "because");
    }
}
