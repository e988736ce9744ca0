//! Adapters merged into checkpoints.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use halfbyte::quant::Format;
use halfbyte::{Cpu, DType};
use halfbyte_runtime::checkpoint::{
    BnbConfig, Checkpoint, CheckpointWriter, DEFAULT_SHARD_BYTES, Dtype, Tensor, write_file,
};
use halfbyte_runtime::config::{Module, Qwen3Config};
use halfbyte_runtime::export::{AdapterSettings, Combination, MajoritySign, MergeReport, MergeSettings, Watch};
use halfbyte_runtime::lora::{Adapter, LoraConfig, LoraWeights, Targets};
use halfbyte_runtime::model::quantize_checkpoint;
use serde_json::Value;

use super::{assert_same, golden, names};

pub(super) fn settings(base: &Path, adapters: &[PathBuf], out: &Path) -> MergeSettings {
    let model_name = base.to_str().unwrap().to_owned();
    let adapters = AdapterSettings { lora_path: adapters.to_vec(), ..AdapterSettings::default() };
    MergeSettings { model_name, ..MergeSettings::new(adapters, out) }
}

pub(super) fn weighted(weights: &[f64], settings: MergeSettings) -> MergeSettings {
    let adapters = AdapterSettings { weights: weights.to_vec(), ..settings.adapters };
    MergeSettings { adapters, ..settings }
}

pub(super) fn untied() -> PathBuf {
    golden("qwen3-tiny/untied")
}

pub(super) fn tiny_adapter(name: &str) -> PathBuf {
    golden(&format!("qwen3-tiny/adapter-{name}"))
}

pub(super) fn embedded() -> PathBuf {
    golden("../../../runtime/assets/tiny-qwen3")
}

pub(super) fn merge(settings: &MergeSettings) -> MergeReport {
    settings.run(&mut ()).unwrap_or_else(|e| panic!("{e}")).expect("nobody broke off")
}

fn refusal(settings: &MergeSettings) -> String {
    settings.run(&mut ()).expect_err("it was not refused").to_string()
}

fn config(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
}

/// `W + s B A` in f64, and with DoRA of the norms that the adapter says.
fn added(layer: &LoraWeights, weight: &[f32]) -> Vec<f64> {
    let ([rows, cols], r) = (layer.target.shape, layer.target.r);
    if layer.target.module == Module::Embedding {
        // Its table has a row for each token, which is a column of `B A`.
        let product = |k: usize, i: usize, j: usize| f64::from(layer.b[i * r + k]) * f64::from(layer.a[k * cols + j]);
        let element = |j, i| (0..r).map(|k| product(k, i, j)).sum::<f64>() * f64::from(layer.target.scaling);
        return (0..cols * rows).map(|at| f64::from(weight[at]) + element(at / rows, at % rows)).collect();
    }
    let product = |i: usize, j: usize| {
        (0..r).map(|k| f64::from(layer.b[i * r + k]) * f64::from(layer.a[k * cols + j])).sum::<f64>()
    };
    let element = |i, j| f64::from(weight[i * cols + j]) + f64::from(layer.target.scaling) * product(i, j);
    let row = |i| {
        let row: Vec<_> = (0..cols).map(|j| element(i, j)).collect();
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        let factor = layer.magnitude.get(i).map_or(1.0, |&magnitude| f64::from(magnitude) / norm);
        row.into_iter().map(move |v| v * factor)
    };
    (0..rows).flat_map(row).collect()
}

/// Rounding to a type moves a number by at most this share of it.
fn half_a_step(dtype: DType) -> f64 {
    2f64.powi(match dtype {
        DType::Bf16 => -8,
        DType::F16 => -11,
        DType::F32 => -24,
    })
}

