use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use halfbyte::DType;
use halfbyte::quant::{Absmax, Format};
use halfbyte_runtime::Error;
use halfbyte_runtime::checkpoint::{
    Bnb4bitTensor, BnbConfig, Checkpoint, CheckpointWriter, DEFAULT_SHARD_BYTES, Dtype, GroupBytes, Tensor, TensorRef,
    Weight, write_file,
};
use halfbyte_runtime::config::Qwen3Config;
use serde_json::Value;

use super::{assert_same, golden, name, names, tiny};

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Dequantises by bitsandbytes' formula, one element after the other, with f32 roundings where it has them.
fn dequantize(weight: &Bnb4bitTensor) -> Vec<f32> {
    let absmax = match weight.absmax {
        Absmax::Plain(absmax) => f32s(absmax),
        Absmax::Nested { codes, groups: GroupBytes { absmax, offset, map } } => {
            let (groups, map) = (f32s(absmax), f32s(map));
            codes.iter().enumerate().map(|(i, &c)| map[c as usize] * groups[i / 256] + offset).collect()
        }
    };
    let map = weight.quant_map();
    let element = |i: usize| {
        let byte = weight.codes[i / 2];
        let code = if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        let value = map[code as usize] * absmax[i / weight.block_size];
        match weight.dtype {
            DType::F32 => value,
            DType::Bf16 => bf16::from_f32(value).to_f32(),
            DType::F16 => f16::from_f32(value).to_f32(),
        }
    };
    (0..weight.shape[0] * weight.shape[1]).map(element).collect()
}

#[test]
fn every_weight_that_bitsandbytes_quantised_is_read() {
    let file = Checkpoint::open_file(&golden("bitsandbytes/golden.safetensors")).unwrap();
    let meta: Value = serde_json::from_str(&fs::read_to_string(golden("bitsandbytes/meta.json")).unwrap()).unwrap();
    let cases = meta["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 48);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let shape: [usize; 2] = serde_json::from_value(case["shape"].clone()).unwrap();
        let Weight::Quantized(weight) = file.weight(&format!("{name}.weight"), shape).unwrap() else {
            panic!("{name} is not 4-bit")
        };
        assert_eq!(weight.format.to_string(), case["quant_type"]);
        assert_eq!(weight.block_size as u64, case["blocksize"]);
        assert_eq!(matches!(weight.absmax, Absmax::Nested { .. }), case["double_quant"]);
        let state = file.tensor(&format!("{name}.weight.quant_state.bitsandbytes__{}", weight.format)).unwrap();
        assert_eq!(weight.state_json().as_bytes(), state.data, "{name}");
        let want = file.tensor(&format!("{name}.dequant")).unwrap().to_f32().unwrap();
        assert_eq!(dequantize(&weight), want, "{name}");
    }
}

/// Puts every weight and tensor of a checkpoint into another.
fn copy(from: &Checkpoint, config: &Qwen3Config, to: &mut CheckpointWriter) -> usize {
    let mut four_bit = 0;
    let shapes: BTreeMap<_, _> = config.modules().map(|m| (format!("{m}.weight"), config.shape(m))).collect();
    for name in from.weight_names() {
        match shapes.get(name).map(|shape| from.weight(name, *shape).unwrap()) {
            Some(Weight::Quantized(weight)) => {
                four_bit += 1;
                to.put_quantized(name, &weight).unwrap();
            }
            _ => to.put(plain(from.tensor(name).unwrap())).unwrap(),
        }
    }
    four_bit
}

