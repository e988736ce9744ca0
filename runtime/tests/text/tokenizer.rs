use halfbyte::rng::philox;
use halfbyte_runtime::tokenizer::Tokenizer;
use serde_json::Value;

use crate::{test_data, tiny_model};

#[test]
fn ids_and_texts_are_those_of_transformers() {
    let Some(folder) = test_data("qwen3-tokenizer") else { return };
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let golden: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("golden_ids.json")).unwrap()).unwrap();
    assert_eq!(golden.len(), 21);
    for case in golden {
        let ids = tokenizer.encode(case["text"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::json!(ids), case["ids"], "{}", case["text"]);
        assert_eq!(tokenizer.decode(&ids, false), case["decoded"]);
    }
}

#[test]
fn qwen3_vocabulary_and_end_tokens() {
    let Some(folder) = test_data("qwen3-tokenizer") else { return };
    let tokenizer = Tokenizer::open(&folder).unwrap();
    assert_eq!(tokenizer.vocab_size(), 151_669);
    assert_eq!((tokenizer.eos_id(), tokenizer.eos_ids()), (Some(151_645), &[151_645, 151_643][..]));
    assert_eq!(tokenizer.token_to_id("</think>"), Some(151_668));
    assert_eq!(tokenizer.token_to_id("<|no such token|>"), None);
    assert_eq!(tokenizer.decode(&[9707, 151_645, 151_667, 200_000], true), "Hello<think>");
    assert_eq!(tokenizer.decode(&[9707, 151_645], false), "Hello<|im_end|>");
}

#[test]
fn the_tiny_model_has_its_end_tokens_from_its_configuration() {
    let tokenizer = Tokenizer::open(tiny_model()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos_id()), (4096, Some(4091)));
    assert_eq!(tokenizer.eos_ids(), [4091, 4093]);
}

/// A text of random pieces that begin, end or are hard to cut at line breaks.
fn nasty_text(seed: u64, len: usize) -> String {
    let pieces = [
        "\n",
        "\n\n",
        "\r\n",
        " ",
        "  ",
        "\t",
        "word",
        "Word ",
        "don't",
        "'s",
        "12",
        "!",
        "?!\n",
        "...\r\n\r\n",
        "é",
        "e\u{301}",
        "\u{301}",
        "語",
        "第9条\n",
        "<|im_start|>",
        "<|im_end|>\n",
        "<think>\n",
        "\n</think>",
        "👩‍👧",
        "\u{3000}\n",
        "\n\u{a0}",
        "_",
    ];
    (0..len as u32).map(|at| pieces[philox([at, 7, 0, 0], seed)[0] as usize % pieces.len()]).collect()
}

#[test]
fn long_texts_encode_as_in_one_piece() {
    let mut models = vec![tiny_model()];
    models.extend(test_data("qwen3-tokenizer"));
    for model in models {
        let tokenizer = Tokenizer::open(&model).unwrap();
        let reference = tokenizers::Tokenizer::from_file(model.join("tokenizer.json")).unwrap();
        for seed in 0..3 {
            let text = nasty_text(seed, 40_000);
            assert!(text.len() > 1 << 17, "long enough to be cut");
            let whole = reference.encode_fast(text.as_str(), false).unwrap();
            assert!(tokenizer.encode(&text).unwrap() == whole.get_ids(), "{}, seed {seed}", model.display());
        }
    }
}

#[test]
fn folders_without_a_good_tokenizer_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || Tokenizer::open(folder.path()).unwrap_err().to_string();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    assert!(refusal().contains("has no tokenizer.json; copy it from"), "{}", refusal());
    write("tokenizer.json", "{\"version\": \"1.0\"");
    assert!(refusal().contains("tokenizer.json` is damaged or not a JSON file"), "{}", refusal());
    let good = std::fs::read_to_string(tiny_model().join("tokenizer.json")).unwrap();
    let mut other: Value = serde_json::from_str(&good).unwrap();
    other["decoder"] = serde_json::json!({"type": "Fuse"});
    write("tokenizer.json", &other.to_string());
    assert!(refusal().contains("`decoder` is not ByteLevel"), "{}", refusal());
    write("tokenizer.json", &good);
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!((tokenizer.eos_id(), tokenizer.eos_ids()), (None, &[][..]));
    write("tokenizer_config.json", "{\"eos_token\": 7}");
    assert!(refusal().contains("`eos_token` is 7, but it must be a token"), "{}", refusal());
    write("tokenizer_config.json", "{}");
    write("generation_config.json", "{\"eos_token_id\": [4093, 5000]}");
    assert!(refusal().contains("`eos_token_id` is 5000, but it must be an id below 4096"), "{}", refusal());
    write("generation_config.json", "{\"eos_token_id\": 4091}");
    write("tokenizer_config.json", "{\"eos_token\": {\"content\": \"<|im_end|>\"}}");
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!((tokenizer.eos_id(), tokenizer.eos_ids()), (Some(4093), &[4091][..]));
    write("tokenizer_config.json", "{\"eos_token\": \"<end>\"}");
    assert!(refusal().contains("`eos_token` is \"<end>\", but it must be a token of tokenizer.json"), "{}", refusal());
    write("tokenizer_config.json", "{");
    assert!(refusal().contains("tokenizer_config.json"), "{}", refusal());
}

