//! GGUF files of models and of adapters.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use halfbyte_runtime::checkpoint::Checkpoint;
use halfbyte_runtime::config::{Module, Qwen3Config};
use halfbyte_runtime::export::{AdapterSettings, GgufSettings, GgufType, MergeSettings, Watch};
use halfbyte_runtime::lora::{Adapter, LoraConfig, Targets};
use serde_json::json;

use super::gguf_file::{Gguf, read};
use super::merge::embedded;
use super::{golden, names};

fn export(settings: &GgufSettings) -> Gguf {
    settings.run(&mut ()).unwrap_or_else(|e| panic!("{e}")).expect("nobody broke off");
    read(&settings.output)
}

fn of_embedded(format: GgufType) -> Gguf {
    let dir = tempfile::tempdir().unwrap();
    export(&GgufSettings { format: Some(format), ..GgufSettings::new(dir.path().join("model.gguf")) })
}

fn refusal(settings: &GgufSettings) -> String {
    settings.run(&mut ()).expect_err("it was not refused").to_string()
}

/// Root mean square of the difference, as a share of the values'.
fn error(got: &[f32], want: &[f32]) -> f64 {
    let squares = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>();
    assert_eq!(got.len(), want.len());
    let off = squares(&mut got.iter().zip(want).map(|(a, b)| a - b));
    (off / squares(&mut want.iter().copied())).sqrt()
}

/// What halfbyte calls a tensor.
fn ours(name: &str) -> String {
    const NAMES: [(&str, &str); 11] = [
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    let parts: Vec<_> = name.split('.').collect();
    match parts[..] {
        ["token_embd", _] => "model.embed_tokens.weight".into(),
        ["output_norm", _] => "model.norm.weight".into(),
        ["output", _] => "lm_head.weight".into(),
        ["blk", layer, part, _] => {
            let (_, part) = NAMES.iter().find(|(theirs, _)| *theirs == part).unwrap();
            format!("model.layers.{layer}.{part}.weight")
        }
        _ => panic!("no tensor of ours is {name}"),
    }
}

/// Norms are f32 as they are; matrices are within what their type can do: exact, half a step, or what 127, 63 and 15 steps
/// of a block's range allow for values that are spread like a normal distribution.
#[test]
fn every_type_holds_every_tensor() {
    let files = Checkpoint::open(&embedded()).unwrap();
    for (format, number, kinds, most) in [
        (GgufType::F32, 0, vec![0], 0.0),
        (GgufType::F16, 1, vec![0, 1], 2f64.powi(-11)),
        (GgufType::Bf16, 32, vec![0, 30], 0.0),
        (GgufType::Q8_0, 7, vec![0, 8], 0.007),
        (GgufType::Q4KM, 15, vec![0, 12, 14], 0.075),
    ] {
        let gguf = of_embedded(format);
        assert_eq!(gguf.metadata["general.file_type"], json!(number));
        assert_eq!(gguf.tensors.len(), files.names().count());
        let mut seen: Vec<u32> = gguf.tensors.values().map(|tensor| tensor.kind).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, kinds, "{format}");
        for (name, tensor) in &gguf.tensors {
            let want = files.tensor(&ours(name)).unwrap();
            assert_eq!(tensor.shape, want.shape, "{name}");
            let error = error(&tensor.values(), &want.to_f32().unwrap());
            let most = match tensor.kind {
                0 => 0.0,
                14 => 0.02,
                _ => most,
            };
            assert!(error <= most, "{format}: {name} in type {} is off by {error}", tensor.kind);
        }
    }
}

/// The tied table that makes logits and, of six layers, those that `llama-quantize` gives more bits.
#[test]
fn q4_k_m_is_the_mix_of_llama_cpp() {
    let gguf = of_embedded(GgufType::Q4KM);
    let better: Vec<_> =
        gguf.tensors.iter().filter(|(_, tensor)| tensor.kind == 14).map(|(name, _)| &name[..]).collect();
    assert_eq!(
        better,
        [
            "blk.2.attn_v.weight",
            "blk.2.ffn_down.weight",
            "blk.5.attn_v.weight",
            "blk.5.ffn_down.weight",
            "token_embd.weight"
        ]
    );
}

