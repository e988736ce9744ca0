//! From a checkpoint and an adapter to one checkpoint, tensor by tensor.

use std::fmt;
use std::path::{Path, PathBuf};

use halfbyte::{Count, Cpu, DType, Size, quant::Format};
use serde_json::Value;

use super::merged::{Merged, MergedTensor, file_type, open};
use super::settings::MergeSettings;
use super::watch::Watch;
use crate::checkpoint::{BnbConfig, COMPANIONS, CheckpointWriter, TensorRef};
use crate::config::dtype_name;
use crate::error::{Error, Result};
use crate::model::{Base, HostWeight};
use crate::{files, json};

/// bitsandbytes' default.
const BLOCK_SIZE: usize = 64;

/// What a merge did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Where the checkpoint is.
    pub output: PathBuf,
    /// Modules that the adapter was added to.
    pub n_adapted: usize,
    /// Tensors written, a 4-bit weight counted once.
    pub n_tensors: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// What unquantised tensors are written in.
    pub dtype: DType,
    /// What the rounding to 4 bits did, where that was asked for.
    pub four_bits: Option<FourBits>,
}

/// Sums over all elements of the layers that an adapter was added to and that were then rounded to 4 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct FourBits {
    /// Squares of the merged weights.
    pub weights: f64,
    /// Squares of what the adapter added.
    pub added: f64,
    /// Squares of what the rounding changed.
    pub error: f64,
}

impl FourBits {
    fn share(&self, of: f64) -> f64 {
        100.0 * (of / self.weights.max(f64::MIN_POSITIVE)).sqrt()
    }
}

/// For people.
impl fmt::Display for MergeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (adapted, tensors) = (Count(self.n_adapted, "module"), Count(self.n_tensors, "tensor"));
        let dtype = dtype_name(self.dtype);
        write!(f, "adapter merged into {adapted}; {tensors}, {}, in {dtype}", Size(self.bytes))?;
        if let Some(bits) = &self.four_bits {
            write!(
                f,
                " and 4 bits\nroot mean square over the adapted weights: the adapter changed them by {:.2} %, the rounding \
                 to 4 bits by {:.2} %",
                bits.share(bits.added),
                bits.share(bits.error)
            )?;
        }
        write!(f, "\nwritten to {}", self.output.display())
    }
}

pub(super) fn merge(settings: &MergeSettings, watch: &mut dyn Watch) -> Result<Option<MergeReport>> {
    let (dir, config, checkpoint) = open(&settings.model_name, watch)?;
    let adapter = settings.adapters.expect(&config, watch)?;
    let merged = Merged::new(&checkpoint, &config, Some(&adapter), watch)?;
    let dtype = settings.dtype.or(config.dtype).or_else(|| checkpoint.get("model.embed_tokens.weight")?.float());
    let dtype = dtype.unwrap_or(DType::Bf16);
    watch.say(&format!("merging into {} of {}", dtype_name(dtype), dir.display()));

    let taken = "it exists; choose an empty folder";
    files::refuse_existing(&settings.output, &[&["config.json"], &COMPANIONS[..]].concat(), taken)?;
    let mut out = CheckpointWriter::create(&settings.output, settings.max_shard_size.saturating_mul(1_000_000))?;
    out.expect_bytes(expected_bytes(&merged, dtype, settings.use_4bit))?;
    let mut merge =
        Merge { merged: &merged, dtype, bnb: settings.bnb(dtype), n_adapted: 0, error: FourBits::default() };
    let total = merged.names().count();
    for (done, name) in merged.names().enumerate() {
        if watch.wrote(done, total).is_break() {
            return Ok(None);
        }
        merge.put(name, &mut out)?;
    }
    let Merge { bnb, n_adapted, error, .. } = merge;
    out.put_config(&config_text(&dir, dtype, &merged)?, bnb)?;
    out.put_companions(&dir)?;
    let bytes = out.finish()?;
    let (output, four_bits) = (settings.output.clone(), bnb.map(|_| error));
    Ok(Some(MergeReport { output, n_adapted, n_tensors: total, bytes, dtype, four_bits }))
}

