use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use halfbyte::quant::Format;
use halfbyte::{Cpu, DType};
use halfbyte_runtime::Result;
use halfbyte_runtime::checkpoint::{BnbConfig, Checkpoint, Tensor, write_file};
use halfbyte_runtime::model::{QuantizeReport, quantize_checkpoint};

use super::{assert_same, golden, names};

/// Linear layers of the tiny model: seven in each of two decoder layers.
const LINEARS: usize = 14;

fn quantize(from: &Path, to: &Path, format: Format, double_quant: bool, block_size: usize) -> Result<QuantizeReport> {
    let bnb = BnbConfig::new(format, DType::F32).double_quant(double_quant);
    let report = quantize_checkpoint(&Cpu::new(), from, to, bnb, block_size, |_, _| ControlFlow::Continue(()));
    report.map(|report| report.expect("nobody broke off"))
}

/// Wherever it is broken off, nothing is left, and the next run is not refused.
#[test]
fn broken_off_it_leaves_nothing() {
    let bnb = BnbConfig::new(Format::Nf4, DType::F32);
    let (from, parent) = (golden("qwen3-tiny/untied"), tempfile::tempdir().unwrap());
    let to = parent.path().join("quantized");
    for last in 0..=LINEARS {
        let progress = |done, _| if done == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let report = quantize_checkpoint(&Cpu::new(), &from, &to, bnb, 64, progress).unwrap();
        assert!(report.is_none() && !to.exists(), "{last}");
    }
    quantize(&from, &to, Format::Nf4, true, 64).unwrap();
}

#[test]
fn nf4_checkpoints_are_those_of_transformers_to_the_byte() {
    for base in ["tied", "untied"] {
        for (suffix, double_quant) in [("nf4", false), ("nf4-dq", true)] {
            let from = golden(&format!("qwen3-tiny/{base}"));
            let want = golden(&format!("qwen3-tiny/{base}-{suffix}"));
            let out = tempfile::tempdir().unwrap();
            let report = quantize(&from, out.path(), Format::Nf4, double_quant, 64).unwrap();
            assert_eq!(names(out.path()), ["config.json", "generation_config.json", "model.safetensors"]);
            names(out.path()).iter().for_each(|file| assert_same(&out.path().join(file), &want.join(file)));
            let (before, after) = (Checkpoint::open(&from).unwrap(), Checkpoint::open(&want).unwrap());
            let (bytes_before, bytes_after) = (before.bytes() as u64, after.bytes() as u64);
            assert_eq!(
                report,
                QuantizeReport { n_quantized: LINEARS, n_quantized_before: 0, bytes_before, bytes_after }
            );
        }
    }
}

#[test]
fn fp4_checkpoints_are_those_of_transformers_but_for_the_sign_of_zero() {
    for base in ["tied", "untied"] {
        let out = tempfile::tempdir().unwrap();
        quantize(&golden(&format!("qwen3-tiny/{base}")), out.path(), Format::Fp4, true, 64).unwrap();
        let want = golden(&format!("qwen3-tiny/{base}-fp4-dq"));
        assert_same(&out.path().join("config.json"), &want.join("config.json"));
        let (got, want) = (Checkpoint::open(out.path()).unwrap(), Checkpoint::open(&want).unwrap());
        assert!(got.names().eq(want.names()));
        for (got, want) in want.names().map(|name| (got.tensor(name).unwrap(), want.tensor(name).unwrap())) {
            assert_eq!((got.dtype, got.shape), (want.dtype, want.shape), "{}", got.name);
            let four_bit = got.name.ends_with("proj.weight");
            let value = |code: u8| if four_bit && code == 8 { 0 } else { code };
            let halves = |byte: u8| (value(byte >> 4), value(byte & 15));
            assert!(got.data.iter().map(|&b| halves(b)).eq(want.data.iter().map(|&b| halves(b))), "{}", got.name);
        }
    }
}

/// The tensors of `from`, but those of decoder layer 1 from `other`, without those whose names have `left_out`.
fn mixed(from: &Path, other: &Path, left_out: Option<&str>) -> tempfile::TempDir {
    let (from_files, other) = (Checkpoint::open(from).unwrap(), Checkpoint::open(other).unwrap());
    let in_layer_1 = |name: &str| name.contains("layers.1.");
    let tensors = from_files.names().filter(|name| !in_layer_1(name)).map(|name| from_files.tensor(name).unwrap());
    let tensors = tensors.chain(other.names().filter(|name| in_layer_1(name)).map(|name| other.tensor(name).unwrap()));
    let kept = tensors.filter(|t| left_out.is_none_or(|part| !t.name.contains(part)));
    let tensors: Vec<_> = kept.map(|t| Tensor { name: t.name, dtype: t.dtype, shape: t.shape, data: t.data }).collect();
    let dir = tempfile::tempdir().unwrap();
    write_file(&dir.path().join("model.safetensors"), &tensors).unwrap();
    fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    dir
}

#[test]
fn weights_in_4_bits_stay_as_they_are() {
    let (dense, four_bit) = (golden("qwen3-tiny/untied"), golden("qwen3-tiny/untied-nf4-dq"));
    let from = mixed(&dense, &four_bit, None);
    let out = tempfile::tempdir().unwrap();
    let report = quantize(from.path(), out.path(), Format::Nf4, true, 64).unwrap();
    assert_eq!((report.n_quantized, report.n_quantized_before), (LINEARS / 2, LINEARS / 2));
    assert_same(&out.path().join("model.safetensors"), &four_bit.join("model.safetensors"));
}

#[test]
fn what_cannot_be_quantized_is_refused_and_leaves_nothing() {
    let (dense, four_bit) = (golden("qwen3-tiny/untied"), golden("qwen3-tiny/untied-nf4-dq"));
    let refusal = |from: &Path, block_size| {
        let out = tempfile::tempdir().unwrap();
        let error = quantize(from, out.path(), Format::Nf4, true, block_size).unwrap_err().to_string();
        assert_eq!(names(out.path()), [""; 0]);
        error
    };
    let without = |part| refusal(mixed(&dense, &dense, Some(part)).path(), 64);
    let cases = [
        (refusal(&four_bit, 64), "in 4 bits already"),
        (refusal(&dense, 48), "the block size is 48, but it must be one of [32, 64"),
        (refusal(&dense, 0), "the block size is 0"),
        (refusal(Path::new("no/such/folder"), 64), "`no/such/folder` has no config.json"),
        (without("layers.1.mlp.up_proj"), "no tensor `model.layers.1.mlp.up_proj.weight`"),
        (without("layers.0.self_attn.q_norm"), "no tensor `model.layers.0.self_attn.q_norm.weight`"),
        (without("lm_head"), "no tensor `lm_head.weight`"),
        (without("model.norm"), "no tensor `model.norm.weight`"),
    ];
    for (error, want) in cases {
        assert!(error.contains(want), "wanted {want}: {error}");
    }
    let out = tempfile::tempdir().unwrap();
    quantize(&dense, out.path(), Format::Nf4, true, 64).unwrap();
    let taken = quantize(&dense, out.path(), Format::Fp4, true, 64).unwrap_err().to_string();
    assert!(taken.contains("choose an empty folder"), "{taken}");
}