/// What llama.cpp's own converter writes of the same folder, but for words about its origin.
#[test]
fn the_metadata_is_that_of_llama_cpps_converter() {
    let gguf = of_embedded(GgufType::F16);
    let lists = ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"];
    let mut rest = gguf.metadata.clone();
    let [tokens, types, merges] = lists.map(|key| rest.remove(key).unwrap());
    let want = json!({
        "general.architecture": "qwen3", "general.type": "model", "general.name": "tiny-qwen3", "general.file_type": 1,
        "general.quantization_version": 2,
        "general.sampling.top_p": 0.95f32, "general.sampling.temp": 0.8f32, "general.sampling.top_k": 50,
        "qwen3.block_count": 6, "qwen3.context_length": 2048, "qwen3.embedding_length": 256,
        "qwen3.feed_forward_length": 768, "qwen3.attention.head_count": 4, "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 64, "qwen3.attention.value_length": 64, "qwen3.rope.freq_base": 1e6,
        "qwen3.attention.layer_norm_rms_epsilon": 1e-6f32,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.bos_token_id": 4091,
        "tokenizer.ggml.eos_token_id": 4091, "tokenizer.ggml.padding_token_id": 4091,
        "tokenizer.ggml.add_bos_token": false, "tokenizer.ggml.add_eos_token": false,
    });
    assert_eq!(json!(rest), want);
    let [tokens, types, merges] = [tokens, types, merges].map(|list| list.as_array().unwrap().clone());
    assert_eq!((tokens.len(), types.len(), merges.len()), (4096, 4096, 3835));
    assert_eq!(tokens[4092..4095], [json!("<|im_start|>"), json!("<|im_end|>"), json!("<think>")]);
    assert!(types[..4091].iter().all(|kind| kind == 1) && types[4091..].iter().all(|kind| kind == 3));
    assert!(merges[0].as_str().unwrap().split(' ').count() == 2, "{}", merges[0]);
}

/// The released tokenizer: added tokens that are not special, ids of the model without a token, and the chat template.
#[test]
fn qwen3s_own_tokenizer_is_written_whole() {
    let Some(data) = std::env::var_os("HALFBYTE_TEST_DATA") else {
        eprintln!("skipped: HALFBYTE_TEST_DATA is not set");
        return;
    };
    let tokenizer = Path::new(&data).join("qwen3-tokenizer");
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&tokenizer).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&entry, dir.path().join(entry.file_name().unwrap())).unwrap();
    }
    super::merge::write_model(dir.path(), 151_936);
    let gguf = export(&GgufSettings {
        model_name: dir.path().to_str().unwrap().into(),
        format: Some(GgufType::Q8_0),
        ..GgufSettings::new(dir.path().join("model.gguf"))
    });
    let list = |key: &str| gguf.metadata[key].as_array().unwrap();
    let (tokens, types) = (list("tokenizer.ggml.tokens"), list("tokenizer.ggml.token_type"));
    assert_eq!((tokens.len(), types.len(), list("tokenizer.ggml.merges").len()), (151_936, 151_936, 151_387));
    for (id, token, kind) in [
        (0, "!", 1),
        (151_643, "<|endoftext|>", 3),
        (151_645, "<|im_end|>", 3),
        (151_657, "<tool_call>", 4),
        (151_667, "<think>", 4),
        (151_669, "[PAD151669]", 5),
        (151_935, "[PAD151935]", 5),
    ] {
        assert_eq!((&tokens[id], &types[id]), (&json!(token), &json!(kind)), "{id}");
    }
    assert_eq!(gguf.metadata["tokenizer.ggml.eos_token_id"], 151_645);
    assert_eq!(gguf.metadata["tokenizer.ggml.padding_token_id"], 151_643);
    assert!(gguf.metadata["tokenizer.chat_template"].as_str().unwrap().contains("<|im_start|>"));
}

fn adapter(name: &str) -> AdapterSettings {
    AdapterSettings::one(folder(name))
}

