//! A model's tensors with an adapter in them, made row by row.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use halfbyte::{DType, elements, host};
use rayon::prelude::*;

use super::watch::Watch;
use crate::checkpoint::{Checkpoint, CheckpointWriter, Dtype, Tensor, TensorRef, Values, Weight};
use crate::config::{Module, Qwen3Config};
use crate::error::{Error, Result};
use crate::hub;
use crate::lora::{Adapter, LoraWeights, Table, TokenRows};
use crate::model::{checkpoint_note, head_is_separate};

/// A model's folder, its configuration and its files; what the user should know of them is told.
pub(super) fn open(name: &str, watch: &mut dyn Watch) -> Result<(PathBuf, Qwen3Config, Checkpoint)> {
    let dir = hub::model(name)?;
    let config = Qwen3Config::open(&dir)?;
    let checkpoint = Checkpoint::open(&dir)?;
    checkpoint_note(&checkpoint, &config)?.iter().for_each(|note| watch.note(note));
    Ok((dir, config, checkpoint))
}

/// A checkpoint and the adapter that goes into it, if there is one.
pub(super) struct Merged<'a> {
    pub files: &'a Checkpoint,
    modules: BTreeMap<String, [usize; 2]>,
    known: BTreeSet<String>,
    changes: BTreeMap<String, Change<'a>>,
    unties: bool,
}

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// What an adapter does to a tensor.
#[derive(Clone, Copy)]
enum Change<'a> {
    Add(&'a LoraWeights),
    Rows(&'a TokenRows),
    Replace(&'a [f32]),
}

impl<'a> Merged<'a> {
    /// Finds each tensor that the adapter changes; tells where the output head parts from the embedding.
    ///
    /// # Errors
    /// The checkpoint is incomplete, or the adapter asks for what one set of tensors cannot be.
    pub fn new(
        files: &'a Checkpoint,
        config: &Qwen3Config,
        adapter: Option<&'a Adapter>,
        watch: &mut dyn Watch,
    ) -> Result<Self> {
        files.expect_model(config)?;
        let changes = adapter.map(|adapter| changes(files, config, adapter)).transpose()?.unwrap_or_default();
        let name = |module: Module| (format!("{module}.weight"), config.shape(module));
        let unties = adapter.is_some_and(|adapter| config.tie_word_embeddings && adapter.parts_head());
        if unties {
            watch.note("the output head was the embedding, and is a tensor of its own with this adapter");
        }
        Ok(Merged {
            files,
            modules: config.modules().map(name).collect(),
            known: config.tensor_names().collect(),
            changes,
            unties,
        })
    }

    /// Whether the output head, which was the embedding, is one of its own by the adapter.
    pub fn unties(&self) -> bool {
        self.unties
    }

    /// The names of all tensors as they are without quantisation, sorted, a head that is new behind them.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        let new = (self.unties && !self.files.has(HEAD)).then_some(HEAD);
        self.files.weight_names().chain(new)
    }

    /// Whether the model is made of a tensor of this name.
    pub fn is_of_model(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    /// Whether this is the weight of a linear layer of the decoder.
    pub fn is_linear(&self, name: &str) -> bool {
        self.modules.contains_key(name) && name != HEAD
    }

    /// Whether an adapter's matrices are added to a tensor.
    pub fn is_adapted(&self, name: &str) -> bool {
        matches!(self.changes.get(name), Some(Change::Add(_)))
    }

    /// A tensor's shape as it is without quantisation.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        let in_file = || self.files.get(name).map_or(Vec::new(), |tensor| tensor.shape.to_vec());
        self.modules.get(name).map_or_else(in_file, |shape| shape.to_vec())
    }

    /// A tensor of the model.
    ///
    /// # Errors
    /// It is damaged, or has another shape than the model calls for.
    pub fn tensor(&self, name: &'a str) -> Result<MergedTensor<'a>> {
        let is_new = self.unties && name == HEAD && !self.files.has(HEAD);
        let tensor = self.files.tensor(if is_new { EMBEDDING } else { name })?;
        let (base, shape) = match self.modules.get(name) {
            Some(&shape) if is_new => (Base::Dense(tensor.expect_shape(&shape)?.expect_finite()?), shape.to_vec()),
            Some(&shape) => match self.files.weight(name, shape)? {
                Weight::Dense(dense) => (Base::Dense(dense.expect_finite()?), shape.to_vec()),
                Weight::Quantized(weight) => (Base::Quantized(weight.values()?), shape.to_vec()),
            },
            None if tensor.float().is_none() => return Err(tensor.wrong("bfloat16, float16 or float32")),
            None => (Base::Dense(tensor.expect_finite()?), tensor.shape.to_vec()),
        };
        Ok(MergedTensor { name, file: tensor.file, shape, base, change: self.changes.get(name).copied() })
    }

    /// Writes a tensor in this type, or as it is where the model is not made of it.
    pub fn put(&self, name: &'a str, dtype: DType, out: &mut CheckpointWriter) -> Result<()> {
        if !self.is_of_model(name) {
            let TensorRef { name, dtype, shape, data, .. } = self.files.tensor(name)?;
            return out.put(Tensor { name, dtype, shape, data });
        }
        let tensor = self.tensor(name)?;
        let data = tensor.data(dtype)?;
        out.put(Tensor { name, dtype: file_type(dtype), shape: &tensor.shape, data: &data })
    }
}

/// What the adapter does to each tensor that it changes.
fn changes<'a>(files: &Checkpoint, config: &Qwen3Config, adapter: &'a Adapter) -> Result<BTreeMap<String, Change<'a>>> {
    let mut all = BTreeMap::new();
    let mut put = |name: String, change| match all.insert(name.clone(), change) {
        Some(_) => Err(refused(&name, "the adapter changes it in two ways; save one with a single change to it")),
        None => Ok(()),
    };
    // All that an adapter has, so that a part which is new cannot be forgotten here.
    let Adapter { config: _, layers, lm_head, tokens } = adapter;
    for layer in layers {
        put(format!("{}.weight", layer.target.module), Change::Add(layer))?;
    }
    if let Some(head) = lm_head {
        put(HEAD.into(), Change::Replace(&head.weight))?;
    }
    for rows in tokens {
        put(rows.table.tensor(), Change::Rows(rows))?;
        let follows = rows.table == Table::Embedding && config.tie_word_embeddings && files.has(HEAD);
        if follows && head_is_separate(files, config)? {
            let reason = "config.json ties it to the embedding, but the file has another one, so that nothing says \
                          whether it follows the adapter's tokens; set `tie_word_embeddings` to false, or remove it";
            return Err(refused(HEAD, reason));
        }
        if follows {
            put(HEAD.into(), Change::Rows(rows))?;
        }
    }
    Ok(all)
}

