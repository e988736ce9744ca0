//! An adapter as llama.cpp's LoRA GGUF, which is added to a model while that runs.

use std::borrow::Cow;
use std::path::Path;

use halfbyte::host;

use super::metadata::Metadata;
use super::names::name_of;
use super::types::TensorType;
use super::writer::{GgufWriter, TensorInfo, Value};
use super::{GgufReport, GgufType};
use crate::config::{Module, Qwen3Config};
use crate::error::{Error, Result};
use crate::export::settings::GgufSettings;
use crate::export::watch::Watch;
use crate::hub;
use crate::lora::{Adapter, LoraWeights};

/// Writes the adapter alone.
pub(in crate::export) fn export_adapter(settings: &GgufSettings, watch: &mut dyn Watch) -> Result<Option<GgufReport>> {
    let format = settings.format.unwrap_or(GgufType::F32);
    let kind = match format {
        GgufType::F32 => TensorType::F32,
        GgufType::F16 => TensorType::F16,
        GgufType::Bf16 => TensorType::Bf16,
        _ => return Err(Error::setting("the type", format, "it must be f32, f16 or bf16 for an adapter")),
    };
    let config = Qwen3Config::open(&hub::model(&settings.model_name)?)?;
    let adapter = settings.adapters.expect(&config, watch)?;
    let path = settings.adapters.lora_path.first().cloned().unwrap_or_default();
    check(&path, &adapter, &config)?;
    let alpha = adapter.config.alpha;
    let mut metadata = Metadata::general("adapter", &path, format.file_type());
    metadata.put("adapter.type", Value::Text("lora".into()));
    metadata.put("adapter.lora.alpha", Value::F32(alpha as f32));

    let parts = adapter.layers.iter().map(|layer| Part::both(layer, alpha)).collect::<Result<Vec<_>>>()?.concat();
    let infos: Vec<_> = parts.iter().map(|part| part.info(kind)).collect();
    let mut out = GgufWriter::create(&settings.output, &metadata.0, &infos)?;
    for (done, (part, info)) in parts.iter().zip(&infos).enumerate() {
        if watch.wrote(done, parts.len()).is_break() {
            return Ok(None);
        }
        out.put(&part.encode(info)?)?;
    }
    let bytes = out.finish()?;
    Ok(Some(GgufReport::new(settings.output.clone(), &infos, bytes)))
}

/// Refuses what the format has no place for.
fn check(path: &Path, adapter: &Adapter, model: &Qwen3Config) -> Result<()> {
    // All that an adapter has, so that a part which is new cannot be forgotten here.
    let Adapter { config, layers: _, lm_head, tokens } = adapter;
    let what = if config.use_dora {
        "DoRA's magnitudes"
    } else if lm_head.is_some() {
        "an output head of its own"
    } else if !tokens.is_empty() {
        "rows of tokens of its own"
    } else if adapter.parts_head() && model.tie_word_embeddings {
        "matrices for an embedding or an output head where both are one tensor"
    } else {
        return Ok(());
    };
    let reason = format!(
        "it has {what}, and llama.cpp's adapters hold only matrices for single tensors; write the model with the adapter \
         merged into it (leave out --adapter-only)"
    );
    Err(Error::Adapter { path: path.to_owned(), reason })
}

/// The columns of a matrix one behind the other.
fn transposed(x: &[f32], columns: usize) -> Result<Vec<f32>> {
    let column = |c| x.iter().skip(c).step_by(columns).copied();
    Ok(host::collect(x.len(), (0..columns).flat_map(column))?)
}

/// One matrix of a module.
#[derive(Clone)]
struct Part<'a> {
    name: String,
    shape: Vec<usize>,
    values: Cow<'a, [f32]>,
    factor: f32,
}

impl<'a> Part<'a> {
    /// A and B. llama.cpp multiplies `B A` by `alpha / r`, with one alpha for all modules: where the scaling is another,
    /// because of rsLoRA or of a pattern, B takes it on.
    fn both(layer: &'a LoraWeights, alpha: f64) -> Result<[Self; 2]> {
        let ([rows, cols], r) = (layer.target.shape, layer.target.r);
        let usual = (alpha / r as f64) as f32;
        let factor = if layer.target.scaling == usual { 1.0 } else { layer.target.scaling / usual };
        let name = |part| name_of(&format!("{}.weight", layer.target.module)).unwrap_or_default() + part;
        let b = Part { name: name(".lora_b"), shape: vec![rows, r], values: (&layer.b).into(), factor };
        let (shape, values) = match layer.target.module {
            // Rows that tokens choose.
            Module::Embedding => (vec![cols, r], transposed(&layer.a, cols)?.into()),
            _ => (vec![r, cols], (&layer.a).into()),
        };
        Ok([Part { name: name(".lora_a"), shape, values, factor: 1.0 }, b])
    }

    /// Its bytes.
    fn encode(&self, info: &TensorInfo) -> Result<Vec<u8>> {
        let mut bytes = host::zeros(info.bytes())?;
        let columns = self.shape[1];
        for (row, out) in self.values.chunks_exact(columns).zip(bytes.chunks_exact_mut(info.kind.bytes(columns))) {
            let row: Vec<f32> = row.iter().map(|v| v * self.factor).collect();
            if !info.kind.encode(&row, out) {
                let reason =
                    format!("`{}` has a number beyond what {} holds; choose bf16 or f32", self.name, info.kind);
                return Err(Error::Adapter { path: Default::default(), reason });
            }
        }
        Ok(bytes)
    }

    fn info(&self, kind: TensorType) -> TensorInfo {
        TensorInfo { name: self.name.clone(), shape: self.shape.clone(), kind }
    }
}