impl MergeSettings {
    fn bnb(&self, compute: DType) -> Option<BnbConfig> {
        let format = self.bnb_4bit_quant_type.unwrap_or(Format::Nf4);
        let double_quant = self.bnb_4bit_use_double_quant.unwrap_or(true);
        self.use_4bit.then_some(BnbConfig { format, double_quant, compute })
    }
}

/// About what all tensors will take: of a layer in 4 bits half a byte for each weight, and an eighth of that for scales.
fn expected_bytes(merged: &Merged, dtype: DType, in_4_bits: bool) -> u64 {
    let bytes = |name| match merged.shape(name).iter().product::<usize>() as u64 {
        len if in_4_bits && merged.is_linear(name) => len * 9 / 16,
        len => len * dtype.bytes() as u64,
    };
    merged.names().map(bytes).sum()
}

/// The source's `config.json` with the type that the weights have now, and a head of its own where an adapter makes it one.
pub(super) fn config_text(dir: &Path, dtype: DType, merged: &Merged) -> Result<String> {
    let path = dir.join("config.json");
    let mut config = json::parse(files::read_to_string(&path)?.as_bytes()).map_err(Error::json(&path))?;
    if let Value::Object(keys) = &mut config {
        let key = if keys.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        keys.insert(key.to_owned(), dtype_name(dtype).into());
        if merged.unties() {
            keys.insert("tie_word_embeddings".to_owned(), false.into());
        }
    }
    Ok(config.to_string())
}

/// A merge that is under way.
struct Merge<'a> {
    merged: &'a Merged<'a>,
    dtype: DType,
    bnb: Option<BnbConfig>,
    n_adapted: usize,
    error: FourBits,
}

impl<'a> Merge<'a> {
    /// Writes one tensor.
    fn put(&mut self, name: &'a str, out: &mut CheckpointWriter) -> Result<()> {
        self.n_adapted += usize::from(self.merged.is_adapted(name));
        let Some(bnb) = self.bnb.filter(|_| self.merged.is_linear(name)) else {
            return self.merged.put(name, self.dtype, out);
        };
        let tensor = self.merged.tensor(name)?;
        let data = tensor.data(self.dtype)?;
        let dtype = file_type(self.dtype);
        let dense = TensorRef { name, dtype, shape: &tensor.shape, data: &data, file: Path::new("") };
        self.put_in_4_bits(bnb, &tensor, dense, out)
    }

    fn put_in_4_bits(
        &mut self,
        bnb: BnbConfig,
        tensor: &MergedTensor,
        dense: TensorRef,
        out: &mut CheckpointWriter,
    ) -> Result<()> {
        let base = Base::Quantized { format: bnb.format, block_size: BLOCK_SIZE, double_quant: bnb.double_quant };
        let Some(weight) = HostWeight::quantize(&Cpu::new(), self.merged.files, base, dense)? else { return Ok(()) };
        if self.merged.is_adapted(dense.name) {
            self.error.add(tensor, &weight)?;
        }
        out.put_quantized(dense.name, &weight.tensor())
    }
}

impl FourBits {
    /// Adds a layer.
    fn add(&mut self, tensor: &MergedTensor, rounded: &HostWeight) -> Result<()> {
        let rounded = rounded.tensor().values()?;
        let columns = tensor.columns();
        let mut rows = [(); 3].map(|()| vec![0.0; columns]);
        let [merged, base, four_bit] = &mut rows;
        for i in 0..tensor.shape[0] {
            tensor.row(i, merged);
            tensor.base_row(i, base);
            rounded.fill(i * columns, four_bit);
            let square = |a: &f32, b: &f32| f64::from(a - b).powi(2);
            self.weights += merged.iter().map(|v| square(v, &0.0)).sum::<f64>();
            self.added += merged.iter().zip(&*base).map(|(a, b)| square(a, b)).sum::<f64>();
            self.error += merged.iter().zip(&*four_bit).map(|(a, b)| square(a, b)).sum::<f64>();
        }
        Ok(())
    }
}