fn refused(tensor: &str, reason: &str) -> Error {
    Error::Target { target: format!("`{}`", tensor.trim_end_matches(".weight")), reason: reason.to_owned() }
}

/// Where a tensor's elements come from before the adapter changes them.
enum Base<'a> {
    Dense(TensorRef<'a>),
    Quantized(Values<'a>),
}

/// A tensor to be made.
pub(super) struct MergedTensor<'a> {
    pub name: &'a str,
    file: &'a Path,
    pub shape: Vec<usize>,
    base: Base<'a>,
    change: Option<Change<'a>>,
}

impl<'a> MergedTensor<'a> {
    /// Its bytes in this type: those of the file, where it is of this type there and nothing changes it.
    ///
    /// # Errors
    /// As for [`MergedTensor::bytes`].
    pub fn data(&self, dtype: DType) -> Result<Cow<'a, [u8]>> {
        match (&self.base, self.change) {
            (Base::Dense(tensor), None) if tensor.float() == Some(dtype) => Ok(Cow::Borrowed(tensor.data)),
            _ => self.bytes(dtype).map(Cow::Owned),
        }
    }

    /// Elements of a row; a vector is one.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Row `i` with what the adapter does to it.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        match self.change {
            Some(Change::Replace(weight)) => out.copy_from_slice(&weight[i * out.len()..][..out.len()]),
            Some(Change::Rows(rows)) => match rows.ids.iter().position(|&id| id as usize == i) {
                Some(at) => out.copy_from_slice(&rows.weight[at * out.len()..][..out.len()]),
                None => self.base_row(i, out),
            },
            Some(Change::Add(lora)) => {
                self.base_row(i, out);
                add_row(lora, i, out);
            }
            None => self.base_row(i, out),
        }
    }

    /// Row `i` without the adapter.
    pub fn base_row(&self, i: usize, out: &mut [f32]) {
        match &self.base {
            Base::Dense(tensor) => tensor.fill(i * out.len(), out),
            Base::Quantized(values) => values.fill(i * out.len(), out),
        }
    }

    /// All of it in another type, as little-endian bytes. All threads make rows.
    ///
    /// # Errors
    /// A number is beyond what the type holds, or there is too little memory.
    pub fn bytes(&self, dtype: DType) -> Result<Vec<u8>> {
        self.encode(self.columns() * dtype.bytes(), |row, out| round(row, dtype, out))
    }

    /// All of it, with each row of f32 made into as many bytes by `encode`, which gives whether all was finite.
    ///
    /// # Errors
    /// Something was not finite, or there is too little memory.
    pub fn encode(&self, row_bytes: usize, encode: impl Fn(&[f32], &mut [u8]) -> bool + Sync) -> Result<Vec<u8>> {
        let columns = self.columns();
        let rows: usize = self.shape.iter().product::<usize>() / columns;
        let mut bytes = host::zeros(elements::<u8>(&[rows, row_bytes])?)?;
        let scratch = || vec![0.0; columns];
        let done = bytes.par_chunks_exact_mut(row_bytes).enumerate().map_init(scratch, |row, (i, out)| {
            self.row(i, row);
            encode(row, out)
        });
        if done.reduce(|| true, |a, b| a && b) { Ok(bytes) } else { Err(self.too_large()) }
    }

    /// Some of it cannot be written.
    pub fn too_large(&self) -> Error {
        let (path, name) = (self.file.to_owned(), self.name.to_owned());
        let got = "beyond the largest number of the type that it is to be written in".into();
        Error::Tensor { path, name, got, want: "numbers that it holds; choose bfloat16 or float32".into() }
    }
}

