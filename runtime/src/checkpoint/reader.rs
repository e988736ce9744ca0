use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use halfbyte::quant::Format;
use serde::Deserialize;

use super::header::Header;
use super::mmap::Bytes;
use super::quantized::{Bnb4bitTensor, state_part};
use super::tensor::TensorRef;
use crate::config::Qwen3Config;
use crate::error::{Error, Result};
use crate::{files, json};

const ONE_FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model, mapped from its safetensors files. Nothing is read until it is used, nothing is copied.
///
/// The files must not be shortened or rewritten in place while they are open (renaming others over them is fine).
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<SafetensorsFile>,
    /// The file of each tensor.
    tensors: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct SafetensorsFile {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
}

impl Checkpoint {
    /// Opens the checkpoint in a folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(dir: &Path) -> Result<Self> {
        files::read_together(dir, &[ONE_FILE, INDEX], || Self::read(dir))
    }

    fn read(dir: &Path) -> Result<Self> {
        if files::exists(&dir.join(ONE_FILE)) {
            return Self::open_file(&dir.join(ONE_FILE));
        }
        let index = dir.join(INDEX);
        if !files::exists(&index) {
            let wanted = format!("{ONE_FILE} or {INDEX}");
            let hint = "give the folder of a checkpoint saved with safetensors (pickled .bin files are not read)";
            return Err(Error::MissingFile { dir: dir.to_owned(), wanted, hint });
        }
        Self::open_shards(dir, &index)
    }

    /// Opens one safetensors file.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::of_files(path.parent().unwrap_or(Path::new("")), vec![SafetensorsFile::open(path)?])
    }

    /// A checkpoint that is part of the program; `name` is for errors.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        let path = PathBuf::from(name);
        Self::of_files(&path, vec![SafetensorsFile::new(path.clone(), Bytes::Static(bytes))?])
    }

    fn open_shards(dir: &Path, index: &Path) -> Result<Self> {
        let broken = |reason| Error::Corrupt { path: index.to_owned(), format: "safetensors index", reason };
        let read = json::parse(&files::read(index)?).and_then(serde_json::from_value);
        let Index { weight_map } = read.map_err(|e| broken(e.to_string()))?;
        let mut shards = Vec::new();
        for shard in weight_map.values().collect::<BTreeSet<_>>() {
            let path = dir.join(shard);
            if path.parent() != Some(dir) {
                return Err(broken(format!("it names `{shard}`, which is not a file beside it")));
            }
            if !path.exists() {
                let hint = "the index names it; download the missing shard";
                return Err(Error::MissingFile { dir: dir.to_owned(), wanted: shard.clone(), hint });
            }
            shards.push(SafetensorsFile::open(&path)?);
        }
        let checkpoint = Self::of_files(dir, shards)?;
        for (name, shard) in &weight_map {
            let found = checkpoint.tensors.get(name).map(|&file| &checkpoint.files[file].path);
            if found != Some(&dir.join(shard)) {
                return Err(broken(format!("it says that tensor `{name}` is in {shard}, but it is not")));
            }
        }
        Ok(checkpoint)
    }

    fn of_files(dir: &Path, files: Vec<SafetensorsFile>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.header.tensors.keys() {
                if let Some(first) = tensors.insert(name.clone(), i) {
                    let reason = format!("tensor `{name}` is also in `{}`", files[first].path.display());
                    return Err(Error::Corrupt { path: file.path.clone(), format: "sharded safetensors", reason });
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), files, tensors })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The names of all tensors without those that are parts of a 4-bit weight (its scales and tables), sorted.
    pub fn weight_names(&self) -> impl Iterator<Item = &str> {
        self.names().filter(|name| Bnb4bitTensor::weight_of_part(name).is_none_or(|weight| !self.has(weight)))
    }

    /// The tensors that are neither these nor parts of those among them that are in 4 bits, sorted.
    pub(crate) fn others(&self, known: &BTreeSet<String>) -> Vec<&str> {
        let part =
            |name| Bnb4bitTensor::weight_of_part(name).is_some_and(|w| known.contains(w) && self.is_quantized(w));
        self.names().filter(|&name| !known.contains(name) && !part(name)).collect()
    }

    /// Fails unless every tensor of a model is there; the output head, only where it is not the embedding.
    pub(crate) fn expect_model(&self, config: &Qwen3Config) -> Result<()> {
        let tied = |name: &String| config.tie_word_embeddings && *name == "lm_head.weight";
        config.tensor_names().filter(|name| !tied(name)).try_for_each(|name| self.tensor(&name).map(drop))
    }

    /// Whether a weight of this name would be in 4 bits.
    fn is_quantized(&self, name: &str) -> bool {
        [Format::Nf4, Format::Fp4].iter().any(|&format| self.has(&format!("{name}.{}", state_part(format))))
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> usize {
        self.names().filter_map(|name| self.get(name)).map(|tensor| tensor.data.len()).sum()
    }

    /// The tensor of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<TensorRef<'_>> {
        let (name, &file) = self.tensors.get_key_value(name)?;
        let file = &self.files[file];
        let info = file.header.tensors.get(name)?;
        let data = &file.bytes[file.header.range(info)];
        Some(TensorRef { name, dtype: info.dtype, shape: &info.shape, data, file: &file.path })
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorRef<'_>> {
        self.get(name).ok_or_else(|| self.missing(name, "the checkpoint is incomplete; download or save it again"))
    }

    /// The error of a tensor that is not there.
    pub(super) fn missing(&self, name: &str, hint: &str) -> Error {
        let path = if let [only] = self.files.as_slice() { &only.path } else { &self.dir };
        Error::MissingTensor { path: path.clone(), name: name.to_owned(), hint: hint.to_owned() }
    }
}

impl SafetensorsFile {
    fn open(path: &Path) -> Result<Self> {
        Self::new(path.to_owned(), Bytes::open(path)?)
    }

    fn new(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let header = Header::parse(&path, &bytes)?;
        Ok(Self { path, bytes, header })
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}