/// Every tensor but those of adapted layers has the bits of the source, and these the sum, rounded once.
#[test]
fn a_merge_adds_to_the_adapted_layers_and_to_nothing_else() {
    let model = Qwen3Config::open(&untied()).unwrap();
    let before = Checkpoint::open(&untied()).unwrap();
    let dtype_names = ["bfloat16", "float16", "float32"];
    let adapters = [("plain", DType::F32), ("dora", DType::F32), ("patterns", DType::Bf16), ("rslora", DType::F16)];
    for (name, dtype) in adapters {
        let out = tempfile::tempdir().unwrap();
        let report =
            merge(&MergeSettings { dtype: Some(dtype), ..settings(&untied(), &[tiny_adapter(name)], out.path()) });
        let after = Checkpoint::open(out.path()).unwrap();
        assert!(before.names().eq(after.names()), "{name}: other tensors");
        assert!(
            after.has("model.layers.1.self_attn.q_norm.weight") && after.has("model.layers.0.self_attn.k_norm.weight")
        );
        assert_eq!(config(out.path())["dtype"], dtype_names[dtype.index()]);
        let adapter = Adapter::open(&tiny_adapter(name), &model).unwrap().0;
        assert_eq!((report.n_adapted, report.n_tensors), (adapter.layers.len(), before.names().count()));
        for tensor in before.names() {
            let (was, is) = (before.tensor(tensor).unwrap(), after.tensor(tensor).unwrap());
            assert_eq!((is.float(), is.shape), (Some(dtype), was.shape), "{tensor}");
            let layer = adapter.layers.iter().find(|layer| format!("{}.weight", layer.target.module) == tensor);
            let (was, is) = (was.to_f32().unwrap(), is.to_f32().unwrap());
            let want = layer.map_or_else(|| was.iter().map(|&v| v.into()).collect(), |layer| added(layer, &was));
            let most = want.iter().fold(0f64, |most, v| most.max(v.abs()));
            for (got, want) in is.iter().zip(&want) {
                // The sums of f32 are of up to 17 terms, or of 9 and then a factor; below f16's normal numbers steps are 2^-24.
                let tolerance = want.abs() * half_a_step(dtype) + most * 18.0 * 2f64.powi(-24) + 2f64.powi(-25);
                let tolerance = if layer.is_none() && dtype == DType::F32 { 0.0 } else { tolerance };
                assert!((f64::from(*got) - want).abs() <= tolerance, "{name}: {tensor}: {got}, expected {want}");
            }
        }
    }
}

/// Notes what it is told.
struct Told(Vec<String>);

impl Watch for Told {
    fn note(&mut self, line: &str) {
        self.0.push(line.to_owned());
    }
}

/// A head that was the embedding is one of its own then: neither follows the other.
#[test]
fn embeddings_and_heads_are_merged_and_part() {
    for (name, base) in [("tied-both", "tied"), ("tied-head", "tied"), ("tied-embedding", "tied"), ("head", "untied")] {
        let (base, dir) = (golden(&format!("qwen3-tiny/{base}")), golden(&format!("ends/adapter-{name}")));
        let (out, mut told) = (tempfile::tempdir().unwrap(), Told(Vec::new()));
        settings(&base, std::slice::from_ref(&dir), out.path()).run(&mut told).unwrap().unwrap();
        let (before, after) = (Checkpoint::open(&base).unwrap(), Checkpoint::open(out.path()).unwrap());
        let tied = !before.has("lm_head.weight");
        assert_eq!(tied, told.0.iter().any(|note| note.contains("a tensor of its own with this adapter")), "{name}");
        assert_eq!(after.names().count(), before.names().count() + usize::from(tied), "{name}");
        assert_eq!(config(out.path())["tie_word_embeddings"], false, "{name}");
        let adapter = Adapter::open(&dir, &Qwen3Config::open(&base).unwrap()).unwrap().0;
        for tensor in after.names() {
            let was = before.get(tensor).unwrap_or_else(|| before.tensor("model.embed_tokens.weight").unwrap());
            let is = after.tensor(tensor).unwrap();
            let Some(layer) = adapter.layers.iter().find(|l| format!("{}.weight", l.target.module) == tensor) else {
                assert!(is.data == was.data, "{name}: {tensor} has changed");
                continue;
            };
            let want = added(layer, &was.to_f32().unwrap());
            let most = want.iter().fold(0f64, |most, v| most.max(v.abs()));
            for (got, want) in is.to_f32().unwrap().iter().zip(&want) {
                // Up to 17 terms of f32.
                let error = (f64::from(*got) - want).abs();
                assert!(error <= most * 18.0 * 2f64.powi(-24), "{name}: {tensor}: {got}, expected {want}");
            }
        }
    }
}

