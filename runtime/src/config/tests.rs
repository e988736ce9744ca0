use std::path::Path;

use halfbyte::DType;
use serde_json::Value;

use super::generation::GenerationConfig;
use super::modules::{Module, Projection};
use super::qwen3::Qwen3Config;
use super::rope::Rope;
use crate::error::Result;

fn parse(edit: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Result<Qwen3Config> {
    let released = r#"{"architectures":["Qwen3ForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
        "bos_token_id":151643,"eos_token_id":151645,"head_dim":128,"hidden_act":"silu","hidden_size":1024,
        "intermediate_size":3072,"max_position_embeddings":40960,"max_window_layers":28,"model_type":"qwen3",
        "num_attention_heads":16,"num_hidden_layers":28,"num_key_value_heads":8,"rms_norm_eps":1e-06,
        "rope_scaling":null,"rope_theta":1000000,"sliding_window":null,"tie_word_embeddings":true,
        "torch_dtype":"bfloat16","use_sliding_window":false,"vocab_size":151936}"#;
    let mut value: Value = serde_json::from_str(released).unwrap();
    edit(value.as_object_mut().unwrap());
    Qwen3Config::parse(Path::new("dir/config.json"), &value.to_string())
}

fn refusal(key: &str, value: Value) -> String {
    let error = parse(|c| {
        c.insert(key.to_owned(), value);
    });
    error.unwrap_err().to_string()
}

#[test]
fn reads_a_released_config() {
    let config = parse(|_| ()).unwrap();
    assert_eq!((config.q_size(), config.kv_size(), config.n_layers), (2048, 1024, 28));
    assert_eq!(config.rope, Rope { theta: 1e6, yarn: None });
    assert_eq!((config.dtype, config.eos_token_ids.as_slice()), (Some(DType::Bf16), &[151645][..]));
    assert_eq!(config.shape(Module::Layer(0, Projection::O)), [1024, 2048]);
    assert_eq!(config.modules().count(), 28 * 7 + 1);
    assert_eq!(config.modules().nth(10).unwrap().to_string(), "model.layers.1.self_attn.o_proj");
}

#[test]
fn refuses_by_key_value_and_what_is_supported() {
    use serde_json::json;
    let cases = [
        (
            "architectures",
            json!(["LlamaForCausalLM"]),
            "`architectures` is [\"LlamaForCausalLM\"], but only [\"Qwen3ForCausalLM\"]",
        ),
        ("hidden_act", json!("gelu"), "`hidden_act` is \"gelu\", but only \"silu\""),
        ("attention_bias", json!(true), "`attention_bias` is true"),
        ("model_type", json!("llama"), "`model_type` is \"llama\", but only \"qwen3\""),
        ("is_causal", json!(false), "`is_causal` is false, but only true"),
        ("per_layer_config", json!({"0": {"intermediate_size": 8}}), "`per_layer_config` is"),
        ("rope_scaling", json!({"factor": 4.0}), "`rope_scaling.factor` is 4.0, but `type` must be \"yarn\""),
        ("attention_dropout", json!(0.1), "`attention_dropout` is 0.1"),
        ("layer_types", json!(["full_attention"]), "one entry for each of the 28 layers"),
        ("layer_types", vec!["sliding_attention"; 28].into(), "only \"full_attention\""),
        ("rope_scaling", json!({"rope_type": "llama3"}), "`rope_scaling.rope_type` is \"llama3\""),
        ("rope_scaling", json!({"type": "linear", "factor": 2}), "`rope_scaling.type` is \"linear\""),
        ("rope_scaling", json!({"rope_type": "yarn"}), "`rope_scaling.factor` is missing"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 0.5}), "`rope_scaling.factor` is 0.5"),
        ("rope_scaling", json!({"rope_type": "default", "short_factor": [1]}), "`rope_scaling.short_factor`"),
        ("rope_scaling", json!(3), "`rope_scaling` is 3, but it must be an object"),
        ("rope_theta", json!(0), "`rope_theta` is 0"),
        ("partial_rotary_factor", json!(0.5), "`partial_rotary_factor` is 0.5"),
        ("num_attention_heads", json!(12), "multiple of `num_key_value_heads` (8)"),
        ("num_key_value_heads", json!(0), "`num_key_value_heads` is 0"),
        ("hidden_size", json!(1_u64 << 40), "from 1 to"),
        ("hidden_size", json!(-1), "`hidden_size` is -1"),
        ("head_dim", json!(63), "even"),
        ("vocab_size", Value::Null, "`vocab_size` is null"),
        ("torch_dtype", json!("int8"), "`torch_dtype` is \"int8\""),
        ("rms_norm_eps", json!(0), "above 0"),
        ("quantization_config", json!({"quant_method": "gptq"}), "`quantization_config.quant_method` is \"gptq\""),
        ("quantization_config", json!({"load_in_8bit": true}), "`quantization_config.load_in_8bit` is true"),
    ];
    for (key, value, want) in cases {
        let got = refusal(key, value);
        assert!(got.contains(want) && got.contains("dir/config.json"), "{key}: {got}");
    }
    let sliding = parse(|c| {
        c.extend([("use_sliding_window".into(), true.into()), ("sliding_window".into(), 4096.into())]);
        c.insert("max_window_layers".into(), 20.into());
    });
    assert!(sliding.unwrap_err().to_string().contains("`use_sliding_window` is true, but only false"));
    let outside = parse(|c| {
        c.insert("rope_scaling".into(), json!({"rope_type": "yarn", "factor": 4.0}));
        c.insert("original_max_position_embeddings".into(), 32768.into());
    });
    let outside = outside.unwrap_err().to_string();
    assert!(outside.contains("`original_max_position_embeddings` is 32768, but only one within"), "{outside}");
    let unsaid = parse(|c| {
        c.insert("use_sliding_window".into(), true.into());
        c.insert("max_window_layers".into(), 20.into());
        c.remove("sliding_window");
    });
    assert!(unsaid.unwrap_err().to_string().contains("`use_sliding_window` is true"), "its window is 4096");
}