/// The error of opening the tiny model's tokenizer with one of its files edited.
fn refusal(edit: impl FnOnce(&mut Value), config: &Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read(tiny_model().join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&text).unwrap();
    edit(&mut tokenizer);
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::open(folder.path()).map_or_else(|e| e.to_string(), |_| "it is taken".to_owned())
}

#[test]
fn a_tokenizer_that_would_be_read_as_another_is_refused() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 6] = [
        (|t| t["added_tokens"][0]["id"] = 4999.into(), "with id 4999, but its id is 40"),
        (|t| t["added_tokens"][0]["id"] = 7.into(), "with id 7, but its id is 40"),
        (|t| t["model"]["vocab"]["!"] = t["model"]["vocab"]["\""].clone(), "each token must have an id of its own"),
        (|t| t["model"]["dropout"] = 0.1.into(), "`model.dropout` is 0.1, but it must be null"),
        (|t| t["pre_tokenizer"] = Value::Null, "`pre_tokenizer` is not ByteLevel"),
        (|_| (), "it is taken"),
    ];
    for (edit, want) in cases {
        let got = refusal(edit, &Value::Null);
        assert!(got.contains(want), "{got}\nwanted: {want}");
        assert!(got == want || got.contains("tokenizer.json`: `"), "{got}");
    }
}

#[test]
fn a_configuration_by_which_transformers_makes_other_tokens_is_refused() {
    use serde_json::json;
    let cases = [
        (json!({"add_bos_token": true}), "`add_bos_token` is true, but only false"),
        (json!({"add_eos_token": true}), "`add_eos_token` is true"),
        (json!({"add_prefix_space": true}), "`add_prefix_space` is true"),
        (json!({"split_special_tokens": true}), "`split_special_tokens` is true"),
        (json!({"pad_token": "<pad>"}), "`pad_token` is \"<pad>\", but it must be a token of tokenizer.json"),
        (json!({"bos_token": {"content": "<s>"}}), "`bos_token` is {\"content\":\"<s>\"}"),
        (json!({"additional_special_tokens": ["<|im_end|>", "<x>"]}), "`additional_special_tokens` is \"<x>\""),
        (json!({"extra_special_tokens": {"image_token": "<x>"}}), "`extra_special_tokens` is \"<x>\""),
        (json!({"extra_special_tokens": "<x>"}), "it must be a list of tokens"),
        (
            json!({"added_tokens_decoder": {"4095": {"content": "<|im_end|>"}}}),
            "with id 4095, but it must be a token of tokenizer.json with that id",
        ),
        (json!([]), "its top level is [], not an object"),
    ];
    for (config, want) in cases {
        let got = refusal(|_| (), &config);
        assert!(got.contains(want) && got.contains("tokenizer_config.json"), "{got}\nwanted: {want}");
    }
    let good = json!({"added_tokens_decoder": {"4093": {"content": "<|im_end|>", "special": true}}, "unk_token": null,
                      "additional_special_tokens": ["<|im_end|>"], "eos_token": "<|im_end|>", "model_max_length": 1e30});
    assert_eq!(refusal(|_| (), &good), "it is taken");
}

/// The library leaves out what it has no token for.
#[test]
fn text_that_would_lose_bytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read(tiny_model().join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&text).unwrap();
    // 0xC3, the first byte of é, under another name.
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let id = vocab.remove("Ã").unwrap();
    vocab.insert("ÃÃÃÃÃ".into(), id);
    tokenizer["model"]["merges"] = serde_json::json!([]);
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("plain").unwrap(), false), "plain");
    let error = tokenizer.encode("café").unwrap_err().to_string();
    assert!(error.contains("tokenizer.json`: `model.vocab` is without 'é' (byte 3 of a text)"), "{error}");
}

/// Files of transformers 4 that still count where tokenizer_config.json does not list the added tokens.
#[test]
fn what_the_files_beside_it_say_counts_as_in_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::copy(tiny_model().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    write("tokenizer_config.json", r#"{"eos_token": "<|endoftext|>"}"#);
    let eos = || Tokenizer::open(folder.path()).unwrap().eos_id();
    assert_eq!(eos(), Some(4091));
    write("special_tokens_map.json", r#"{"eos_token": {"content": "<|im_end|>", "lstrip": false}}"#);
    assert_eq!(eos(), Some(4093));
    write("tokenizer_config.json", r#"{"eos_token": "<|endoftext|>", "added_tokens_decoder": {}}"#);
    assert_eq!(eos(), Some(4091));
    write("added_tokens.json", r#"{"<|im_end|>": 4094}"#);
    assert_eq!(eos(), Some(4091));
    write("tokenizer_config.json", "{}");
    let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("added_tokens.json`: `<|im_end|>` is 4094, but it must be a token"), "{error}");
}
