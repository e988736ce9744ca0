use std::fs;
use std::path::Path;

use halfbyte_runtime::checkpoint::{Checkpoint, CheckpointWriter};
use halfbyte_runtime::config::Qwen3Config;
use halfbyte_runtime::lora::LoraConfig;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::golden;

/// The error of opening a file with these bytes.
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    error
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn damaged_safetensors_say_what_is_wrong() {
    let f32s = |name: &str, from: u64, to: u64, shape: &str| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let one = |from, to, shape| format!("{{{}}}", f32s("a", from, to, shape));
    let huge = (0..9).map(|i| {
        let (size, shape) = (1_u64 << 61, 1_u64 << 59);
        f32s(&i.to_string(), i.min(7) * size, (i.min(7) + 1) * (size - 1), &format!("[{shape}]"))
    });
    let huge = format!("{{{}}}", huge.collect::<Vec<_>>().join(","));
    let cases = [
        (Vec::new(), "it has 0 bytes"),
        (vec![1, 2, 3], "it has 3 bytes"),
        (vec![0xff; 64], "18446744073709551615 bytes long, but 56 bytes follow"),
        (file("{", b""), "its header: EOF while parsing"),
        (file("[]", b""), "its header: invalid type"),
        (file("\u{0}", b""), "its header"),
        (file(r#"{"a":{"dtype":"F33","shape":[],"data_offsets":[0,4]}}"#, &[0; 4]), "unknown variant `F33`"),
        (file(&one(0, 4, "[1]"), &[0; 3]), "its tensors take 4 bytes, but the file has 3"),
        (file(&one(0, 4, "[1]"), &[0; 5]), "its tensors take 4 bytes, but the file has 5"),
        (file(&one(0, 4, "[2]"), &[0; 4]), "its header: invalid shape"),
        (file(&one(4, 8, "[1]"), &[0; 8]), "its header: invalid offset for tensor `a`"),
        (file(&one(4, 0, "[1]"), &[0; 4]), "its header: invalid offset for tensor `a`"),
        (file(&one(0, 4, "[4611686018427387904,16]"), &[0; 4]), "overflow"),
        (file(&one(0, 4, "[-1]"), &[0; 4]), "its header: invalid value"),
        (file(&huge, &[0; 4]), "its header"),
        (
            file(&format!("{{{},{}}}", f32s("a", 0, 4, "[1]"), f32s("a", 0, 4, "[1]")), &[0; 4]),
            "tensor `a` is in it twice",
        ),
        (
            file(&format!("{{{},{}}}", f32s("a", 0, 4, "[1]"), f32s("b", 0, 4, "[1]")), &[0; 4]),
            "its header: invalid offset for tensor `b`",
        ),
    ];
    for (bytes, want) in cases {
        let error = refusal(&bytes);
        assert!(error.contains(want) && error.contains("download or write it again"), "wanted {want}: {error}");
    }
}

/// Sparse, so that it takes no room.
#[test]
fn a_header_longer_than_the_format_allows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, 100_000_001_u64.to_le_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(200_000_000).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("its header is 100000001 bytes long, but the format allows 100000000"), "{error}");
}

#[test]
fn a_truncated_checkpoint_is_refused_wherever_it_ends() {
    let whole = fs::read(golden("qwen3-tiny/tied-nf4-dq/model.safetensors")).unwrap();
    for len in [0, 7, 8, 9, 100, 5000, whole.len() / 2, whole.len() - 1] {
        refusal(&whole[..len]);
    }
}

/// A sharded copy of a golden model.
fn sharded() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = Checkpoint::open(&golden("qwen3-tiny/untied")).unwrap();
    let mut to = CheckpointWriter::create(dir.path(), 200_000).unwrap();
    for tensor in from.names().map(|n| from.tensor(n).unwrap()) {
        let (name, dtype, shape, data) = (tensor.name, tensor.dtype, tensor.shape, tensor.data);
        to.put(halfbyte_runtime::checkpoint::Tensor { name, dtype, shape, data }).unwrap();
    }
    to.finish().unwrap();
    assert!(Checkpoint::open(dir.path()).is_ok());
    dir
}

fn shard_refusal(damage: impl FnOnce(&Path)) -> String {
    let dir = sharded();
    damage(dir.path());
    Checkpoint::open(dir.path()).unwrap_err().to_string()
}