#[test]
fn takes_what_transformers_takes_for_absent_keys() {
    let config = parse(|c| {
        for key in ["head_dim", "rope_theta", "eos_token_id", "torch_dtype", "tie_word_embeddings", "hidden_act"] {
            c.remove(key);
        }
    })
    .unwrap();
    assert_eq!((config.head_dim, config.rope.theta, config.tie_word_embeddings), (128, 1e4, false));
    assert!(config.eos_token_ids.is_empty() && config.dtype.is_none());
}

#[test]
fn version_4_and_5_spellings_mean_the_same() {
    let yarn = serde_json::json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
    let old = parse(|c| {
        c.insert("rope_scaling".into(), yarn.clone());
    })
    .unwrap();
    let new = parse(|c| {
        let mut rope = yarn.clone();
        rope["rope_theta"] = 1e6.into();
        c.insert("rope_parameters".into(), rope);
        c.remove("rope_scaling");
        c.remove("rope_theta");
        let dtype = c.remove("torch_dtype").unwrap();
        c.insert("dtype".into(), dtype);
        c.insert("layer_types".into(), vec!["full_attention"; 28].into());
    })
    .unwrap();
    assert_eq!(old, new);
    let yarn = old.rope.yarn.unwrap();
    assert_eq!((yarn.factor, yarn.beta_fast, yarn.beta_slow, yarn.truncate), (4.0, 32.0, 1.0, true));
    assert!((yarn.attention_factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-15);
}

#[test]
fn generation_defaults() {
    let path = Path::new("generation_config.json");
    let json = r#"{"bos_token_id":151643,"do_sample":true,"eos_token_id":[151645,151643],"pad_token_id":151643,
        "temperature":0.6,"top_k":20,"top_p":0.95,"transformers_version":"4.51.0","repetition_penalty":1.1,"num_beams":4}"#;
    let config = GenerationConfig::parse(path, json).unwrap();
    assert_eq!((config.eos_token_ids.as_slice(), config.top_k), (&[151645, 151643][..], Some(20)));
    assert_eq!((config.temperature, config.top_p), (Some(0.6), Some(0.95)));
    assert_eq!(config.repetition_penalty, Some(1.1));
    assert_eq!(config.ignored, ["num_beams"]);
    let error = GenerationConfig::parse(path, r#"{"top_p": 1.5}"#).unwrap_err().to_string();
    assert!(error.contains("`top_p` is 1.5"), "{error}");
    assert!(GenerationConfig::parse(path, "{").is_err());
    // Whose f32 is 0, which means something else; infinity; beyond what `--top-k` takes.
    for out in [r#"{"temperature": 1e-50}"#, r#"{"temperature": 1e300}"#, r#"{"top_k": 18446744073709551615}"#] {
        let error = GenerationConfig::parse(path, out).unwrap_err().to_string();
        assert!(error.contains("generation_config.json`: `t") && error.contains("it must be"), "{error}");
    }
    let twice = GenerationConfig::parse(path, r#"{"top_k": 5, "top_k": 7}"#).unwrap_err().to_string();
    assert!(twice.contains("`top_k` is given twice"), "{twice}");
}
