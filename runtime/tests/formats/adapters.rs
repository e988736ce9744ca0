use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use halfbyte_runtime::checkpoint::{Checkpoint, Dtype, Tensor, write_file};
use halfbyte_runtime::config::{Module, Projection, Qwen3Config};
use halfbyte_runtime::lora::{Adapter, LoraConfig, Table, Target, Targets, TrainableTokens};
use serde_json::{Value, json};

use super::{assert_same, golden, name, names, tiny};

fn model() -> Qwen3Config {
    Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap()
}

#[test]
fn golden_adapters_are_written_as_peft_wrote_them() {
    let mut read = Vec::new();
    for dir in tiny("adapter-") {
        let (adapter, note) = Adapter::open(&dir, &model()).unwrap();
        assert_eq!(note, None);
        let out = tempfile::tempdir().unwrap();
        adapter.save(out.path()).unwrap();
        assert_eq!(names(out.path()), ["adapter_config.json", "adapter_model.safetensors"]);
        for file in names(out.path()) {
            assert_same(&out.path().join(&file), &dir.join(&file));
        }
        read.push((name(&dir), adapter.layers.len(), adapter.lm_head.is_some()));
    }
    let want = [
        ("adapter-dora", 6, false),
        ("adapter-patterns", 6, false),
        ("adapter-plain", 14, false),
        ("adapter-regex", 3, false),
        ("adapter-rslora", 4, false),
        ("adapter-save_head", 4, true),
    ];
    assert_eq!(read, want.map(|(name, n, head)| (name.to_owned(), n, head)));
}

#[test]
fn adapters_with_trainable_tokens_are_written_as_peft_wrote_them() {
    let wanted = [
        ("tied", "tied", vec![(Table::Embedding, vec![203, 3, 130, 251])]),
        ("untied", "untied", vec![(Table::Embedding, vec![203, 3, 130, 251])]),
        ("both", "untied", vec![(Table::Embedding, vec![203, 3, 130]), (Table::Head, vec![3, 130, 251])]),
        ("head", "untied", vec![(Table::Head, vec![203, 3, 130, 251])]),
    ];
    for (case, base, want) in wanted {
        let model = Qwen3Config::open(&golden(&format!("qwen3-tiny/{base}"))).unwrap();
        let dir = golden(&format!("trainable-tokens/adapter-{case}"));
        let (adapter, note) = Adapter::open(&dir, &model).unwrap();
        assert_eq!(note, None);
        let read: Vec<_> = adapter.tokens.iter().map(|rows| (rows.table, rows.ids.clone())).collect();
        assert_eq!(read, want, "{case}");
        assert!(adapter.tokens.iter().all(|rows| rows.weight.len() == rows.ids.len() * model.hidden_size));
        let out = tempfile::tempdir().unwrap();
        adapter.save(out.path()).unwrap();
        for file in names(out.path()) {
            assert_same(&out.path().join(&file), &dir.join(&file));
        }
        let bytes: usize = adapter.layers.iter().map(|l| 4 * (l.a.len() + l.b.len())).sum();
        let rows: usize = adapter.tokens.iter().map(|rows| 4 * rows.weight.len()).sum();
        assert_eq!(adapter.config.weight_bytes(&model).unwrap() as usize, bytes + rows, "{case}");
    }
}

