//! Checkpoints in 4 bits for vLLM, as compressed-tensors writes them: `pack-quantized`, symmetric integers in groups.

mod int4;

use std::fmt;
use std::path::PathBuf;

use halfbyte::{Count, DType, Size, elements, host};
use rayon::prelude::*;
use serde_json::{Value, json};

use self::int4::{Rounding, SCALE_BYTES};
use super::merge::config_text;
use super::merged::{Merged, MergedTensor, open};
use super::settings::CompressedSettings;
use super::watch::Watch;
use crate::checkpoint::{COMPANIONS, CheckpointWriter, Dtype, Tensor};
use crate::error::{Error, Result};
use crate::files;

/// Sizes of a group that vLLM's kernels have.
pub(super) const GROUP_SIZES: [usize; 3] = [32, 64, 128];

/// What an export to compressed-tensors wrote.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CompressedReport {
    /// Where the checkpoint is.
    pub output: PathBuf,
    /// Linear layers in 4 bits.
    pub n_packed: usize,
    /// Weights that share a scale.
    pub group_size: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// How much rounding changed those layers: the root mean square of the difference over that of the weights.
    pub error: f64,
}

/// For people.
impl fmt::Display for CompressedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = Count(self.n_packed, "linear layer");
        writeln!(f, "{layers} in 4 bits, groups of {}, the rest in bfloat16; {}", self.group_size, Size(self.bytes))?;
        writeln!(f, "root mean square over these layers: the rounding changed them by {:.2} %", 100.0 * self.error)?;
        write!(f, "written to {}", self.output.display())
    }
}

pub(super) fn export(settings: &CompressedSettings, watch: &mut dyn Watch) -> Result<Option<CompressedReport>> {
    let (dir, config, checkpoint) = open(&settings.model_name, watch)?;
    let adapter = settings.adapters.open(&config, watch)?;
    let merged = Merged::new(&checkpoint, &config, adapter.as_ref(), watch)?;
    let group_size = settings.group_size;
    expect_groups(&merged, group_size)?;
    watch.say(&format!("writing compressed-tensors of {}", dir.display()));

    files::refuse_existing(
        &settings.output,
        &[&["config.json"], &COMPANIONS[..]].concat(),
        "it exists; choose an empty folder",
    )?;
    let mut out = CheckpointWriter::create(&settings.output, settings.max_shard_size.saturating_mul(1_000_000))?;
    out.expect_bytes(merged.names().map(|name| expected_bytes(&merged, name, group_size)).sum())?;
    let (mut n_packed, mut rounding) = (0, Rounding::default());
    let total = merged.names().count();
    for (done, name) in merged.names().enumerate() {
        if watch.wrote(done, total).is_break() {
            return Ok(None);
        }
        if merged.is_linear(name) {
            rounding += put_packed(&merged.tensor(name)?, group_size, &mut out)?;
            n_packed += 1;
        } else {
            merged.put(name, DType::Bf16, &mut out)?;
        }
    }
    out.put_config_with(&config_text(&dir, DType::Bf16, &merged)?, Some(quantization_config(group_size)))?;
    out.put_companions(&dir)?;
    let bytes = out.finish()?;
    let error = (rounding.error / rounding.weights.max(f64::MIN_POSITIVE)).sqrt();
    Ok(Some(CompressedReport { output: settings.output.clone(), n_packed, group_size, bytes, error }))
}

/// Refuses rows that are no whole groups.
fn expect_groups(merged: &Merged, group_size: usize) -> Result<()> {
    for name in merged.names().filter(|name| merged.is_linear(name)) {
        let columns = merged.shape(name)[1];
        if !columns.is_multiple_of(group_size) {
            let fits = GROUP_SIZES.iter().rfind(|&&size| columns.is_multiple_of(size));
            let advice =
                fits.map_or("compressed-tensors cannot hold it in groups".into(), |fits| format!("choose {fits}"));
            let want = format!("`{name}` has rows of {columns}, which are no whole groups; {advice}");
            return Err(Error::setting("the group size", group_size, want));
        }
    }
    Ok(())
}

fn expected_bytes(merged: &Merged, name: &str, group_size: usize) -> u64 {
    let len = merged.shape(name).iter().product::<usize>();
    let bytes =
        if merged.is_linear(name) { len / 2 + len / group_size * SCALE_BYTES } else { len * DType::Bf16.bytes() };
    bytes as u64
}

/// Writes a linear layer: its integers, their scales, and the shape that it has without packing.
fn put_packed(tensor: &MergedTensor, group_size: usize, out: &mut CheckpointWriter) -> Result<Rounding> {
    let (rows, columns) = (tensor.shape[0], tensor.columns());
    let (packed_bytes, scale_bytes) = (columns / 2, columns / group_size * SCALE_BYTES);
    let mut packed = host::zeros::<u8>(elements::<u8>(&[rows, packed_bytes])?)?;
    let mut scales = host::zeros::<u8>(elements::<u8>(&[rows, scale_bytes])?)?;
    let mut sums = host::collect(rows, std::iter::repeat_n(Rounding::default(), rows))?;
    let places = packed.par_chunks_exact_mut(packed_bytes).zip(scales.par_chunks_exact_mut(scale_bytes));
    places.zip(&mut sums).enumerate().for_each_init(
        || vec![0.0; columns],
        |row, (i, ((packed, scales), sum))| {
            tensor.row(i, row);
            *sum = int4::encode(row, group_size, packed, scales);
        },
    );
    let mut all = Rounding::default();
    sums.into_iter().for_each(|sum| all += sum);
    if !all.weights.is_finite() {
        return Err(tensor.too_large());
    }
    let prefix = tensor.name.trim_end_matches("weight");
    let shape: Vec<u8> = tensor.shape.iter().flat_map(|&n| (n as i64).to_le_bytes()).collect();
    for (part, dtype, shape, data) in [
        ("weight_packed", Dtype::I32, vec![rows, columns / 8], &packed),
        ("weight_scale", Dtype::BF16, vec![rows, columns / group_size], &scales),
        ("weight_shape", Dtype::I64, vec![2], &shape),
    ] {
        out.put(Tensor { name: &format!("{prefix}{part}"), dtype, shape: &shape, data })?;
    }
    Ok(all)
}

/// As compressed-tensors 0.20 writes it.
fn quantization_config(group_size: usize) -> Value {
    json!({
        "config_groups": {
            "group_0": {
                "format": "pack-quantized",
                "input_activations": null,
                "output_activations": null,
                "targets": ["Linear"],
                "weights": {
                    "dynamic": false,
                    "group_size": group_size,
                    "num_bits": 4,
                    "strategy": "group",
                    "symmetric": true,
                    "type": "int",
                },
            },
        },
        "format": "pack-quantized",
        "global_compression_ratio": null,
        "ignore": ["lm_head"],
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    })
}
