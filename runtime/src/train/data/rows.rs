//! The rows of a Parquet file, as JSON, one row group and a page of each of its columns at a time.
//!
//! The format: <https://parquet.apache.org/docs/file-format/>. A null of a group is a key that the record does not have: a
//! table has each key in each row, and what wrote it had to fill those that were not there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use indicatif::ProgressBar;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::Opened;

mod chunks;
mod column;
mod footer;
mod pages;
mod tree;

use chunks::Chunks;
use column::Column;
use tree::Node;

/// What a file begins and ends with.
pub(super) const MAGIC: &[u8; 4] = b"PAR1";

/// The rows of a file, in its order.
pub(super) struct Rows {
    chunks: Arc<Chunks>,
    metadata: ParquetMetaData,
    tree: Node,
    /// The columns of the row group in hand.
    columns: Vec<Column>,
    /// Row groups that were begun.
    n_groups: usize,
    /// Rows of the one in hand that were not read yet.
    left: u64,
    /// Rows that were read.
    n: usize,
}

impl Rows {
    /// Reads what the file says of itself.
    ///
    /// # Errors
    /// It is damaged, encrypted, or holds what is no record.
    pub fn open(path: &Path, file: Opened, bar: &ProgressBar) -> Result<Self> {
        let chunks = Arc::new(Chunks::new(path, file, bar)?);
        guarded(&chunks, || {
            let metadata = footer::read(&chunks)?;
            let tree = Node::of(metadata.file_metadata().schema()).map_err(|reason| chunks.unread(reason))?;
            Ok(Rows { chunks: chunks.clone(), metadata, tree, columns: Vec::new(), n_groups: 0, left: 0, n: 0 })
        })
    }

    /// The next row, with its number from 1; none at the end.
    ///
    /// # Errors
    /// The file is damaged, or packed or encoded as is not read.
    pub fn next(&mut self) -> Result<Option<(usize, Value)>> {
        let chunks = self.chunks.clone();
        guarded(&chunks, || {
            while self.left == 0 {
                if !self.begin()? {
                    return Ok(None);
                }
            }
            self.left -= 1;
            self.n += 1;
            let row = self.tree.read(&mut self.columns).and_then(|row| self.check_end().map(|()| row));
            row.map(|row| Some((self.n, row))).map_err(|e| self.in_row(e))
        })
    }

    /// Begins the next row group, if there is one.
    fn begin(&mut self) -> Result<bool> {
        let Some(group) = self.metadata.row_groups().get(self.n_groups) else { return Ok(false) };
        self.n_groups += 1;
        self.left = u64::try_from(group.num_rows()).map_err(|_| self.chunks.damaged("a negative number of rows"))?;
        self.columns = columns(&self.chunks, group)?;
        if self.columns.len() != self.tree.columns().len() {
            return Err(self.chunks.damaged("a row group has other columns than the schema"));
        }
        Ok(true)
    }

    /// Refuses columns that go on within a row, or beyond the last.
    fn check_end(&mut self) -> Result<()> {
        for column in &mut self.columns {
            let rest = column.peek()?;
            if rest.is_some_and(|(repetition, _)| repetition > 0 || self.left == 0) {
                let reason = format!("column `{}` has more values than there are rows", column.name());
                return Err(self.chunks.damaged(reason));
            }
        }
        Ok(())
    }

    fn in_row(&self, error: Error) -> Error {
        match error {
            Error::Corrupt { path, format, reason } => {
                Error::Corrupt { path, format, reason: format!("row {}: {reason}", self.n) }
            }
            other => other,
        }
    }
}

fn columns(chunks: &Arc<Chunks>, group: &RowGroupMetaData) -> Result<Vec<Column>> {
    group.columns().iter().map(|column| Column::open(chunks, column, group.num_rows())).collect()
}

/// The library panics on some files that are damaged.
fn guarded<T>(chunks: &Chunks, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(chunks.damaged("its pages do not hold what they say")))
}

/// The error of the library, or the one of ours that it passed on.
fn error_of(chunks: &Chunks) -> impl Fn(ParquetError) -> Error {
    |error| match error {
        ParquetError::External(ours) => match ours.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => chunks.damaged(other),
        },
        ParquetError::General(reason) | ParquetError::EOF(reason) => chunks.damaged(reason),
        ParquetError::NYI(reason) => chunks.unread(reason),
        other => chunks.damaged(other),
    }
}