/// Adds `scaling · B A` to row `i` of a weight, and with DoRA gives what comes of it its magnitude.
fn add_row(LoraWeights { target, a, b, magnitude }: &LoraWeights, i: usize, out: &mut [f32]) {
    if target.module == Module::Embedding {
        // A column of A for each token.
        let column = || a.iter().skip(i).step_by(target.shape[1]);
        let sum = |b: &[f32]| b.iter().zip(column()).map(|(b, a)| b * a).sum::<f32>();
        out.iter_mut().zip(b.chunks_exact(target.r)).for_each(|(out, b)| *out += target.scaling * sum(b));
        return;
    }
    let mut sum = vec![0.0_f32; out.len()];
    for (a, &b) in a.chunks_exact(out.len()).zip(&b[i * target.r..][..target.r]) {
        sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
    }
    out.iter_mut().zip(sum).for_each(|(out, sum)| *out += target.scaling * sum);
    if let Some(&magnitude) = magnitude.get(i) {
        let norm = out.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt() as f32;
        let factor = if norm > 0.0 { magnitude / norm } else { 0.0 };
        out.iter_mut().for_each(|v| *v *= factor);
    }
}

/// How a file calls a type.
pub(super) fn file_type(dtype: DType) -> Dtype {
    [Dtype::BF16, Dtype::F16, Dtype::F32][dtype.index()]
}

/// Rounds to a type; whether all are finite in it.
pub(super) fn round(row: &[f32], dtype: DType, out: &mut [u8]) -> bool {
    let halves = |out: &mut [u8], bits: fn(f32) -> u16| {
        out.chunks_exact_mut(2).zip(row).for_each(|(out, &v)| out.copy_from_slice(&bits(v).to_le_bytes()));
    };
    match dtype {
        DType::Bf16 => halves(out, |v| bf16::from_f32(v).to_bits()),
        DType::F16 => halves(out, |v| f16::from_f32(v).to_bits()),
        DType::F32 => out.chunks_exact_mut(4).zip(row).for_each(|(out, v)| out.copy_from_slice(&v.to_le_bytes())),
    }
    let largest = match dtype {
        DType::Bf16 => bf16::MAX.to_f32(),
        DType::F16 => f16::MAX.to_f32(),
        DType::F32 => f32::MAX,
    };
    // What rounds to the largest number is at most half a step beyond it, which f16 has no use for either.
    row.iter().all(|v| v.abs() <= largest)
}
