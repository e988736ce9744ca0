//! A checkpoint as one GGUF file.

use super::metadata::Metadata;
use super::names::{name_of, q4_k_m};
use super::types::TensorType;
use super::writer::{GgufWriter, TensorInfo};
use super::{GgufReport, GgufType};
use crate::config::Qwen3Config;
use crate::error::Result;
use crate::export::merged::{Merged, open};
use crate::export::settings::GgufSettings;
use crate::export::watch::Watch;
use crate::model::head_is_separate;

/// Writes the model, with an adapter merged into it where one is named.
pub(in crate::export) fn export_model(settings: &GgufSettings, watch: &mut dyn Watch) -> Result<Option<GgufReport>> {
    let (dir, config, checkpoint) = open(&settings.model_name, watch)?;
    let adapter = settings.adapters.open(&config, watch)?;
    let merged = Merged::new(&checkpoint, &config, adapter.as_ref(), watch)?;
    let tied = !head_is_separate(&checkpoint, &config)? && !merged.unties();
    let format = settings.format.unwrap_or(GgufType::F16);

    let mut metadata = Metadata::general("model", &dir, format.file_type());
    metadata.sizes(&config, &dir.join("config.json"))?;
    metadata.sampling(&dir)?;
    metadata.tokenizer(&dir, &config)?;
    let is_written = |name: &&str| merged.is_of_model(name) && !(tied && *name == "lm_head.weight");
    let names: Vec<&str> = merged.names().filter(is_written).collect();
    let info = |name: &&str| {
        let shape = merged.shape(name);
        let name = name_of(name)?;
        Some(TensorInfo { kind: kind(&name, &shape, format, &config, tied), name, shape })
    };
    let infos: Vec<TensorInfo> = names.iter().filter_map(info).collect();
    let mut out = GgufWriter::create(&settings.output, &metadata.0, &infos)?;
    watch.say(&format!("writing {} of {}", format, dir.display()));
    for (done, (name, info)) in names.iter().zip(&infos).enumerate() {
        if watch.wrote(done, names.len()).is_break() {
            return Ok(None);
        }
        let tensor = merged.tensor(name)?;
        out.put(&tensor.encode(info.kind.bytes(tensor.columns()), |row, out| info.kind.encode(row, out))?)?;
    }
    let bytes = out.finish()?;
    Ok(Some(GgufReport::new(settings.output.clone(), &infos, bytes)))
}

/// How a tensor is stored: vectors in f32.
fn kind(name: &str, shape: &[usize], format: GgufType, config: &Qwen3Config, tied: bool) -> TensorType {
    let [_, columns] = shape else { return TensorType::F32 };
    let kind = match format {
        GgufType::F32 => TensorType::F32,
        GgufType::F16 => TensorType::F16,
        GgufType::Bf16 => TensorType::Bf16,
        GgufType::Q8_0 => TensorType::Q8_0,
        GgufType::Q4KM => q4_k_m(name, config, tied),
    };
    kind.that_fits(*columns)
}
