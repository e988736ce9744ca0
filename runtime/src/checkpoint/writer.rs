use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::mem;
use std::path::Path;

use safetensors::Dtype;
use serde_json::json;

use super::header;
use super::quantized::Bnb4bitTensor;
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::files::{self, OutputFolder, Staged, Transaction};
use crate::python_json;

/// Bytes of tensors in a file before another is begun, as huggingface_hub has it.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Writes one safetensors file, atomically, with the bytes that safetensors itself would write. PyTorch's format is
/// noted in it.
pub fn write_file(path: &Path, tensors: &[Tensor]) -> Result<()> {
    let mut staged = stage_file(path, tensors)?;
    let mut transaction = Transaction::new(files::folder_of(path));
    transaction.add(&mut staged);
    transaction.commit()
}

/// [`write_file`] but for giving it its name.
fn stage_file(path: &Path, tensors: &[Tensor]) -> Result<Staged> {
    let staged = Staged::create(path)?;
    write_tensors(&staged, tensors)?;
    Ok(staged)
}

/// Writes a safetensors file in place of what a file has.
pub(crate) fn write_tensors(staged: &Staged, tensors: &[Tensor]) -> Result<()> {
    let path = staged.path();
    staged.rewind()?;
    let mut tensors: Vec<_> = tensors.iter().collect();
    tensors.sort_by(|a, b| header::file_order((a.name, a.dtype), (b.name, b.dtype)));
    let header = header::encode(path, tensors.iter().map(|t| (t.name, t.dtype, t.shape, t.data.len())))?;
    let mut writer = BufWriter::with_capacity(1 << 20, staged);
    let mut write = |bytes: &[u8]| writer.write_all(bytes).map_err(Error::io("write", path));
    write(&header)?;
    tensors.iter().try_for_each(|t| write(t.data))?;
    writer.flush().map_err(Error::io("write", path))?;
    drop(writer);
    // Behind it may be room that was reserved, or what an attempt before this one left.
    let bytes = header.len() + tensors.iter().map(|t| t.data.len()).sum::<usize>();
    staged.set_len(bytes as u64)
}

/// Writes a model's tensors into a folder, one by one and in any order, as `model.safetensors` or as shards with an
/// index. No more than one tensor need be in memory. Nothing has its final name before [`CheckpointWriter::finish`], which
/// gives all files theirs or none; a writer that is dropped earlier removes what it wrote.
///
/// A safetensors header comes first and its length depends on all tensors, so a shard's bytes go to a temporary file
/// until it is full, and are then copied behind its header by the operating system.
#[derive(Debug)]
pub struct CheckpointWriter {
    max_shard_bytes: u64,
    names: BTreeSet<String>,
    shards: Vec<(Staged, Vec<String>)>,
    others: Vec<Staged>,
    open: Option<Spool>,
    bytes: u64,
    /// The last to be dropped: it removes folders that are empty.
    folder: OutputFolder,
}

impl CheckpointWriter {
    /// Begins a checkpoint in `dir`, which is made if need be and belongs to the writer until it is done.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be written, another process writes into it, or it already has a checkpoint.
    pub fn create(dir: &Path, max_shard_bytes: u64) -> Result<Self> {
        let folder = OutputFolder::claim(dir)?;
        refuse_checkpoint(dir)?;
        let (names, shards, others) = (BTreeSet::new(), Vec::new(), Vec::new());
        Ok(Self { folder, max_shard_bytes, names, shards, others, open: None, bytes: 0 })
    }

