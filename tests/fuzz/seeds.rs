//! Small files that are well, for mutants to be made of.

use serde_json::{Value, json};
use std::io::Write;

/// GPT-2's alphabet of all bytes, and two markers.
pub fn small_tokenizer() -> Vec<u8> {
    let alphabet = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain('Ā'..='\u{143}');
    let vocab: serde_json::Map<_, _> = alphabet.enumerate().map(|(i, c)| (c.to_string(), json!(i))).collect();
    let n = vocab.len();
    let added = |i: usize, content: &str| {
        json!({"id": n + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<|im_start|>"), added(1, "<|im_end|>")],
        "normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": []},
    })
    .to_string()
    .into_bytes()
}

pub const TEMPLATE: &str = "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + \
                        '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}\
                        {%- endif %}{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}\
                        {% endfor %}{{ messages | tojson(indent=2) if false }}{{ 'a' * 3 }}{{ messages[0:2] | length }}";

pub fn exam() -> Value {
    json!({"samples": [{"コンテキスト": "第一条", "指示": "選べ", "問題文": "何か", "選択肢": "a 一\nb 二\nc 三\nd 四", "output": "b"}]})
}

/// Of each format of training data that can stand in a file with others, and of the others.
pub fn records() -> [Vec<Value>; 6] {
    let talk = json!([{"role": "user", "content": "When?"}, {"role": "assistant", "content": "Noon."}]);
    let turns = json!([
        {"from": "human", "value": "When?"}, {"from": "gpt", "value": "Noon."},
        {"from": "function_call", "value": "{\"name\": \"clock\"}"}, {"from": "observation", "value": "12"},
    ]);
    [
        vec![json!({"text": "The ferry leaves at noon."}), json!({"prompt": "When?", "completion": "At noon."})],
        vec![json!({"messages": talk})],
        vec![json!({"prompt": [talk[0]], "completion": [talk[1]]})],
        vec![json!({"conversations": turns, "system": "Be brief."})],
        vec![json!({"instruction": "When?", "input": "The ferry.", "output": "Noon."})],
        vec![
            json!({"question": "When?", "options": ["at noon", "never"], "answer": "a"}),
            exam()["samples"][0].clone(),
        ],
    ]
}

/// Files of Parquet in `tests/data/golden/parquet`.
pub const TABLES: [&str; 8] =
    ["alpaca", "choices", "letters", "sharegpt", "text-lengths", "text-plain", "text-prefixes", "turns"];

pub fn lines(records: &[Value]) -> Vec<u8> {
    records.iter().map(Value::to_string).collect::<Vec<_>>().join("\n").into_bytes()
}

pub fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(text).unwrap();
    packed.finish().unwrap()
}

pub fn zstd(text: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
}

pub const SETTINGS: &str = "[llm]\nmodel_name = 'a'\ntemperature = 0.5\nraw = true\n\n[train]\nlora_r = 8\n\
                        target_modules = [\"q_proj\", \"v_proj\"]\nlearning_rate = 1e-4\n[retrieval]\ntop_k = 3 # few\n\
                        [evaluation]\nmode = \"generate\"\n";
pub const DOTENV: &str = "OTHER=1\nexport HALFBYTE_LLM__TEMPERATURE='0.5'\nHALFBYTE_TRAIN__LORA_R=8\n\
                      HALFBYTE_EVALUATION__MODE=\"generate\"\n# no more\n";