fn folder(name: &str) -> PathBuf {
    let ends = golden(&format!("ends/adapter-{name}"));
    if ends.exists() { ends } else { golden(&format!("qwen3-tiny/adapter-{name}")) }
}

fn untied(adapters: AdapterSettings, output: PathBuf) -> GgufSettings {
    let model_name = golden("qwen3-tiny/untied").to_str().unwrap().into();
    GgufSettings { model_name, adapters, adapter_only: true, ..GgufSettings::new(output) }
}

/// `alpha / r · B A`, as llama.cpp has it, is what the adapter adds: whatever its ranks, patterns and scaling.
#[test]
fn an_adapter_adds_in_llama_cpp_what_it_adds_here() {
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    for name in ["plain", "rslora", "patterns", "regex", "head", "embedding"] {
        let dir = tempfile::tempdir().unwrap();
        let gguf = export(&untied(adapter(name), dir.path().join("adapter.gguf")));
        let want = Adapter::open(&folder(name), &model).unwrap().0;
        assert_eq!(
            (&gguf.metadata["general.type"], &gguf.metadata["adapter.type"]),
            (&json!("adapter"), &json!("lora"))
        );
        assert_eq!(gguf.tensors.len(), 2 * want.layers.len());
        let alpha = gguf.metadata["adapter.lora.alpha"].as_f64().unwrap();
        for (tensor, a) in gguf.tensors.iter().filter(|(name, _)| name.ends_with("lora_a")) {
            let b = &gguf.tensors[&tensor.replace("lora_a", "lora_b")];
            let module = ours(tensor.trim_end_matches(".lora_a"));
            let layer = want.layers.iter().find(|l| format!("{}.weight", l.target.module) == module).unwrap();
            let ([rows, cols], r) = (layer.target.shape, layer.target.r);
            assert_eq!(b.shape, [rows, r], "{tensor}");
            if layer.target.module == Module::Embedding {
                // llama.cpp picks rows of it.
                assert_eq!(a.shape, [cols, r]);
                let columns = (0..cols).flat_map(|c| layer.a.iter().skip(c).step_by(cols).copied());
                assert!(a.values().into_iter().eq(columns));
            } else {
                assert_eq!((&a.shape[..], a.values()), (&[r, cols][..], layer.a.clone()), "{tensor}");
            }
            let scale = alpha / r as f64;
            for (got, want) in b.values().iter().zip(&layer.b) {
                let want = f64::from(*want) * f64::from(layer.target.scaling);
                // A quotient and a product of f32.
                assert!((f64::from(*got) * scale - want).abs() <= want.abs() * 2f64.powi(-22), "{name}: {tensor}");
            }
        }
    }
}

/// The same as the GGUF file of the merged checkpoint, to the byte.
#[test]
fn a_model_with_an_adapter_is_the_merged_model() {
    for (targets, changed, n) in [("q_proj,v_proj", "blk.0.attn_q", 0), ("embed_tokens,lm_head", "token_embd", 1)] {
        a_model_with_these_adapted(targets, changed, n);
    }
}

/// Which changes a tensor and adds some.
fn a_model_with_these_adapted(targets: &str, changed: &str, more: usize) {
    let dir = tempfile::tempdir().unwrap();
    let [adapter, merged, one, two] = ["adapter", "merged", "one.gguf", "two.gguf"].map(|name| dir.path().join(name));
    super::merge::save_adapter(&embedded(), &adapter, LoraConfig::new(2, 4.0, Targets::from_text(targets)));
    let adapters = AdapterSettings::one(&adapter);
    let f32 = MergeSettings { dtype: Some(halfbyte::DType::F32), ..MergeSettings::new(adapters.clone(), &merged) };
    f32.run(&mut ()).unwrap().unwrap();
    let with = GgufSettings { adapters, format: Some(GgufType::Q4KM), ..GgufSettings::new(&one) };
    let of_merged = GgufSettings {
        model_name: merged.to_str().unwrap().into(),
        format: Some(GgufType::Q4KM),
        ..GgufSettings::new(&two)
    };
    let (with, of_merged) = (export(&with), export(&of_merged));
    assert_eq!(with.tensors.len(), of_merged.tensors.len());
    for (name, tensor) in &with.tensors {
        assert!(tensor.data == of_merged.tensors[name].data, "{name}");
    }
    let (plain, changed) = (of_embedded(GgufType::Q4KM), format!("{changed}.weight"));
    assert!(with.tensors[&changed].data != plain.tensors[&changed].data);
    assert_eq!(with.tensors.len(), plain.tensors.len() + more);
}