#[test]
fn a_sharded_checkpoint_must_be_whole() {
    const INDEX: &str = "model.safetensors.index.json";
    const SECOND: &str = "model-00002-of-00003.safetensors";
    let edit = |dir: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(dir.join(INDEX)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(dir.join(INDEX), text.replace(from, to)).unwrap();
    };
    let cases = [
        (shard_refusal(|d| fs::remove_file(d.join(SECOND)).unwrap()), "has no model-00002-of-00003.safetensors"),
        (shard_refusal(|d| fs::write(d.join(SECOND), "x").unwrap()), "model-00002-of-00003.safetensors` is damaged"),
        (shard_refusal(|d| fs::write(d.join(INDEX), "{").unwrap()), "safetensors index file: EOF"),
        (shard_refusal(|d| fs::write(d.join(INDEX), "{}").unwrap()), "missing field `weight_map`"),
        (
            shard_refusal(|d| edit(d, "\"model.norm.weight\"", "\"model.norm.bias\"")),
            "it says that tensor `model.norm.bias` is in model-00003-of-00003.safetensors, but it is not",
        ),
        (
            shard_refusal(|d| edit(d, "\"weight_map\": {", "\"weight_map\": {\"model.norm.weight\": \"x\",")),
            "the key `model.norm.weight` is given twice",
        ),
        (shard_refusal(|d| edit(d, SECOND, "/etc/passwd")), "`/etc/passwd`, which is not a file beside it"),
        (shard_refusal(|d| edit(d, SECOND, "..")), "is a directory"),
        (shard_refusal(|d| edit(d, SECOND, "../x.safetensors")), "`../x.safetensors`, which is not a file beside it"),
        (
            shard_refusal(|d| {
                fs::copy(d.join(SECOND), d.join("copy.safetensors")).unwrap();
                edit(d, "\"model.norm.weight\": \"model-00003-of-00003", "\"model.norm.weight\": \"copy");
            }),
            "is also in",
        ),
    ];
    for (error, want) in cases {
        assert!(error.contains(want), "wanted {want}: {error}");
    }
}

/// Whatever a header becomes, opening either works or fails; what works can be read to its ends.
#[test]
fn random_damage_never_panics() {
    let whole = fs::read(golden("qwen3-tiny/adapter-rslora/adapter_model.safetensors")).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize + 8;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let damage = (prop::collection::vec((0..header, any::<u8>()), 1..4), prop::option::of(0..whole.len()));
    let mut runner = TestRunner::new(Config { failure_persistence: None, cases: 2000, ..Config::default() });
    let result = runner.run(&damage, |(flips, cut)| {
        let mut bytes = whole.clone();
        flips.iter().for_each(|&(at, byte)| bytes[at] = byte);
        bytes.truncate(cut.unwrap_or(whole.len()));
        // Renamed over, not rewritten: the last one may still be mapped.
        fs::write(dir.path().join("next"), &bytes).unwrap();
        fs::rename(dir.path().join("next"), &path).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            prop_assert!(cut.is_none());
            let total: usize = checkpoint.names().map(|n| checkpoint.tensor(n).unwrap().data.len()).sum();
            prop_assert_eq!(total, whole.len() - header);
            for name in checkpoint.names() {
                let _ = checkpoint.weight(name, [8, 64]);
            }
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn random_damage_to_configurations_never_panics() {
    let config = fs::read_to_string(golden("qwen3-tiny/yarn/config.json")).unwrap();
    let lora = fs::read_to_string(golden("qwen3-tiny/adapter-patterns/adapter_config.json")).unwrap();
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    let mut runner = TestRunner::new(Config { failure_persistence: None, cases: 2000, ..Config::default() });
    let replacement =
        prop::sample::select(vec!["null", "-1", "0", "1e300", "[]", "{}", "\"x\"", "true", "9999999999", "[[]]"]);
    let result = runner.run(&(any::<prop::sample::Index>(), replacement, any::<bool>()), |(at, with, which)| {
        let text = if which { &config } else { &lora };
        let lines: Vec<&str> = text.lines().collect();
        let line = at.index(lines.len());
        let damaged = lines.iter().enumerate().map(|(i, l)| match l.split_once(": ") {
            Some((key, _)) if i == line => format!("{key}: {with}{}", if l.ends_with(',') { "," } else { "" }),
            _ => (*l).to_owned(),
        });
        let damaged = damaged.collect::<Vec<_>>().join("\n");
        if which {
            if let Ok(config) = Qwen3Config::parse(Path::new("config.json"), &damaged) {
                let table = config.rope.table(config.head_dim);
                prop_assert!(table.inv_freq.iter().all(|f| f.is_finite()), "{:?}", config.rope);
            }
        } else if let Ok((config, _)) = LoraConfig::parse(Path::new("adapter_config.json"), &damaged)
            && let Ok(targets) = config.resolve(&model)
        {
            prop_assert!(targets.iter().all(|t| t.scaling.is_finite() && t.r > 0));
        }
        Ok(())
    });
    result.unwrap();
}
