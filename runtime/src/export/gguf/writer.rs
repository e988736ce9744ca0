//! A GGUF file, version 3: metadata, the shapes of all tensors, then their bytes, one tensor after another.
//!
//! Source: the format's specification, `docs/gguf.md` of ggml.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::types::TensorType;
use crate::error::{Error, Result};
use crate::files::{OutputFolder, Staged, folder_of};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Tensors begin at multiples of this, the format's default.
const ALIGNMENT: usize = 32;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

/// A tensor that will be written.
#[derive(Debug, Clone)]
pub(super) struct TensorInfo {
    pub name: String,
    /// The slowest first, as in safetensors; the file has them the other way round.
    pub shape: Vec<usize>,
    pub kind: TensorType,
}

impl TensorInfo {
    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.kind.bytes(self.shape.iter().product())
    }
}

/// Writes a file, which has its name only when all tensors are in it.
pub(super) struct GgufWriter {
    path: PathBuf,
    staged: Staged,
    /// Bytes of each tensor that is still to come, the next one last.
    left: Vec<usize>,
    bytes: u64,
    /// The last to be dropped: it removes folders that are empty.
    folder: OutputFolder,
}

impl GgufWriter {
    /// Begins a file with all that comes before the tensors' bytes.
    ///
    /// # Errors
    /// It exists, cannot be written, or the disk has too little room.
    pub fn create(path: &Path, metadata: &[(String, Value)], tensors: &[TensorInfo]) -> Result<Self> {
        let head = head(metadata, tensors);
        let dir = folder_of(path);
        if path.exists() {
            let exists = io::Error::new(io::ErrorKind::AlreadyExists, "it exists; choose another name");
            return Err(Error::io("replace", path)(exists));
        }
        let folder = OutputFolder::claim(dir)?;
        let left: Vec<_> = tensors.iter().rev().map(TensorInfo::bytes).collect();
        let bytes: usize = left.iter().map(|bytes| bytes.next_multiple_of(ALIGNMENT)).sum();
        folder.expect_space((head.len() + bytes) as u64)?;
        let mut writer = GgufWriter { path: path.to_owned(), staged: Staged::create(path)?, left, bytes: 0, folder };
        writer.write(&head)?;
        Ok(writer)
    }

    /// Adds the next tensor.
    ///
    /// # Errors
    /// The disk is full or fails, or the bytes are not as many as were announced.
    pub fn put(&mut self, data: &[u8]) -> Result<()> {
        if self.left.pop() != Some(data.len()) {
            let got = format!("{} bytes", data.len());
            let (path, name) = (self.path.clone(), "the next tensor".to_owned());
            return Err(Error::Tensor { path, name, got, want: "as many as its shape calls for".into() });
        }
        self.write(data)?;
        self.write(&[0; ALIGNMENT][..data.len().next_multiple_of(ALIGNMENT) - data.len()])
    }

    /// Gives the file its name; returns its bytes.
    pub fn finish(mut self) -> Result<u64> {
        let mut transaction = self.folder.transaction();
        transaction.add(&mut self.staged);
        transaction.commit()?;
        Ok(self.bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        (&self.staged).write_all(bytes).map_err(Error::io("write", &self.path))
    }
}

/// Everything before the tensors' bytes, filled up to where the first begins.
fn head(metadata: &[(String, Value)], tensors: &[TensorInfo]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    put_len(tensors.len(), &mut out);
    put_len(metadata.len(), &mut out);
    for (key, value) in metadata {
        put_text(key, &mut out);
        out.extend(value.kind().to_le_bytes());
        value.put(&mut out);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_text(&tensor.name, &mut out);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&size| put_len(size, &mut out));
        out.extend((tensor.kind as u32).to_le_bytes());
        put_len(offset, &mut out);
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

fn put_len(len: usize, out: &mut Vec<u8>) {
    out.extend((len as u64).to_le_bytes());
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_len(text.len(), out);
    out.extend(text.as_bytes());
}

/// What stands before a list's values: their type and number.
fn put_list(kind: u32, len: usize, out: &mut Vec<u8>) {
    out.extend(kind.to_le_bytes());
    put_len(len, out);
}

impl Value {
    /// The format's number of its type.
    fn kind(&self) -> u32 {
        match self {
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Text(_) => 8,
            Value::Texts(_) | Value::I32s(_) => 9,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::F32(v) => out.extend(v.to_le_bytes()),
            Value::Bool(v) => out.push(u8::from(*v)),
            Value::Text(text) => put_text(text, out),
            Value::Texts(all) => {
                put_list(Value::Text(String::new()).kind(), all.len(), out);
                all.iter().for_each(|text| put_text(text, out));
            }
            Value::I32s(all) => {
                put_list(Value::I32(0).kind(), all.len(), out);
                all.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// llama.cpp refuses a list of texts that says it is of numbers, though it is empty.
    #[test]
    fn an_empty_list_has_a_type() {
        let mut out = Vec::new();
        Value::Texts(Vec::new()).put(&mut out);
        assert_eq!(out, [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
