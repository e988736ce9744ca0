//! Numbers and files that contradict themselves are found while a model is loaded, and named.

use std::fs;
use std::path::Path;

use halfbyte::Cpu;
use halfbyte::quant::Format;
use halfbyte_runtime::batch::Batch;
use halfbyte_runtime::checkpoint::{BnbConfig, Checkpoint, Dtype, Tensor, write_file};
use halfbyte_runtime::config::{GenerationConfig, Qwen3Config};
use halfbyte_runtime::lora::Adapter;
use halfbyte_runtime::model::{Activations, Base, ForwardContext, Keep, Qwen3, checkpoint_note, quantize_checkpoint};

use super::{golden, names};

/// A copy of a golden folder, with what `change` makes of the bytes of each tensor.
fn changed(folder: &str, file: &str, change: impl Fn(&str, &mut Vec<u8>)) -> tempfile::TempDir {
    let (from, to) = (golden(folder), tempfile::tempdir().unwrap());
    names(&from).iter().filter(|name| name.ends_with("json")).for_each(|name| {
        fs::copy(from.join(name), to.path().join(name)).unwrap();
    });
    let checkpoint = Checkpoint::open_file(&from.join(file)).unwrap();
    let mut data: Vec<_> = checkpoint.names().map(|name| (name, checkpoint.get(name).unwrap().data.to_vec())).collect();
    data.iter_mut().for_each(|(name, bytes)| change(name, bytes));
    let tensors: Vec<_> = data
        .iter()
        .map(|(name, data)| {
            let tensor = checkpoint.get(name).unwrap();
            Tensor { name, dtype: tensor.dtype, shape: tensor.shape, data }
        })
        .collect();
    write_file(&to.path().join(file), &tensors).unwrap();
    to
}

fn load(dir: &Path) -> Result<Qwen3<Cpu, f32>, String> {
    let config = Qwen3Config::open(dir).unwrap();
    Qwen3::load(&Cpu::new(), &Checkpoint::open(dir).unwrap(), &config, Base::Unquantized).map_err(|e| e.to_string())
}

/// The bytes of an infinity or a NaN in place of element `i`, or the last.
fn poison(dtype: Dtype, bytes: &mut [u8], i: usize) {
    let i = i.min(bytes.len() * 8 / dtype.bitsize() - 1);
    match dtype {
        Dtype::BF16 => bytes[2 * i..][..2].copy_from_slice(&0x7FC0_u16.to_le_bytes()),
        Dtype::F16 => bytes[2 * i..][..2].copy_from_slice(&0xFC00_u16.to_le_bytes()),
        _ => bytes[4 * i..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes()),
    }
}

#[test]
fn what_is_no_number_in_a_model_is_named() {
    const FILE: &str = "model.safetensors";
    for folder in ["qwen3-tiny/untied", "qwen3-tiny/untied-nf4-dq", "qwen3-tiny/untied-nf4"] {
        let original = Checkpoint::open(&golden(folder)).unwrap();
        for name in original.names() {
            let dtype = original.get(name).unwrap().dtype;
            if !matches!(dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
                continue;
            }
            let dir = changed(folder, FILE, |n, bytes| {
                if n == name {
                    poison(dtype, bytes, 5)
                }
            });
            let error = load(dir.path()).err().unwrap_or_else(|| panic!("{name} may be infinite"));
            assert!(error.contains(name) && error.contains("at element") && error.contains(FILE), "{error}");
        }
    }
    let dir = changed("qwen3-tiny/untied", FILE, |n, bytes| {
        if n == "model.norm.weight" {
            poison(Dtype::F32, bytes, 0);
        }
    });
    let bnb = BnbConfig::new(Format::Nf4, halfbyte::DType::F32);
    let to = dir.path().join("to");
    let error = quantize_checkpoint(&Cpu::new(), dir.path(), &to, bnb, 64, |_, _| std::ops::ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().contains("model.norm.weight") && !to.exists());
}

