//! A column of a row group: its values, with the levels that say where they belong.
//!
//! Levels are Dremel's (<https://research.google/pubs/pub36632/>): the repetition level says which of the lists around a
//! value goes on with it (0: none, a row begins), the definition level how many of what may be null or empty around it are
//! there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::vec;

use parquet::basic::{ConvertedType, LogicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::schema::types::ColumnDescriptor;
use serde_json::{Value, json};

use super::chunks::Chunks;
use super::error_of;
use super::pages::Pages;
use crate::error::{Error, Result};
use crate::json;

/// Rows that are decoded at once.
const ROWS: usize = 32;

/// A value, or that there is none, between its levels.
pub(super) struct Column {
    chunks: Arc<Chunks>,
    name: String,
    reader: ColumnReader,
    /// Values of lists in pages read for the rows in hand.
    n_values: Arc<AtomicU32>,
    kind: Kind,
    /// The definition level of a value that is there.
    max_definition: i16,
    batch: Batch,
}

/// What is decoded and not read yet.
#[derive(Default)]
struct Batch {
    /// Without those that are always 0.
    repetitions: Vec<i16>,
    definitions: Vec<i16>,
    values: vec::IntoIter<Value>,
    n_levels: usize,
    next: usize,
}

/// What the values of a column mean.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Unsigned,
    /// In units of 10 to the power of minus this.
    Decimal(i32),
    Json,
}

impl Kind {
    fn of(column: &ColumnDescriptor) -> Self {
        use ConvertedType as C;
        match (column.logical_type_ref(), column.converted_type()) {
            (Some(LogicalType::Json), _) | (_, C::JSON) => Kind::Json,
            (_, C::UINT_8 | C::UINT_16 | C::UINT_32 | C::UINT_64) => Kind::Unsigned,
            (_, C::DECIMAL) => Kind::Decimal(column.type_scale()),
            _ => Kind::Plain,
        }
    }

    fn integer(self, signed: i64, unsigned: u64) -> Value {
        match self {
            Kind::Unsigned => unsigned.into(),
            Kind::Decimal(scale) if scale != 0 => (signed as f64 / 10_f64.powi(scale)).into(),
            _ => signed.into(),
        }
    }

    /// A text, or JSON; what is neither is told by its length, since JSON has no bytes.
    fn bytes(self, bytes: &[u8]) -> Value {
        match std::str::from_utf8(bytes) {
            Ok(text) if self == Kind::Json => json::parse(bytes).unwrap_or_else(|_| text.into()),
            Ok(text) => text.into(),
            Err(_) => binary(bytes.len()),
        }
    }
}

fn binary(len: usize) -> Value {
    json!({ "bytes": len })
}

impl Column {
    pub fn open(chunks: &Arc<Chunks>, column: &ColumnChunkMetaData, n_rows: i64) -> Result<Self> {
        let descriptor = column.column_descr_ptr();
        let (name, max_definition) = (descriptor.path().string(), descriptor.max_def_level());
        let (n_values, kind) = (Arc::<AtomicU32>::default(), Kind::of(&descriptor));
        let in_lists = (descriptor.max_rep_level() > 0).then(|| n_values.clone());
        let pages = Pages::new(chunks, column, n_rows, in_lists).map_err(|e| in_column(&name, error_of(chunks)(e)))?;
        let reader = get_column_reader(descriptor, Box::new(pages));
        Ok(Self { chunks: chunks.clone(), name, reader, n_values, kind, max_definition, batch: Batch::default() })
    }

    /// Its name, behind those of the groups around it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Repetition and definition level of what comes next; none at the end.
    pub fn peek(&mut self) -> Result<Option<(i16, i16)>> {
        if self.batch.next == self.batch.n_levels {
            self.fill()?;
        }
        let (batch, at) = (&self.batch, self.batch.next);
        let level = |levels: &[i16]| levels.get(at).copied().unwrap_or(0);
        Ok((at < batch.n_levels).then(|| (level(&batch.repetitions), level(&batch.definitions))))
    }

    /// The definition level of what comes next, which must be there.
    pub fn definition(&mut self) -> Result<i16> {
        let next = self.peek()?;
        next.map(|(_, definition)| definition).ok_or_else(|| self.damaged("it ends before the last row"))
    }

    /// What comes next, or null.
    pub fn take(&mut self) -> Result<Value> {
        let value = match self.definition()? == self.max_definition {
            true => self.batch.values.next().ok_or_else(|| self.damaged("it has fewer values than levels"))?,
            false => Value::Null,
        };
        self.batch.next += 1;
        Ok(value)
    }

    fn fill(&mut self) -> Result<()> {
        self.n_values.store(0, Relaxed);
        let (kind, bytes) = (self.kind, |bytes: &ByteArray| self.kind.bytes(bytes.data()));
        use ColumnReader as R;
        let batch = match &mut self.reader {
            R::BoolColumnReader(reader) => Batch::read(reader, |&v| v.into()),
            R::Int32ColumnReader(reader) => Batch::read(reader, |&v| kind.integer(v.into(), (v as u32).into())),
            R::Int64ColumnReader(reader) => Batch::read(reader, |&v| kind.integer(v, v as u64)),
            R::FloatColumnReader(reader) => Batch::read(reader, |&v| v.into()),
            R::DoubleColumnReader(reader) => Batch::read(reader, |&v| v.into()),
            R::ByteArrayColumnReader(reader) => Batch::read(reader, bytes),
            R::Int96ColumnReader(reader) => Batch::read(reader, |_| binary(12)),
            R::FixedLenByteArrayColumnReader(reader) => Batch::read(reader, |v| binary(v.len())),
        };
        self.batch = batch.map_err(|e| in_column(&self.name, error_of(&self.chunks)(e)))?;
        Ok(())
    }

    fn damaged(&self, reason: &str) -> Error {
        in_column(&self.name, self.chunks.damaged(reason))
    }
}

impl Batch {
    fn read<T: DataType>(
        reader: &mut ColumnReaderImpl<T>,
        value: impl Fn(&T::T) -> Value,
    ) -> Result<Self, ParquetError> {
        let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (_, _, n_levels) =
            reader.read_records(ROWS, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
        let values: Vec<_> = values.iter().map(value).collect();
        Ok(Batch { repetitions, definitions, values: values.into_iter(), n_levels, next: 0 })
    }
}

fn in_column(name: &str, error: Error) -> Error {
    match error {
        Error::Corrupt { path, format, reason } => {
            Error::Corrupt { path, format, reason: format!("column `{name}`: {reason}") }
        }
        Error::Data { path, reason } => Error::Data { path, reason: format!("column `{name}`: {reason}") },
        other => other,
    }
}
