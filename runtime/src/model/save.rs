//! From a checkpoint's files to those of a 4-bit one, weight by weight.

use super::{
    load::{Base, Loader, Source},
    weights::{QuantizedWeight, Weight},
};
use crate::{
    checkpoint::{
        self, Bnb4bitTensor, BnbConfig, Checkpoint, CheckpointWriter, DEFAULT_SHARD_BYTES, GroupBytes, ScaleBytes,
        Tensor, TensorRef,
    },
    config::{Module, Qwen3Config},
    error::{Error, Result},
    files,
};
use halfbyte::{
    Backend, DType,
    quant::{Absmax, BLOCK_SIZES, DYNAMIC_MAP, Format, Group, ScaleBufs},
};
use std::{collections::BTreeMap, ops::ControlFlow, path::Path};

/// What [`quantize_checkpoint`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizeReport {
    /// Weights that were quantised.
    pub n_quantized: usize,
    /// Weights that had been in 4 bits before and were copied as they are.
    pub n_quantized_before: usize,
    /// Bytes of all tensors before.
    pub bytes_before: u64,
    /// Bytes of all tensors after.
    pub bytes_after: u64,
}

/// Writes the Qwen3 checkpoint in `from` into the folder `to` in bitsandbytes' 4 bits, so that transformers loads it.
///
/// Every linear layer but the output head is quantised on `backend`, as transformers does; the rest is copied as it
/// is. The tensors equal to the bit those that transformers and bitsandbytes write when they load the checkpoint in
/// its own type (`dtype="auto"`). One weight at a time is in memory. `progress` hears of each weight, how many are
/// done and of how many, and may break off: then there is no report, and `to` is as it was.
///
/// # Errors
/// The checkpoint is damaged, incomplete, no Qwen3 or already in 4 bits; the block size is not one of
/// [`BLOCK_SIZES`]; `to` has a checkpoint, has too little room or cannot be written. Nothing is left in `to` then.
pub fn quantize_checkpoint<B: Backend>(
    backend: &B,
    from: &Path,
    to: &Path,
    bnb: BnbConfig,
    block_size: usize,
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<QuantizeReport>> {
    let config = Qwen3Config::open(from)?;
    let text = files::read_to_string(&from.join("config.json"))?;
    let files = Checkpoint::open(from)?;
    let BnbConfig { format, double_quant, .. } = bnb;
    let base = Base::Quantized { format, block_size, double_quant };
    let linears = linears(&files, &config, base)?;
    files.expect_model(&config)?;

    let mut out = CheckpointWriter::create(to, DEFAULT_SHARD_BYTES)?;
    out.expect_bytes(files.names().map(|name| bytes_after(&files, &linears, name)).sum())?;
    let loader = Loader { backend, files: &files, base };
    let (mut n_quantized, total) = (0, linears.values().filter(|linear| linear.dense().is_some()).count());
    for name in files.names() {
        if progress(n_quantized, total).is_break() {
            return Ok(None);
        }
        match linears.get(name).and_then(|linear| Some((linear, linear.dense()?))) {
            Some((linear, dtype)) => {
                put_quantized(&loader, linear, dtype, name, &mut out)?;
                n_quantized += 1;
            }
            None => out.put(as_it_is(files.tensor(name)?.expect_finite()?))?,
        }
    }
    if progress(n_quantized, total).is_break() {
        return Ok(None);
    }
    out.put_config(&text, Some(bnb))?;
    out.put_companions(from)?;
    let bytes_after = out.finish()?;
    let n_quantized_before = linears.len() - n_quantized;
    Ok(Some(QuantizeReport { n_quantized, n_quantized_before, bytes_before: files.bytes() as u64, bytes_after }))
}

/// About what a tensor will take: 4 bits for each weight that is quantised, and at most as many again for eight of
/// them for scales and tables.
fn bytes_after(files: &Checkpoint, linears: &BTreeMap<String, Linear>, name: &str) -> u64 {
    match linears.get(name) {
        Some(linear) if linear.dense().is_some() => (linear.shape[0] as u64 * linear.shape[1] as u64) * 9 / 16 + 4096,
        _ => files.get(name).map_or(0, |tensor| tensor.data.len() as u64),
    }
}

/// A linear layer's weight in the file.
struct Linear<'a> {
    source: Source<'a>,
    shape: [usize; 2],
}

impl Linear<'_> {
    /// Its type, if it is not quantised.
    fn dense(&self) -> Option<DType> {
        match &self.source.weight {
            checkpoint::Weight::Dense(tensor) => tensor.float(),
            checkpoint::Weight::Quantized(_) => None,
        }
    }
}