fn plain(tensor: TensorRef<'_>) -> Tensor<'_> {
    Tensor { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, data: tensor.data }
}

#[test]
fn checkpoints_are_written_as_the_real_libraries_wrote_them() {
    for dir in tiny("tied").into_iter().chain(tiny("untied")) {
        let (from, config) = (Checkpoint::open(&dir).unwrap(), Qwen3Config::open(&dir).unwrap());
        let out = tempfile::tempdir().unwrap();
        let mut to = CheckpointWriter::create(out.path(), DEFAULT_SHARD_BYTES).unwrap();
        let four_bit = copy(&from, &config, &mut to);
        assert_eq!(four_bit, if config.quantization.is_some() { 14 } else { 0 });
        let bnb = config.quantization.map(|q| {
            let format = if q.quant_type == "nf4" { Format::Nf4 } else { Format::Fp4 };
            BnbConfig::new(format, DType::F32).double_quant(q.double_quant)
        });
        let (base, _) = name(&dir).split_once('-').map_or((name(&dir), ()), |(base, _)| (base.to_owned(), ()));
        let source = fs::read_to_string(dir.with_file_name(base).join("config.json")).unwrap();
        to.put_config(&source, bnb).unwrap();
        to.put_companions(&dir).unwrap();
        assert!(names(out.path()).iter().all(|n| n.ends_with(".partial")), "nothing has its name before the end");
        assert_eq!(to.finish().unwrap(), from.bytes() as u64);
        assert_eq!(names(out.path()), ["config.json", "generation_config.json", "model.safetensors"]);
        for file in names(out.path()) {
            assert_same(&out.path().join(&file), &dir.join(&file));
        }
    }
}

#[test]
fn a_sharded_checkpoint_reads_as_it_was_written() {
    let dir = golden("qwen3-tiny/untied-nf4-dq");
    let (from, config) = (Checkpoint::open(&dir).unwrap(), Qwen3Config::open(&dir).unwrap());
    let out = tempfile::tempdir().unwrap();
    let mut to = CheckpointWriter::create(out.path(), 50_000).unwrap();
    copy(&from, &config, &mut to);
    to.put_config(&fs::read_to_string(dir.join("config.json")).unwrap(), None).unwrap();
    let total = to.finish().unwrap();
    let index: Value =
        serde_json::from_str(&fs::read_to_string(out.path().join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], total);
    let again = Checkpoint::open(out.path()).unwrap();
    assert!(from.names().eq(again.names()));
    for name in from.names() {
        let (a, b) = (from.tensor(name).unwrap(), again.tensor(name).unwrap());
        assert_eq!((a.dtype, a.shape), (b.dtype, b.shape));
        assert!(a.data == b.data, "{name}");
        assert_eq!(index["weight_map"][name], super::name(b.file));
    }
    let shards: Vec<_> = names(out.path()).into_iter().filter(|n| n.ends_with(".safetensors")).collect();
    // The embedding and the head, 64 KiB each, are alone; the other 65 kB need two more.
    assert_eq!(shards.len(), 4, "{shards:?}");
    assert_eq!(shards[0], "model-00001-of-00004.safetensors");
    let config = Qwen3Config::open(out.path()).unwrap();
    assert_eq!(config.quantization, None);
}

#[test]
fn a_writer_that_fails_leaves_nothing() {
    let out = tempfile::tempdir().unwrap();
    let tensor = Tensor { name: "a", dtype: Dtype::F32, shape: &[2], data: &[0; 8] };
    let mut to = CheckpointWriter::create(out.path(), 8).unwrap();
    to.put_file("config.json", &b"{}"[..]).unwrap();
    to.put(tensor).unwrap();
    let twice = to.put(tensor).unwrap_err().to_string();
    assert!(twice.contains("`a`") && twice.contains("twice"), "{twice}");
    let short = to.put(Tensor { name: "b", shape: &[3], ..tensor }).unwrap_err().to_string();
    assert!(short.contains("8 bytes for F32 [3]"), "{short}");
    to.put(Tensor { name: "c", ..tensor }).unwrap();
    drop(to);
    assert_eq!(names(out.path()), [""; 0]);

    write_file(&out.path().join("model.safetensors"), &[tensor]).unwrap();
    let error = CheckpointWriter::create(out.path(), 8).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("choose an empty folder"), "{error}");
}

/// bitsandbytes' `quant_storage`: the codes viewed as another type.
#[test]
fn codes_stored_as_another_type_are_the_same_bytes() {
    let from = Checkpoint::open_file(&golden("bitsandbytes/golden.safetensors")).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.safetensors");
    let weight = "nf4.dq.bfloat16.64x128.b64.weight";
    let tensors: Vec<_> = from.names().filter(|n| n.starts_with(weight)).map(|n| from.tensor(n).unwrap()).collect();
    let viewed = tensors.iter().map(|t| match t.name == weight {
        true => Tensor { dtype: Dtype::BF16, shape: &[2048, 1], ..plain(*t) },
        false => plain(*t),
    });
    write_file(&path, &viewed.collect::<Vec<_>>()).unwrap();
    let file = Checkpoint::open(out.path()).unwrap();
    let (Weight::Quantized(a), Weight::Quantized(b)) =
        (from.weight(weight, [64, 128]).unwrap(), file.weight(weight, [64, 128]).unwrap())
    else {
        panic!("not 4-bit")
    };
    assert!(a.codes == b.codes && a.state_json() == b.state_json());
    assert_eq!(file.weight_names().collect::<Vec<_>>(), [weight]);
}