/// Parts of one adapter are the whole of it.
#[test]
fn adapters_of_embedding_and_head_are_combined() {
    let (base, both) = (golden("qwen3-tiny/tied"), golden("ends/adapter-tied-both"));
    let out = tempfile::tempdir().unwrap();
    let [one, parts] = ["one", "parts"].map(|name| out.path().join(name));
    merge(&settings(&base, std::slice::from_ref(&both), &one));
    merge(&weighted(&[0.25, 0.75], settings(&base, &[both.clone(), both], &parts)));
    let [one, parts] = [one, parts].map(|dir| Checkpoint::open(&dir).unwrap());
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let [one, parts] = [&one, &parts].map(|files| files.tensor(name).unwrap().to_f32().unwrap());
        let most = one.iter().fold(0f32, |most, v| most.max(v.abs()));
        // Up to 17 terms of f32 each.
        assert!(one.iter().zip(&parts).all(|(a, b)| (a - b).abs() <= most * 36.0 * 2f32.powi(-24)), "{name}");
    }
}

#[test]
fn a_merged_folder_is_complete() {
    let out = tempfile::tempdir().unwrap();
    let adapter = out.path().join("adapter");
    let base = embedded();
    save_adapter(&base, &adapter, LoraConfig::new(4, 8.0, Targets::AllLinear));
    let merged = out.path().join("merged");
    merge(&settings(&base, std::slice::from_ref(&adapter), &merged));
    assert_eq!(names(&merged), ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]);
    for file in ["generation_config.json", "tokenizer.json"] {
        assert_same(&merged.join(file), &base.join(file));
    }
    assert_eq!(config(&merged), config(&base));

    let sharded = out.path().join("sharded");
    merge(&MergeSettings { max_shard_size: 4, ..settings(&base, &[adapter], &sharded) });
    let shards: Vec<_> = names(&sharded).into_iter().filter(|name| name.starts_with("model-0000")).collect();
    assert!(shards.len() > 2 && sharded.join("model.safetensors.index.json").exists(), "{shards:?}");
    assert!(shards.iter().all(|name| fs::metadata(sharded.join(name)).unwrap().len() <= 4_100_000));
    let (one, many) = (Checkpoint::open(&merged).unwrap(), Checkpoint::open(&sharded).unwrap());
    assert!(one.names().eq(many.names()));
    assert!(one.names().all(|name| one.tensor(name).unwrap().data == many.tensor(name).unwrap().data));
}

/// A model of one layer with so many ids, beside a tokenizer.
pub(super) fn write_model(dir: &Path, vocab: usize) {
    let text = format!(
        r#"{{"architectures": ["Qwen3ForCausalLM"], "vocab_size": {vocab}, "hidden_size": 32, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32,
            "max_position_embeddings": 64, "tie_word_embeddings": true, "pad_token_id": 151643}}"#
    );
    fs::write(dir.join("config.json"), text).unwrap();
    let config = Qwen3Config::open(dir).unwrap();
    let mut writer = CheckpointWriter::create(dir, DEFAULT_SHARD_BYTES).unwrap();
    let mut put = |name: &str, shape: &[usize]| {
        let data = vec![0x3C; 2 * shape.iter().product::<usize>()];
        writer.put(Tensor { name: &format!("{name}.weight"), dtype: Dtype::BF16, shape, data: &data }).unwrap();
    };
    put("model.embed_tokens", &[vocab, 32]);
    put("model.norm", &[32]);
    for norm in ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"] {
        put(&format!("model.layers.0.{norm}"), &[32]);
    }
    config.modules().filter(|m| *m != Module::LmHead).for_each(|m| put(&m.to_string(), &config.shape(m)));
    writer.finish().unwrap();
}

/// An adapter whose A and B are nowhere 0.
pub(super) fn save_adapter(base: &Path, to: &Path, config: LoraConfig) -> Adapter {
    let model = Qwen3Config::open(base).unwrap();
    let mut adapter = Adapter::init(config, &model, &Checkpoint::open(base).unwrap(), 3).unwrap();
    for layer in &mut adapter.layers {
        let zeros = if layer.target.module == Module::Embedding { &mut layer.a } else { &mut layer.b };
        zeros.iter_mut().enumerate().for_each(|(i, b)| *b = ((i * 37 % 101) as f32 - 50.0) / 500.0);
    }
    adapter.save(to).unwrap();
    adapter
}