/// The linear layers of the decoder by the names of their weights, if there is something to quantise.
fn linears<'a>(files: &'a Checkpoint, config: &Qwen3Config, base: Base) -> Result<BTreeMap<String, Linear<'a>>> {
    if let Base::Quantized { block_size, .. } = base
        && !BLOCK_SIZES.contains(&block_size)
    {
        return Err(Error::setting("the block size", block_size, format!("it must be one of {BLOCK_SIZES:?}")));
    }
    if files.has("lm_head.weight")
        && let checkpoint::Weight::Quantized(_) = files.weight("lm_head.weight", config.shape(Module::LmHead))?
    {
        let reason = "transformers reads no output head in 4 bits; begin with the unquantised checkpoint";
        return Err(quantized_already(files, "lm_head.weight", reason));
    }
    let mut found = BTreeMap::new();
    for module in config.modules().filter(|module| *module != Module::LmHead) {
        let (name, shape) = (format!("{module}.weight"), config.shape(module));
        let source = Source::new(files, base, &name, shape)?;
        found.insert(name, Linear { source, shape });
    }
    if found.values().all(|linear| linear.dense().is_none()) {
        let first = found.keys().next().map_or("", String::as_str);
        return Err(quantized_already(files, first, "it and all others are in 4 bits already; nothing to quantise"));
    }
    Ok(found)
}

fn quantized_already(files: &Checkpoint, name: &str, reason: &str) -> Error {
    Error::Quantized { path: files.dir().to_owned(), name: name.to_owned(), reason: reason.to_owned() }
}

fn as_it_is(tensor: TensorRef<'_>) -> Tensor<'_> {
    let TensorRef { name, dtype, shape, data, .. } = tensor;
    Tensor { name, dtype, shape, data }
}

/// Quantises one weight and writes its tensors.
fn put_quantized<B: Backend>(
    loader: &Loader<'_, B>,
    linear: &Linear,
    dtype: DType,
    name: &str,
    out: &mut CheckpointWriter,
) -> Result<()> {
    match HostWeight::of(loader, &linear.source, linear.shape, dtype)? {
        Some(weight) => out.put_quantized(name, &weight.tensor()),
        None => Ok(()),
    }
}

/// A 4-bit weight on the host.
pub(crate) struct HostWeight {
    format: Format,
    block_size: usize,
    shape: [usize; 2],
    dtype: DType,
    codes: Vec<u8>,
    scales: HostScales,
    quant_map: [f32; 16],
}

impl HostWeight {
    /// A dense weight `[out, in]` of its file, quantised.
    ///
    /// # Errors
    /// Its type is no compute type, it has numbers that are not finite, or there is too little memory.
    pub fn quantize<B: Backend>(
        backend: &B,
        files: &Checkpoint,
        base: Base,
        tensor: TensorRef,
    ) -> Result<Option<Self>> {
        let (&[rows, cols], Some(dtype)) = (tensor.shape, tensor.float()) else {
            return Err(tensor.wrong("a matrix of bfloat16, float16 or float32"));
        };
        let source = Source { rows, weight: checkpoint::Weight::Dense(tensor), held: base };
        Self::of(&Loader { backend, files, base }, &source, [rows, cols], dtype)
    }

    /// None where the source is not to be in 4 bits.
    fn of<B: Backend>(
        loader: &Loader<'_, B>,
        source: &Source,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<Option<Self>> {
        let Weight::Quantized(weight) = loader.weight::<f32>(std::slice::from_ref(source), shape[1])? else {
            return Ok(None);
        };
        let QuantizedWeight { format, block_size, codes, scales, .. } = &weight;
        let codes = codes.to_vec(loader.backend)?;
        let scales = to_host(loader.backend, scales)?;
        // bitsandbytes' table of fp4 has no negative zero.
        let quant_map = format.codes().map(|code| code + 0.0);
        Ok(Some(Self { format: *format, block_size: *block_size, shape, dtype, codes, scales, quant_map }))
    }

    /// As it is written.
    pub fn tensor(&self) -> Bnb4bitTensor<'_> {
        Bnb4bitTensor {
            format: self.format,
            block_size: self.block_size,
            shape: self.shape,
            dtype: self.dtype,
            codes: &self.codes,
            absmax: bytes(&self.scales),
            quant_map: bytemuck::cast_slice(&self.quant_map),
        }
    }
}

/// Scales on the host: with double quantisation the groups' scales, and the weight's offset.
type HostScales = Absmax<Vec<f32>, Vec<u8>, (Vec<f32>, f32)>;

fn to_host<B: Backend>(backend: &B, scales: &ScaleBufs<B>) -> Result<HostScales> {
    Ok(match scales {
        Absmax::Plain(absmax) => Absmax::Plain(absmax.to_vec(backend)?),
        Absmax::Nested { codes, groups } => {
            let groups: Vec<Group> = groups.to_vec(backend)?;
            // One weight has one offset, which each of its groups repeats.
            let offset = groups.first().map_or(0.0, |group| group.offset);
            let absmax = groups.iter().map(|group| group.absmax).collect();
            Absmax::Nested { codes: codes.to_vec(backend)?, groups: (absmax, offset) }
        }
    })
}

fn bytes(scales: &HostScales) -> ScaleBytes<'_> {
    match scales {
        Absmax::Plain(absmax) => Absmax::Plain(bytemuck::cast_slice(absmax)),
        Absmax::Nested { codes, groups: (absmax, offset) } => {
            let map = bytemuck::cast_slice(DYNAMIC_MAP.as_slice());
            let groups = GroupBytes { absmax: bytemuck::cast_slice(absmax), offset: *offset, map };
            Absmax::Nested { codes, groups }
        }
    }
}
