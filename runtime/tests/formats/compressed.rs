//! Checkpoints that compressed-tensors packed; `tests/interop/packed.py` reads them with its package.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use half::bf16;
use halfbyte::DType;
use halfbyte_runtime::checkpoint::{Checkpoint, Dtype};
use halfbyte_runtime::config::Qwen3Config;
use halfbyte_runtime::export::{AdapterSettings, CompressedReport, CompressedSettings, MergeSettings, Watch};
use serde_json::{Value, json};

use super::merge::{embedded, merge, settings as merge_settings, tiny_adapter, untied};
use super::{assert_same, golden, names};

fn settings(base: &Path, group_size: usize, out: &Path) -> CompressedSettings {
    let model_name = base.to_str().unwrap().to_owned();
    CompressedSettings { model_name, group_size, ..CompressedSettings::new(out) }
}

fn export(settings: &CompressedSettings) -> CompressedReport {
    settings.run(&mut ()).unwrap_or_else(|e| panic!("{e}")).expect("nobody broke off")
}

fn refusal(settings: &CompressedSettings) -> String {
    settings.run(&mut ()).expect_err("it was not refused").to_string()
}

fn config(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
}

/// The weights of a layer, as its readers have them, and the type and shape of each of its tensors.
fn unpacked(files: &Checkpoint, layer: &str, group_size: usize) -> Vec<f64> {
    let tensor = |part: &str| files.tensor(&format!("{layer}.{part}")).unwrap();
    let (packed, scales, shape) = (tensor("weight_packed"), tensor("weight_scale"), tensor("weight_shape"));
    assert_eq!([packed.dtype, scales.dtype, shape.dtype], [Dtype::I32, Dtype::BF16, Dtype::I64]);
    let sides: Vec<_> = shape.data.as_chunks::<8>().0.iter().map(|&n| i64::from_le_bytes(n) as usize).collect();
    let [rows, columns] = sides[..] else { panic!("{layer}: {sides:?}") };
    assert_eq!((packed.shape, scales.shape), (&[rows, columns / 8][..], &[rows, columns / group_size][..]));
    let words = packed.data.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word));
    let integers = words.flat_map(|word| (0..8).map(move |i| f64::from(word >> (4 * i) & 15) - 8.0));
    let scales: Vec<_> = scales.data.as_chunks::<2>().0.iter().map(|&v| bf16::from_le_bytes(v).to_f64()).collect();
    integers.enumerate().map(|(i, integer)| integer * scales[i / group_size]).collect()
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// Linear layers are near the weights, by as much as the report says; the rest is the checkpoint's own.
#[test]
fn linear_layers_are_packed_and_the_rest_is_in_bf16() {
    for (base, group_size) in [(embedded(), 128), (untied(), 32)] {
        let out = tempfile::tempdir().unwrap();
        let report = export(&settings(&base, group_size, out.path()));
        let (before, after) = (Checkpoint::open(&base).unwrap(), Checkpoint::open(out.path()).unwrap());
        let model = Qwen3Config::open(&base).unwrap();
        let layers: BTreeSet<String> =
            model.modules().map(|module| module.to_string()).filter(|name| name != "lm_head").collect();
        assert_eq!((report.n_packed, report.group_size), (layers.len(), group_size));
        let (mut weights, mut differences) = (Vec::new(), Vec::new());
        for name in before.names() {
            let was = before.tensor(name).unwrap().to_f32().unwrap();
            let Some(layer) = name.strip_suffix(".weight").filter(|&name| layers.contains(name)) else {
                let is = after.tensor(name).unwrap();
                let want: Vec<_> = was.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
                assert!(is.dtype == Dtype::BF16 && is.to_f32().unwrap() == want, "{name}");
                continue;
            };
            assert!(!after.has(name));
            let is = unpacked(&after, layer, group_size);
            assert_eq!(is.len(), was.len());
            differences.extend(is.iter().zip(&was).map(|(is, &was)| is - f64::from(was)));
            weights.extend(was.into_iter().map(f64::from));
        }
        let error = rms(differences.into_iter()) / rms(weights.into_iter());
        assert!((error - report.error).abs() < 1e-6 * error, "{error}, reported {}", report.error);
        // Integers of a normal distribution's best 16 levels leave about 0.1 of it.
        assert!((0.05..0.15).contains(&error), "{error}");
        assert_eq!(after.names().count(), before.names().count() + 2 * layers.len());
    }
}