/// The base in 4 bits: names without its scales, no word of quantisation, and the same sum on what the codes stand for.
#[test]
fn a_base_in_4_bits_is_dequantised() {
    let base = golden("qwen3-tiny/untied-nf4-dq");
    let out = tempfile::tempdir().unwrap();
    merge(&settings(&base, &[tiny_adapter("plain")], out.path()));
    let (dense, merged) = (Checkpoint::open(&untied()).unwrap(), Checkpoint::open(out.path()).unwrap());
    assert!(dense.names().eq(merged.names()));
    assert!(config(&base).get("quantization_config").is_some());
    assert_eq!(config(out.path()).get("quantization_config"), None);

    // Quantising what a merge of nothing wrote gives the codes that it was made of.
    let (idle, again) = (out.path().join("idle"), out.path().join("again"));
    let nothing = weighted(&[0.0], settings(&base, &[tiny_adapter("plain")], &idle));
    merge(&nothing);
    quantize(&idle, &again, DType::F32);
    let (was, is) = (Checkpoint::open(&base).unwrap(), Checkpoint::open(&again).unwrap());
    let codes = |files: &Checkpoint, name: &str| files.tensor(name).unwrap().data.to_vec();
    let weights: Vec<_> = was.weight_names().filter(|name| name.contains("proj")).collect();
    assert_eq!(weights.len(), 14);
    for name in weights {
        assert_eq!(codes(&was, name), codes(&is, name), "{name}");
    }
}

fn quantize(from: &Path, to: &Path, compute: DType) {
    let bnb = BnbConfig::new(Format::Nf4, compute);
    quantize_checkpoint(&Cpu::new(), from, to, bnb, 64, |_, _| ControlFlow::Continue(())).unwrap().unwrap();
}

/// To the byte what quantising the merged checkpoint gives, with the error that it makes.
#[test]
fn a_merge_into_4_bits_says_what_the_rounding_did() {
    let parent = tempfile::tempdir().unwrap();
    let [dense, four_bit, quantized] = ["dense", "four-bit", "quantized"].map(|name| parent.path().join(name));
    let all = settings(&untied(), &[tiny_adapter("plain")], &dense);
    assert_eq!(merge(&all).four_bits, None);
    let report = merge(&MergeSettings { use_4bit: true, output: four_bit.clone(), ..all });
    quantize(&dense, &quantized, DType::F32);
    for file in ["model.safetensors", "config.json"] {
        assert_same(&four_bit.join(file), &quantized.join(file));
    }
    let bits = report.four_bits.unwrap();
    // Blocks of 64 normal numbers, NF4: the error is about 9 % of their size (Dettmers et al. 2023, arXiv:2305.14314).
    let share = (bits.error / bits.weights).sqrt();
    assert!((0.06..0.12).contains(&share), "{share}");
    let model = Qwen3Config::open(&untied()).unwrap();
    let adapter = Adapter::open(&tiny_adapter("plain"), &model).unwrap().0;
    let zero = |layer: &LoraWeights| added(layer, &vec![0.0; layer.target.shape.iter().product()]);
    let want: f64 = adapter.layers.iter().flat_map(zero).map(|v| v * v).sum();
    assert!((bits.added / want - 1.0).abs() <= 1e-4, "{} and {want}", bits.added);
    assert!(report.to_string().contains("the rounding to 4 bits by "), "{report}");
}

/// Breaks off before a tensor.
struct Until(usize);

impl Watch for Until {
    fn wrote(&mut self, done: usize, _: usize) -> ControlFlow<()> {
        if done == self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_merge_that_is_broken_off_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let to = parent.path().join("a/merged");
    for last in [0, 7, 24] {
        let outcome = settings(&untied(), &[tiny_adapter("plain")], &to).run(&mut Until(last)).unwrap();
        assert!(outcome.is_none() && !parent.path().join("a").exists(), "{last}");
    }
}

#[test]
fn what_would_be_overwritten_is_refused() {
    for file in ["config.json", "tokenizer.json", "model.safetensors", "model-00001-of-00002.safetensors"] {
        let out = tempfile::tempdir().unwrap();
        fs::write(out.path().join(file), "mine").unwrap();
        let said = refusal(&settings(&untied(), &[tiny_adapter("plain")], out.path()));
        assert!(said.contains(file) && said.contains("choose an empty folder"), "{said}");
        assert_eq!(
            (names(out.path()), fs::read_to_string(out.path().join(file)).unwrap()),
            (vec![file.into()], "mine".into())
        );
    }
    // A file that is nobody's business stays.
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("notes.txt"), "mine").unwrap();
    merge(&settings(&untied(), &[tiny_adapter("plain")], out.path()));
    assert_eq!(fs::read_to_string(out.path().join("notes.txt")).unwrap(), "mine");
}