struct Never;

impl Watch for Never {
    fn wrote(&mut self, done: usize, _: usize) -> ControlFlow<()> {
        if done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn what_gguf_cannot_hold_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out/adapter.gguf");
    let says = |settings: &GgufSettings, wanted: &str| {
        let said = refusal(settings);
        assert!(said.contains(wanted), "wanted {wanted}: {said}");
        assert!(!dir.path().join("out").exists());
    };
    says(&untied(adapter("save_head"), to.clone()), "an output head of its own, and llama.cpp's adapters hold only");
    says(&untied(adapter("dora"), to.clone()), "DoRA's magnitudes");
    let tokens = AdapterSettings::one(golden("trainable-tokens/adapter-untied"));
    says(&untied(tokens, to.clone()), "rows of tokens of its own");
    let tied = golden("qwen3-tiny/tied").to_str().unwrap().to_owned();
    let tied = GgufSettings { model_name: tied, ..untied(adapter("tied-head"), to.clone()) };
    says(&tied, "matrices for an embedding or an output head where both are one tensor");
    says(&untied(AdapterSettings::default(), to.clone()), "the adapter is missing");
    let q8 = GgufSettings { format: Some(GgufType::Q8_0), ..untied(adapter("plain"), to.clone()) };
    says(&q8, "it must be f32, f16 or bf16 for an adapter");
    let model = GgufSettings { adapter_only: false, ..untied(adapter("plain"), to.clone()) };
    says(&model, "has no tokenizer.json");

    let outcome = untied(adapter("plain"), to.clone()).run(&mut Never).unwrap();
    assert!(outcome.is_none() && !dir.path().join("out").exists());
    export(&untied(adapter("plain"), to.clone()));
    let before = fs::read(&to).unwrap();
    assert!(refusal(&untied(adapter("rslora"), to.clone())).contains("it exists; choose another name"));
    assert!(fs::read(&to).unwrap() == before);
    assert_eq!(names(to.parent().unwrap()), ["adapter.gguf"]);
}

/// Another way of cutting text has another name in llama.cpp, and YaRN's bounds are whole numbers there.
#[test]
fn models_that_llama_cpp_would_run_otherwise_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(embedded()).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    let settings = || GgufSettings {
        model_name: dir.path().to_str().unwrap().into(),
        ..GgufSettings::new(dir.path().join("model.gguf"))
    };
    let edit = |file: &str, from: &str, to: &str| {
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    };
    edit("tokenizer.json", r"|\\p{N}|", r"|\\p{N}{1,3}|");
    assert!(refusal(&settings()).contains("`pre_tokenizer` is another, but only Qwen's"));
    edit("tokenizer.json", r"|\\p{N}{1,3}|", r"|\\p{N}|");
    let yarn = r#""rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512"#;
    edit("config.json", r#""rope_type": "default""#, &format!(r#"{yarn}, "truncate": false"#));
    assert!(refusal(&settings()).contains("`rope_parameters.truncate` is false"));
    edit("config.json", r#", "truncate": false"#, r#", "attention_factor": 2.0"#);
    let metadata = export(&settings()).metadata;
    let number = |key: &str| metadata[&format!("qwen3.rope.scaling.{key}")].as_f64().unwrap();
    assert_eq!(metadata["qwen3.rope.scaling.type"], "yarn");
    assert_eq!([number("factor"), number("original_context_length"), number("yarn_beta_fast")], [4.0, 512.0, 32.0]);
    let factor = number("attn_factor") * (1.0 + 0.1 * 4f64.ln());
    assert!((factor - 2.0).abs() <= 1e-6, "{factor}");
}