#[test]
fn the_folder_is_complete_and_says_how_it_is_packed() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("packed");
    export(&settings(&embedded(), 64, &folder));
    assert_eq!(names(&folder), ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]);
    assert_same(&folder.join("tokenizer.json"), &embedded().join("tokenizer.json"));
    let mut said = config(&folder);
    let quantization = said.as_object_mut().unwrap().remove("quantization_config").unwrap();
    assert_eq!(said, config(&embedded()));
    assert_eq!(quantization["quant_method"], "compressed-tensors");
    assert_eq!((&quantization["format"], &quantization["ignore"]), (&json!("pack-quantized"), &json!(["lm_head"])));
    let weights = &quantization["config_groups"]["group_0"]["weights"];
    let want = json!({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 64, "dynamic": false});
    assert_eq!(weights, &want);
    let refused = Qwen3Config::open(&folder).unwrap_err().to_string();
    assert!(refused.contains("only \"bitsandbytes\" is supported"), "{refused}");

    let sharded = out.path().join("sharded");
    export(&CompressedSettings { max_shard_size: 1, ..settings(&embedded(), 64, &sharded) });
    let (one, many) = (Checkpoint::open(&folder).unwrap(), Checkpoint::open(&sharded).unwrap());
    assert!(names(&sharded).len() > 5 && one.names().eq(many.names()));
    assert!(one.names().all(|name| one.tensor(name).unwrap().data == many.tensor(name).unwrap().data));
}

/// What is packed is the sum in f32, not one that was rounded to bf16 before.
#[test]
fn adapters_are_merged_first() {
    let out = tempfile::tempdir().unwrap();
    let [merged, one, two] = ["merged", "one", "two"].map(|name| out.path().join(name));
    let ends = (golden("qwen3-tiny/tied"), golden("ends/adapter-tied-both"));
    for (base, adapter) in [(untied(), tiny_adapter("plain")), (untied(), tiny_adapter("dora")), ends] {
        let lora_path = vec![adapter];
        merge(&MergeSettings { dtype: Some(DType::F32), ..merge_settings(&base, &lora_path, &merged) });
        export(&settings(&merged, 32, &one));
        let adapters = AdapterSettings { lora_path, ..AdapterSettings::default() };
        export(&CompressedSettings { adapters, ..settings(&base, 32, &two) });
        // Also where the head was the embedding.
        assert_eq!(config(&two)["tie_word_embeddings"], false);
        assert_same(&one.join("model.safetensors"), &two.join("model.safetensors"));
        [&merged, &one, &two].into_iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
    }
}

#[test]
fn what_cannot_be_packed_or_would_be_overwritten_is_refused() {
    struct Halfway;
    impl Watch for Halfway {
        fn wrote(&mut self, done: usize, _: usize) -> ControlFlow<()> {
            if done == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    let out = tempfile::tempdir().unwrap();
    let folder: PathBuf = out.path().join("packed");
    let said = refusal(&settings(&untied(), 48, &folder));
    assert!(said.contains("the group size is 48, but must be 32, 64 or 128"), "{said}");
    let said = refusal(&settings(&untied(), 128, &folder));
    assert!(said.contains("has rows of 64, which are no whole groups; choose 64"), "{said}");
    assert!(settings(&untied(), 32, &folder).run(&mut Halfway).unwrap().is_none());
    assert!(!folder.exists(), "it left {:?}", names(&folder));
    export(&settings(&untied(), 32, &folder));
    let before = fs::read(folder.join("model.safetensors")).unwrap();
    assert!(refusal(&settings(&untied(), 64, &folder)).contains("it exists; choose an empty folder"));
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), before);
}