#[test]
fn what_is_no_number_in_an_adapter_is_named() {
    let dir = changed("qwen3-tiny/adapter-plain", "adapter_model.safetensors", |name, bytes| {
        if name.ends_with("layers.1.mlp.down_proj.lora_B.weight") {
            poison(Dtype::F32, bytes, 7);
        }
    });
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    let error = Adapter::open(dir.path(), &model).unwrap_err().to_string();
    assert!(error.contains("layers.1.mlp.down_proj.lora_B") && error.contains("element 7"), "{error}");
}

/// Every word of every piece is looked at.
#[test]
fn the_first_is_found_wherever_it_is() {
    let len = 200_001;
    for at in [0, 1, 65_535, 65_536, 131_072, len - 1] {
        let mut values = vec![1.0_f32; len];
        values[at] = f32::NAN;
        values[len - 1] = f32::NAN;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let data = bytemuck::cast_slice(&values);
        write_file(&path, &[Tensor { name: "a", dtype: Dtype::F32, shape: &[len], data }]).unwrap();
        let checkpoint = Checkpoint::open_file(&path).unwrap();
        let error = checkpoint.get("a").unwrap().expect_finite().unwrap_err().to_string();
        assert!(error.contains(&format!("NaN at element {at},")), "{error}");
    }
}

/// As in transformers: the head of the file, although config.json ties it to the embedding.
#[test]
fn a_tied_model_uses_another_head_that_is_there() {
    let untied = changed("qwen3-tiny/untied", "model.safetensors", |_, _| ());
    let path = untied.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    let tied = config.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    assert_ne!(config, tied);
    let logits = |dir: &Path| {
        let (model, backend) = (load(dir).unwrap(), Cpu::new());
        let ctx = ForwardContext::new(&backend, None);
        let mut acts = Activations::new(ctx, &model, 4, Keep::Nothing).unwrap();
        model.logits(ctx, &mut acts, &Batch::of_prompts(&[vec![1, 2, 3]])).unwrap()
    };
    let want = logits(untied.path());
    fs::write(&path, tied).unwrap();
    assert!(logits(untied.path()) == want, "the head is ignored");
    let note = |dir: &Path| checkpoint_note(&Checkpoint::open(dir).unwrap(), &Qwen3Config::open(dir).unwrap()).unwrap();
    assert!(note(untied.path()).unwrap().contains("lm_head.weight"));
    assert_eq!(note(&golden("qwen3-tiny/tied")), None);
}

#[test]
fn what_cannot_be_followed_in_generation_config_is_told() {
    let note = |json: &str| GenerationConfig::parse(Path::new("generation_config.json"), json).unwrap().note();
    assert_eq!(note(r#"{"num_beams": 1, "length_penalty": 1.0, "early_stopping": false, "max_new_tokens": 9}"#), None);
    let note = note(r#"{"num_beams": 4, "suppress_tokens": [1], "repetition_penalty": 1.1}"#).unwrap();
    assert!(note.ends_with("num_beams, suppress_tokens"), "{note}");
}

/// 33 million positions would be 17 GB of rotations.
#[test]
fn tables_of_positions_are_bounded() {
    let dir = changed("qwen3-tiny/untied", "model.safetensors", |_, _| ());
    let path = dir.path().join("config.json");
    let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let mut config = config.as_object().unwrap().clone();
    config.insert("max_position_embeddings".into(), 33_000_000_u64.into());
    fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
    let model = load(dir.path()).unwrap();
    assert_eq!(model.config.positions(), 1 << 20);
}

/// What is in a file and no part of the model is told of, as transformers does.
#[test]
fn tensors_that_are_not_used_are_told_of() {
    let dir = golden("qwen3-tiny/untied-nf4-dq");
    let (files, config) = (Checkpoint::open(&dir).unwrap(), Qwen3Config::open(&dir).unwrap());
    assert_eq!(checkpoint_note(&files, &config).unwrap(), None);
    let fewer = Qwen3Config { n_layers: config.n_layers - 1, ..config };
    let note = checkpoint_note(&files, &fewer).unwrap().unwrap();
    assert!(note.contains("are no part of the model") && note.contains("`model.layers.1."), "{note}");
}
