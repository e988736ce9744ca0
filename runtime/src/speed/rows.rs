//! What was measured, as rows of a CSV file.

use crate::{
    error::{Error, Result},
    files,
};
use serde::Serialize;
use std::{
    io,
    path::{Path, PathBuf},
};

/// A row of what [`super::decode`] measured; figures are missing where memory did not suffice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeRow {
    /// The shape's name.
    pub shape: &'static str,
    /// How linear layers are held and what is computed in, as `nf4/bfloat16`.
    pub base: String,
    /// How the output head is held.
    pub head: String,
    /// How keys and values are kept: as the compute type, or `int8`.
    pub kv_cache: String,
    /// Rank of the adapter, where there is one.
    pub lora_r: Option<usize>,
    /// See [`super::Decoding`].
    pub top_k: Option<usize>,
    /// See [`super::Decoding`].
    pub sequences: usize,
    /// See [`super::Decoding`].
    pub context: usize,
    /// See [`super::Decoding`].
    pub new_tokens: usize,
    /// See [`super::DecodeSpeed`].
    pub first_s: Option<f64>,
    /// See [`super::DecodeSpeed`].
    pub first_warm_s: Option<f64>,
    /// See [`super::DecodeSpeed`].
    pub tokens_per_s: Option<f64>,
    /// See [`super::DecodeSpeed`].
    pub peak_bytes: Option<usize>,
}

/// A row of what [`super::train`] measured; figures are missing where memory did not suffice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainRow {
    /// The shape's name.
    pub shape: &'static str,
    /// How linear layers are held and what is computed in, as `nf4/bfloat16`.
    pub base: String,
    /// Rank of the adapter.
    pub lora_r: usize,
    /// Its dropout.
    pub dropout: f32,
    /// What is kept for the backward pass, as settings call it.
    pub activation_memory: String,
    /// See [`super::Training`].
    pub batch: usize,
    /// See [`super::Training`].
    pub length: usize,
    /// See [`super::TrainSpeed`].
    pub tokens_per_s: Option<f64>,
    /// Milliseconds of a step.
    pub step_ms: Option<f64>,
    /// See [`super::TrainSpeed`].
    pub peak_bytes: Option<usize>,
}

/// A CSV file that holds the rows so far, whenever the program ends.
#[derive(Debug)]
pub struct RowsFile {
    path: PathBuf,
    writer: csv::Writer<Vec<u8>>,
}

impl RowsFile {
    /// Nothing is written before the first row, also where a file makes room.
    ///
    /// # Errors
    /// The folder cannot be written to, or `overwrite` is not set and there is a file.
    pub fn new(path: &Path, overwrite: bool) -> Result<Self> {
        let refuse = |hint| Err(Error::io("replace", path)(io::Error::new(io::ErrorKind::AlreadyExists, hint)));
        if path.is_dir() {
            return refuse("it is a folder; choose another name for --csv");
        }
        if path.exists() && !overwrite {
            return refuse("it has other results; choose another --csv, or pass --overwrite");
        }
        files::stage(path, |_| Ok(()))?.discard()?;
        Ok(RowsFile { path: path.to_owned(), writer: csv::Writer::from_writer(Vec::new()) })
    }

    /// Adds a row; the file has all rows or those before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, row: &impl Serialize) -> Result<()> {
        let failed = |e: io::Error| Error::io("write", &self.path)(e);
        self.writer.serialize(row).map_err(|e| failed(e.into()))?;
        self.writer.flush().map_err(failed)?;
        files::write_bytes(&self.path, self.writer.get_ref())
    }
}
