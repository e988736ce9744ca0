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