#[test]
fn what_cannot_be_merged_is_refused_by_name() {
    let out = tempfile::tempdir().unwrap();
    let (to, adapter) = (out.path().join("merged"), out.path().join("adapter"));
    let tied = golden("qwen3-tiny/tied");
    let says = |settings: &MergeSettings, wanted: &[&str]| {
        let said = refusal(settings);
        wanted.iter().for_each(|wanted| assert!(said.contains(wanted), "wanted {wanted}: {said}"));
        assert!(!to.exists(), "{said}");
    };
    says(&settings(&tied, &[tiny_adapter("save_head")], &to), &["lm_head", "embedding"]);

    let mut large = save_adapter(&untied(), &adapter, LoraConfig::new(2, 2.0, Targets::AllLinear));
    large.layers.iter_mut().for_each(|layer| layer.b.fill(1e6));
    large.save(&adapter).unwrap();
    let f16 = MergeSettings { dtype: Some(DType::F16), ..settings(&untied(), &[adapter], &to) };
    says(&f16, &["layers.0.mlp.down_proj", "beyond the largest number", "bfloat16"]);

    let plain = settings(&untied(), &[tiny_adapter("plain")], &to);
    let idle = |edit: fn(&mut MergeSettings), wanted: &str| {
        let mut settings = plain.clone();
        edit(&mut settings);
        says(&settings, &[wanted]);
    };
    idle(|s| s.adapters.combination = Some(Combination::Cat), "the combination is set, but it has no effect");
    idle(|s| s.adapters.density = Some(0.5), "the density is set");
    idle(|s| s.adapters.majority_sign = Some(MajoritySign::Total), "the majority sign is set");
    idle(|s| s.bnb_4bit_quant_type = Some(Format::Fp4), "the 4-bit type is set");
    idle(|s| s.bnb_4bit_use_double_quant = Some(true), "double quantisation is set");
    idle(|s| s.adapters.weights = vec![1.0, 2.0], "the number of weights is 2, but there must be 1");
    idle(|s| s.adapters.lora_path.clear(), "the adapter is missing");
    idle(|s| s.max_shard_size = 0, "the size of a file in MB is 0");
    idle(|s| s.adapters.weights = vec![f64::NAN], "the weight of an adapter is NaN");
}

/// A tied head that the file has a copy of follows the tokens, and one that is another does not say whether it should.
#[test]
fn a_copied_head_follows_the_tokens_of_the_embedding() {
    let (from, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tied = golden("qwen3-tiny/tied");
    fs::copy(tied.join("config.json"), from.path().join("config.json")).unwrap();
    let files = Checkpoint::open(&tied).unwrap();
    let write = |head: &[u8]| {
        let embedding = files.tensor("model.embed_tokens.weight").unwrap();
        let tensors = files.names().map(|name| files.tensor(name).unwrap());
        let tensors = tensors.map(|t| Tensor { name: t.name, dtype: t.dtype, shape: t.shape, data: t.data });
        let head = Tensor { name: "lm_head.weight", dtype: Dtype::F32, shape: embedding.shape, data: head };
        write_file(&from.path().join("model.safetensors"), &tensors.chain([head]).collect::<Vec<_>>()).unwrap();
    };
    let embedding = files.tensor("model.embed_tokens.weight").unwrap();
    write(embedding.data);
    let adapter = golden("trainable-tokens/adapter-tied");
    merge(&settings(from.path(), std::slice::from_ref(&adapter), &out.path().join("copy")));
    let merged = Checkpoint::open(&out.path().join("copy")).unwrap();
    let [head, table] = ["lm_head.weight", "model.embed_tokens.weight"].map(|name| merged.tensor(name).unwrap().data);
    assert!(head == table && table != embedding.data);
    write(&vec![0; embedding.data.len()]);
    let said = refusal(&settings(from.path(), &[adapter], &out.path().join("other")));
    assert!(said.contains("`lm_head`") && said.contains("tie_word_embeddings"), "{said}");
}