/// Damages one tensor of a golden 4-bit weight and returns the error of reading it.
fn refusal(edit: impl Fn(&str, &mut Vec<u8>, &mut Dtype) -> bool) -> String {
    let weight = "nf4.dq.bfloat16.64x128.b64.weight";
    let from = Checkpoint::open_file(&golden("bitsandbytes/golden.safetensors")).unwrap();
    let mut owned = Vec::new();
    for tensor in from.names().filter(|n| n.starts_with(weight)).map(|n| from.tensor(n).unwrap()) {
        let (mut data, mut dtype) = (tensor.data.to_vec(), tensor.dtype);
        let part = tensor.name[weight.len()..].trim_start_matches('.');
        if edit(part, &mut data, &mut dtype) {
            owned.push((tensor.name, dtype, [data.len() * 8 / dtype.bitsize()], data));
        }
    }
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.safetensors");
    let tensors = owned.iter().map(|(name, dtype, shape, data)| Tensor { name, dtype: *dtype, shape, data });
    write_file(&path, &tensors.collect::<Vec<_>>()).unwrap();
    let error = Checkpoint::open_file(&path).unwrap().weight(weight, [64, 128]).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()) && error.contains(weight), "{error}");
    error
}

#[test]
fn a_4_bit_weight_that_contradicts_itself_is_refused() {
    let state = "quant_state.bitsandbytes__nf4";
    let replace = |from: &'static str, to: &'static str| {
        refusal(|part, data, _| {
            if part == state {
                let json = String::from_utf8(data.clone()).unwrap();
                assert!(json.contains(from), "{json}");
                *data = json.replace(from, to).into_bytes();
            }
            true
        })
    };
    let cases = [
        (replace("\"blocksize\": 64", "\"blocksize\": 48"), "`blocksize` 48"),
        (replace("\"blocksize\": 64", "\"blocksize\": 128"), "has 128 bytes, but its state calls for 64"),
        (replace("nf4", "fp4"), "`quant_type` \"fp4\", but its name says nf4"),
        (replace("[64, 128]", "[128, 64]"), "its state says that it is [128, 64], expected [64, 128]"),
        (replace("[64, 128]", "[8192]"), "`shape` [8192]"),
        (replace("[64, 128]", "[4611686018427387904, 8]"), "`shape` [4611686018427387904,8]"),
        (replace("bfloat16", "int8"), "`dtype` \"int8\""),
        (replace("_blocksize\": 256", "_blocksize\": 128"), "`nested_blocksize` 128, but only 256"),
        (replace("float32", "float16"), "`nested_dtype` \"float16\""),
        (replace("\"nested_offset\": ", "\"nested_offset\": 1e300, \"x\": "), "`nested_offset`"),
        (replace("{", "["), "not JSON"),
        (replace("{", "{\"blocksize\": 128, "), "the key `blocksize` is given twice"),
        // Plain scales by its state, nested ones by its parts.
        (
            refusal(|part, data, dtype| {
                if part == state {
                    let json = String::from_utf8(data.clone()).unwrap();
                    *data = json.replace("nested_offset", "offset").into_bytes();
                } else if part == "absmax" {
                    (*data, *dtype) = (vec![0; 4 * data.len()], Dtype::F32);
                }
                true
            }),
            "nested_absmax` is there, but its quant_state has no `nested_offset`",
        ),
        (refusal(|part, _, _| part != state), "it is uint8 but has no `quant_state"),
        (refusal(|part, _, _| part != "nested_absmax"), "part `nested_absmax` is missing"),
        (refusal(|part, _, _| part != "quant_map"), "part `quant_map` is missing"),
    ];
    for (error, want) in cases {
        assert!(error.contains(want), "wanted {want}: {error}");
    }
    let halved = refusal(|part, data, _| {
        if part.is_empty() {
            data.truncate(data.len() / 2);
        }
        true
    });
    assert!(halved.contains("has 2048 bytes, but its state calls for 4096"), "{halved}");
}

#[test]
fn missing_tensors_and_wrong_shapes_are_named() {
    let dir = golden("qwen3-tiny/untied");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let missing = checkpoint.tensor("model.layers.9.mlp.up_proj.weight").unwrap_err().to_string();
    assert!(missing.contains("untied/model.safetensors` has no tensor `model.layers.9.mlp"), "{missing}");
    let shape = checkpoint.weight("lm_head.weight", [256, 65]).unwrap_err().to_string();
    assert!(shape.contains("`lm_head.weight` is F32 [256, 64], expected [256, 65]"), "{shape}");
    let absent = Checkpoint::open(Path::new("no/such/folder")).unwrap_err().to_string();
    assert!(absent.contains("`no/such/folder` has no model.safetensors"), "{absent}");
}
