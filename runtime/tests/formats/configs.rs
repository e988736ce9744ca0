use std::fs;
use std::path::Path;

use halfbyte_runtime::config::{GenerationConfig, Qwen3Config};
use serde_json::Value;

use super::{golden, name, tiny};

#[test]
fn golden_configs_are_read() {
    for dir in tiny("tied").into_iter().chain(tiny("untied")).chain(tiny("yarn")) {
        let config = Qwen3Config::open(&dir).unwrap();
        assert_eq!((config.vocab_size, config.hidden_size, config.intermediate_size), (256, 64, 128));
        assert_eq!((config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim), (2, 4, 2, 32));
        assert_eq!(config.tie_word_embeddings, !name(&dir).starts_with("untied"));
        assert_eq!((config.eos_token_ids.as_slice(), config.pad_token_id), (&[2][..], Some(3)));
        assert_eq!(config.rope.yarn.is_some(), name(&dir) == "yarn");
        let quantized = config.quantization.map(|q| (q.quant_type, q.double_quant));
        let four_bit = name(&dir).split_once('-').map(|(_, how)| (how[..3].to_owned(), how.ends_with("-dq")));
        assert_eq!(quantized, four_bit);
        let generation = GenerationConfig::open(&dir).unwrap();
        assert_eq!((generation.eos_token_ids.as_slice(), generation.ignored.len()), (&[2][..], 0));
    }
}

/// Both sides compute the power in f32 from the same f32 exponent: ours correctly rounded (half a unit in the last
/// place), PyTorch's within one unit. The reciprocal adds half a unit on each side, YaRN's blend (two products and a
/// sum of positive terms) at most one and a half more on each: six units, of 2⁻²³ relative each.
#[test]
fn rope_frequencies_are_those_of_transformers() {
    let text = fs::read_to_string(golden("rope.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let cases = golden["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 10);
    for (case, golden) in cases {
        let config = Qwen3Config::parse(Path::new(case), &golden["config"].to_string()).unwrap();
        let table = config.rope.table(config.head_dim);
        let want = golden["inv_freq"].as_array().unwrap();
        assert_eq!(table.inv_freq.len(), want.len());
        for (i, (got, want)) in table.inv_freq.iter().zip(want).enumerate() {
            let want = want.as_f64().unwrap();
            let error = (f64::from(*got) / want - 1.0).abs();
            assert!(error <= 6.0 * 2f64.powi(-23), "{case}: frequency {i} is {got}, expected {want}");
        }
        assert_eq!(table.attention_factor, golden["attention_factor"].as_f64().unwrap() as f32, "{case}");
    }
}