#[test]
fn trainable_tokens_that_make_no_sense_are_refused() {
    let refusal = |tied: bool, whole_head: bool, text: &str| {
        let model = Qwen3Config { tie_word_embeddings: tied, ..model() };
        let mut config = LoraConfig::new(8, 16.0, Targets::AllLinear);
        config.trainable_tokens = TrainableTokens::from_text(text).unwrap();
        config.save_lm_head = whole_head;
        config.tokens(&model).map_err(|e| e.to_string())
    };
    let embedding = |ids: &[u32]| (Table::Embedding, ids.to_vec());
    let same = r#"{"lm_head": [1, 2], "model.embed_tokens": [1, 2]}"#;
    assert_eq!(refusal(true, false, same).unwrap(), [embedding(&[1, 2])], "the head follows");
    assert_eq!(refusal(false, false, same).unwrap(), [embedding(&[1, 2]), (Table::Head, vec![1, 2])]);
    assert_eq!(refusal(false, true, " 255 , 0").unwrap(), [embedding(&[255, 0])]);
    assert_eq!(refusal(false, false, "[]").unwrap(), []);
    let cases = [
        (false, false, "1,2,1", "`1` of `trainable_token_indices`: it comes twice"),
        (false, false, "256", "`256` of `trainable_token_indices`: the model has 256 ids (from 0)"),
        (false, false, r#"{"q_proj": [1]}"#, "`q_proj` of `trainable_token_indices`: the modules with a row"),
        (false, false, r#"{"embed_tokens": []}"#, "it must name at least one token"),
        (false, false, r#"{"embed_tokens": [1], "model.embed_tokens": [2]}"#, "it is named twice"),
        (true, false, r#"{"lm_head": [1]}"#, "`lm_head` of `trainable_token_indices`: it is the embedding"),
        (true, false, r#"{"embed_tokens": [1], "lm_head": [2]}"#, "give both the same tokens"),
        (false, true, r#"{"lm_head": [1]}"#, "the head is trained whole"),
    ];
    for (tied, whole_head, text, want) in cases {
        let error = refusal(tied, whole_head, text).unwrap_err();
        assert!(error.contains(want), "{text}: {error}");
    }
    for text in ["1;2", "-1", "4294967296", "{\"embed_tokens\": 1}", "1.5", "x"] {
        assert_eq!(TrainableTokens::from_text(text), None, "{text}");
    }
}

fn scales(adapter: &str) -> BTreeMap<String, (usize, f32)> {
    let (adapter, _) = Adapter::open(&golden(&format!("qwen3-tiny/{adapter}")), &model()).unwrap();
    adapter.layers.iter().map(|l| (l.target.module.to_string(), (l.target.r, l.target.scaling))).collect()
}

#[test]
fn ranks_and_scalings_follow_the_patterns() {
    let patterns = scales("adapter-patterns");
    assert_eq!(patterns["model.layers.0.self_attn.q_proj"], (4, 4.0));
    assert_eq!(patterns["model.layers.1.self_attn.q_proj"], (8, 2.0));
    assert_eq!(patterns["model.layers.1.self_attn.k_proj"], (8, 4.0));
    assert_eq!(patterns["model.layers.0.mlp.down_proj"], (16, 1.0));
    assert!(scales("adapter-rslora").values().all(|&s| s == (8, (16.0 / 8f64.sqrt()) as f32)));
}

fn parse(edit: impl FnOnce(&mut Value)) -> Result<(LoraConfig, Option<String>), String> {
    let text = fs::read_to_string(golden("qwen3-tiny/adapter-rslora/adapter_config.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    edit(&mut value);
    LoraConfig::parse(Path::new("dir/adapter_config.json"), &value.to_string()).map_err(|e| e.to_string())
}

#[test]
fn what_changes_the_result_is_refused_by_name() {
    let cases = [
        ("use_qalora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("ensure_weight_tying", json!(true)),
        ("kasa_config", json!({"a": 1})),
        ("velora_config", json!({"a": 1})),
        ("layer_replication", json!([[0, 1]])),
        ("target_parameters", json!(["x"])),
        ("megatron_config", json!({"a": 1})),
        ("alora_invocation_tokens", json!([1])),
        ("arrow_config", json!({"a": 1})),
        ("use_bdlora", json!({"a": 1})),
        ("monteclora_config", json!({"a": 1})),
        ("kasa_config", json!({})),
        ("velora_config", json!({})),
        ("arrow_config", json!({})),
        ("use_bdlora", json!({})),
        ("monteclora_config", json!({})),
        ("lora_alpha", json!(-1)),
        ("bias", json!("all")),
        ("peft_type", json!("LOHA")),
        ("task_type", json!("SEQ_CLS")),
        ("modules_to_save", json!(["embed_tokens"])),
        ("init_lora_weights", json!("pissa")),
        ("r", json!(0)),
        ("r", Value::Null),
        ("lora_dropout", json!(1.0)),
        ("lora_alpha", json!("x")),
        ("rank_pattern", json!({"q_proj": -1})),
        ("trainable_token_indices", json!([-1])),
        ("trainable_token_indices", json!("1,2")),
        ("trainable_token_indices", json!({"embed_tokens": 1})),
        ("target_modules", json!(7)),
    ];
    for (key, value) in cases {
        let error = parse(|c| c[key] = value.clone()).unwrap_err();
        assert!(error.contains(&format!("`{key}` is {value}")) && error.contains("dir/adapter_config.json"), "{error}");
    }
}

#[test]
fn unknown_keys_are_told() {
    let (_, note) = parse(|c| c["use_something_new"] = json!({"a": 1})).unwrap();
    assert!(note.unwrap().contains("use_something_new"));
    let (config, note) = parse(|c| c["use_something_new"] = Value::Null).unwrap();
    assert_eq!(note, None);
    assert!(config.use_rslora);
}

#[test]
fn a_new_adapter_has_the_keys_of_peft() {
    let mut config = LoraConfig::new(16, 32.0, Targets::AllLinear);
    config.dropout = 0.05;
    config.base_model = Some("Qwen/Qwen3-8B".to_owned());
    let ours: Value = serde_json::from_str(&config.to_json()).unwrap();
    let text = fs::read_to_string(golden("qwen3-tiny/adapter-plain/adapter_config.json")).unwrap();
    let mut want: Value = serde_json::from_str(&text).unwrap();
    want["r"] = 16.into();
    want["lora_alpha"] = 32.into();
    want["lora_dropout"] = 0.05.into();
    want["base_model_name_or_path"] = "Qwen/Qwen3-8B".into();
    want["target_modules"] = json!(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
    assert_eq!(ours, want);
    let (again, _) = LoraConfig::parse(Path::new("x"), &config.to_json()).unwrap();
    assert_eq!(again.resolve(&model()).unwrap(), config.resolve(&model()).unwrap());
    assert_eq!((again.dropout, again.base_model), (config.dropout, config.base_model));
}

fn resolve(edit: impl FnOnce(&mut LoraConfig)) -> Result<Vec<String>, String> {
    let mut config = LoraConfig::new(8, 16.0, Targets::from_text("q_proj"));
    edit(&mut config);
    let targets = config.resolve(&model()).map_err(|e| e.to_string())?;
    Ok(targets.into_iter().map(|Target { module, .. }| module.to_string()).collect())
}

fn targets(text: &str) -> Result<Vec<String>, String> {
    resolve(|c| c.target_modules = Targets::from_text(text))
}

#[test]
fn targets_are_found_as_peft_finds_them() {
    let all = targets("all-linear").unwrap();
    assert_eq!(all.len(), 14);
    assert_eq!(targets("All-Linear").unwrap(), all);
    assert_eq!(targets("q_proj, v_proj").unwrap().len(), 4);
    assert_eq!(targets("layers.1.mlp.up_proj").unwrap(), ["model.layers.1.mlp.up_proj"]);
    assert_eq!(targets("lm_head").unwrap(), ["lm_head"]);
    assert_eq!(targets("lm_head,embed_tokens").unwrap(), ["model.embed_tokens", "lm_head"]);
    assert_eq!(targets(r"model\.embed.*").unwrap(), ["model.embed_tokens"]);
    // Of layers by their numbers, only what is named in full.
    let by_number = resolve(|c| {
        c.target_modules = Targets::from_text("lm_head,embed_tokens,q_proj");
        c.layers_to_transform = vec![1];
    });
    assert_eq!(by_number.unwrap(), ["model.layers.1.self_attn.q_proj", "lm_head"]);
    assert_eq!(targets(r".*\.(q|k)_proj").unwrap().len(), 4);
    assert_eq!(targets(r"model\.layers\.[01]\.mlp\.(?P<which>up|gate)_proj").unwrap().len(), 4);
    let not_all = resolve(|c| {
        c.target_modules = Targets::AllLinear;
        c.exclude_modules = Some(Targets::from_text("layers.0.mlp.up_proj,o_proj"));
    });
    assert_eq!(not_all.unwrap().len(), 11);
    let one_layer = resolve(|c| {
        c.target_modules = Targets::from_text("q_proj,model.layers.0.mlp.up_proj");
        c.layers_to_transform = vec![1];
        c.layers_pattern = vec!["layers".to_owned()];
    });
    assert_eq!(one_layer.unwrap(), ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"]);
}

#[test]
fn targets_that_match_nothing_are_named() {
    let q_proj = |pattern: &str| vec![(pattern.to_owned(), 4)];
    let cases = [
        (targets("q_proj,w_proj"), "`w_proj` of `target_modules`: it matches no module; this model has q_proj, k_proj"),
        (targets("proj"), "`proj` of `target_modules`"),
        (targets(r"q_proj$|nothing"), "`q_proj$|nothing` of `target_modules`"),
        (targets(r"(?<!x)q_proj"), "look-around"),
        (targets(r"(q)_proj\1"), "no references"),
        (targets(r".*[[a]]q_proj"), "`[` means something else in Python"),
        (targets(r"[]a&&b]*q_proj"), "`&&` means something else in Python"),
        (targets(r"[^]a--b]*q_proj"), "`--` means something else in Python"),
        (targets(r".*\b{start}q_proj"), r"`\b{` means something else in Python"),
        (targets(r".*+q_proj"), "`*+` means something else"),
        (targets(r"(q_proj"), "not a regular expression"),
        (resolve(|c| c.exclude_modules = Some(Targets::from_text("w_proj"))), "`w_proj` of `exclude_modules`"),
        (resolve(|c| c.exclude_modules = Some(Targets::from_text("q_proj"))), "nothing is left to adapt"),
        (resolve(|c| c.layers_to_transform = vec![0, 2]), "`2` of `layers_to_transform`: the model has layers 0 to 1"),
        (resolve(|c| c.layers_pattern = vec!["layers".to_owned()]), "goes with `layers_to_transform`"),
        (
            resolve(|c| {
                c.layers_to_transform = vec![0];
                c.layers_pattern = vec!["h".to_owned()];
            }),
            "`h` of `layers_pattern`",
        ),
        (resolve(|c| c.rank_pattern = q_proj("v_proj")), "`v_proj` of `rank_pattern`: it matches no module"),
        (
            resolve(|c| c.rank_pattern = vec![("q_proj".to_owned(), 0)]),
            "rank of the adapter is 0, but it must be from 1",
        ),
        (resolve(|c| c.alpha = f64::NAN), "lora_alpha is NaN"),
    ];
    for (got, want) in cases {
        let error = got.unwrap_err();
        assert!(error.contains(want), "wanted {want}: {error}");
    }
    let tied = Qwen3Config { tie_word_embeddings: true, ..model() };
    let mut config = LoraConfig::new(8, 16.0, Targets::AllLinear);
    config.save_lm_head = true;
    let error = config.resolve(&tied).unwrap_err().to_string();
    assert!(error.contains("`lm_head` of `modules_to_save`"), "{error}");
}

/// Reads an adapter whose tensors were edited.
fn edited(edit: impl FnOnce(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>)) -> Result<Adapter, String> {
    let from = golden("qwen3-tiny/adapter-save_head");
    let file = Checkpoint::open_file(&from.join("adapter_model.safetensors")).unwrap();
    let owned = file.names().map(|n| file.tensor(n).unwrap());
    let mut owned: Vec<_> = owned.map(|t| (t.name.to_owned(), t.dtype, t.shape.to_vec(), t.data.to_vec())).collect();
    edit(&mut owned);
    let out = tempfile::tempdir().unwrap();
    let tensors = owned.iter().map(|(name, dtype, shape, data)| Tensor { name, dtype: *dtype, shape, data });
    write_file(&out.path().join("adapter_model.safetensors"), &tensors.collect::<Vec<_>>()).unwrap();
    fs::copy(from.join("adapter_config.json"), out.path().join("adapter_config.json")).unwrap();
    Adapter::open(out.path(), &model()).map(|(adapter, _)| adapter).map_err(|e| e.to_string())
}

#[test]
fn tensors_that_are_missing_unused_or_misshapen_are_named() {
    let first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let error = edited(|t| t.retain(|t| t.0 != first)).unwrap_err();
    assert!(error.contains(&format!("has no tensor `{first}`")), "{error}");
    let error = edited(|t| t.retain(|t| t.0 != "base_model.model.lm_head.weight")).unwrap_err();
    assert!(error.contains("has no tensor `base_model.model.lm_head.weight`"), "{error}");
    let extra = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight";
    let error = edited(|t| t.push((extra.to_owned(), Dtype::F32, vec![1], vec![0; 4]))).unwrap_err();
    assert!(error.contains("1 of its tensors would go unused") && error.contains(extra), "{error}");
    let error = edited(|t| t.iter_mut().filter(|t| t.0 == first).for_each(|t| t.2.reverse())).unwrap_err();
    assert!(error.contains("is F32 [64, 8], expected [8, 64]"), "{error}");
    let error = edited(|t| t.iter_mut().filter(|t| t.0 == first).for_each(|t| t.1 = Dtype::I32)).unwrap_err();
    assert!(error.contains("is I32 [8, 64], expected bfloat16, float16 or float32"), "{error}");
}

#[test]
fn half_precision_adapters_are_widened() {
    let whole = edited(|_| ()).unwrap();
    let halved = edited(|tensors| {
        for (_, dtype, _, data) in tensors {
            // The upper half of an f32 is a bf16, cut off.
            let upper = data.chunks_exact(4).flat_map(|b| [b[2], b[3]]);
            (*data, *dtype) = (upper.collect(), Dtype::BF16);
        }
    })
    .unwrap();
    let module = Module::Layer(0, Projection::Q);
    assert_eq!(halved.layers[0].target.module, module);
    for (got, want) in halved.layers[0].b.iter().zip(&whole.layers[0].b) {
        assert_eq!(got.to_bits(), want.to_bits() & 0xffff_0000);
    }
}

#[test]
fn an_adapter_without_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Adapter::open(dir.path(), &model()).unwrap_err().to_string();
    assert!(error.contains("has no adapter_config.json"), "{error}");
    fs::copy(golden("qwen3-tiny/adapter-plain/adapter_config.json"), dir.path().join("adapter_config.json")).unwrap();
    let error = Adapter::open(dir.path(), &model()).unwrap_err().to_string();
    assert!(error.contains("has no adapter_model.safetensors"), "{error}");
}