    /// Makes sure that there is room for tensors of so many bytes, as far as the file system can tell: a shard is written
    /// twice before its first copy goes.
    ///
    /// # Errors
    /// [`Error::Io`] if there is not.
    pub fn expect_bytes(&self, bytes: u64) -> Result<()> {
        self.folder.expect_space(bytes.saturating_add(bytes.min(self.max_shard_bytes)))
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk is full or fails; [`Error::Tensor`] if the name came before or the bytes do not fit the
    /// shape.
    pub fn put(&mut self, tensor: Tensor) -> Result<()> {
        self.check(&tensor)?;
        let len = tensor.data.len() as u64;
        if self.open.as_ref().is_some_and(|shard| shard.bytes + len > self.max_shard_bytes) {
            self.close_shard()?;
        }
        let spool = match &mut self.open {
            Some(spool) => spool,
            none => none.insert(Spool::create(self.folder.path())?),
        };
        spool.put(tensor)?;
        self.names.insert(tensor.name.to_owned());
        self.bytes += len;
        Ok(())
    }

    /// Adds all tensors of a 4-bit weight.
    pub fn put_quantized(&mut self, name: &str, weight: &Bnb4bitTensor) -> Result<()> {
        weight.each_tensor(name, |tensor| self.put(tensor))
    }

    /// Adds a file that is not of tensors.
    pub fn put_file(&mut self, name: &str, mut contents: impl Read) -> Result<()> {
        let path = self.folder.path().join(name);
        let staged = Staged::create(&path)?;
        io::copy(&mut contents, &mut &staged).map_err(Error::io("write", &path))?;
        self.others.push(staged);
        Ok(())
    }

    /// Gives all files their names; returns the bytes of all tensors.
    pub fn finish(mut self) -> Result<u64> {
        self.close_shard()?;
        let shards = mem::take(&mut self.shards);
        let n = shards.len();
        let mut weight_map = BTreeMap::new();
        let mut files = Vec::new();
        for (i, (mut shard, names)) in shards.into_iter().enumerate() {
            let file = format!("model-{:05}-of-{n:05}.safetensors", i + 1);
            weight_map.extend(names.into_iter().map(|name| (name, file.clone())));
            shard.rename_to(self.folder.path().join(if n == 1 { "model.safetensors" } else { &file }));
            files.push(shard);
        }
        if n > 1 {
            let index = json!({"metadata": {"total_size": self.bytes}, "weight_map": weight_map});
            self.put_file("model.safetensors.index.json", (python_json::sorted(&index) + "\n").as_bytes())?;
        }
        let mut transaction = self.folder.transaction();
        files.iter_mut().chain(&mut self.others).for_each(|file| transaction.add(file));
        transaction.commit()?;
        Ok(self.bytes)
    }

    fn check(&self, tensor: &Tensor) -> Result<()> {
        let len = tensor.shape.iter().try_fold(tensor.dtype.bitsize(), |n, &d| n.checked_mul(d)).map(|bits| bits / 8);
        let wrong = |got: String, want: &str| Error::Tensor {
            path: self.folder.path().to_owned(),
            name: tensor.name.to_owned(),
            got,
            want: want.to_owned(),
        };
        if len != Some(tensor.data.len()) {
            let got = format!("{} bytes for {:?} {:?}", tensor.data.len(), tensor.dtype, tensor.shape);
            return Err(wrong(got, "as many as the shape calls for"));
        }
        if self.names.contains(tensor.name) {
            return Err(wrong("written twice".to_owned(), "one tensor of each name"));
        }
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        if let Some(spool) = self.open.take() {
            self.shards.push(spool.into_shard(self.folder.path())?);
        }
        Ok(())
    }
}

/// A folder that has a checkpoint is left as it is: a half-replaced one would mix two models.
fn refuse_checkpoint(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(Error::io("read the folder", dir))?;
    for entry in entries {
        let name = entry.map_err(Error::io("read the folder", dir))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) {
            let exists = io::Error::new(io::ErrorKind::AlreadyExists, "it exists; choose an empty folder");
            return Err(Error::io("write", &dir.join(&*name))(exists));
        }
    }
    Ok(())
}

/// The tensors of a shard in the order in which they came.
#[derive(Debug)]
struct Spool {
    file: Staged,
    tensors: Vec<Spooled>,
    bytes: u64,
}

#[derive(Debug)]
struct Spooled {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where its bytes are in the spool, and how many.
    at: u64,
    len: usize,
}

impl Spool {
    fn create(dir: &Path) -> Result<Self> {
        Ok(Self { file: Staged::create(&dir.join("model.safetensors"))?, tensors: Vec::new(), bytes: 0 })
    }

    fn put(&mut self, tensor: Tensor) -> Result<()> {
        (&self.file).write_all(tensor.data).map_err(Error::io("write", self.file.path()))?;
        let Tensor { name, dtype, shape, data } = tensor;
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.tensors.push(Spooled { name, dtype, shape, at: self.bytes, len: data.len() });
        self.bytes += data.len() as u64;
        Ok(())
    }

    /// Writes the shard in safetensors' order, still under a temporary name.
    fn into_shard(mut self, dir: &Path) -> Result<(Staged, Vec<String>)> {
        self.tensors.sort_by(|a, b| header::file_order((&a.name, a.dtype), (&b.name, b.dtype)));
        let path = dir.join("model.safetensors");
        let infos = self.tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice(), t.len));
        let header = header::encode(&path, infos)?;
        let shard = Staged::create(&path)?;
        self.copy(&header, &shard).map_err(Error::io("write", &path))?;
        self.file.discard()?;
        Ok((shard, self.tensors.into_iter().map(|t| t.name).collect()))
    }

    fn copy(&self, header: &[u8], shard: &Staged) -> io::Result<()> {
        let (mut from, mut to) = (self.file.file(), BufWriter::with_capacity(1 << 20, shard));
        to.write_all(header)?;
        for tensor in &self.tensors {
            from.seek(SeekFrom::Start(tensor.at))?;
            let len = tensor.len as u64;
            if io::copy(&mut from.take(len), &mut to)? != len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        to.flush()
    }
}
