//! The pages of a column, unpacked.
//!
//! Here and not by the library: it would take the memory that a header claims, and its Zstandard is written in C.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use halfbyte::host;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;

use super::chunks::{Chunks, external};
use crate::files::Zstd;

/// Bytes of a page, unpacked; writers make pages of about a MiB.
const LARGEST: usize = 1 << 30;
/// Values of lists that are read for a few rows.
const MOST_VALUES: u32 = 1 << 24;
/// Snappy makes at most 64 bytes of 3.
const SNAPPY_AT_MOST: usize = 22;

/// The pages of a column in a row group.
pub(super) struct Pages {
    packed: SerializedPageReader<Chunks>,
    chunks: Arc<Chunks>,
    compression: Compression,
    /// Bytes of a value at least.
    smallest: usize,
    has_dictionary: bool,
    /// Values of lists in the pages that were read since this was last 0.
    n_values: Option<Arc<AtomicU32>>,
}

impl Pages {
    /// `n_values` counts values where a row may have several.
    pub fn new(
        chunks: &Arc<Chunks>,
        column: &ColumnChunkMetaData,
        n_rows: i64,
        n_values: Option<Arc<AtomicU32>>,
    ) -> Result<Self> {
        if column.file_path().is_some() {
            return Err(external(chunks.unread("its columns lie in other files; write it as one")));
        }
        let begin = [Some(column.data_page_offset()), column.dictionary_page_offset(), Some(column.compressed_size())];
        if begin.into_iter().flatten().any(|place| place < 0) {
            return Err(ParquetError::General("it lies before the file".into()));
        }
        // So that the library leaves pages as they are.
        let plain = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let n_rows = usize::try_from(n_rows)?;
        Ok(Self {
            packed: SerializedPageReader::new(chunks.clone(), &plain, n_rows, None)?,
            chunks: chunks.clone(),
            compression: column.compression(),
            smallest: smallest(column),
            has_dictionary: false,
            n_values,
        })
    }

    fn unpack(&self, packed: Bytes) -> Result<Bytes> {
        match self.compression {
            _ if packed.is_empty() => Ok(packed),
            Compression::UNCOMPRESSED => Ok(packed),
            Compression::SNAPPY => unsnap(&packed),
            Compression::GZIP(_) => self.read(MultiGzDecoder::new(&packed[..])),
            Compression::ZSTD(_) => self.read(Zstd::new(&packed[..])),
            other => {
                let name = other.to_string();
                let name = name.split('(').next().unwrap_or_default();
                let wanted =
                    "write it with Snappy, gzip or Zstandard, as pandas' `to_parquet(FILE, compression=\"zstd\")`";
                Err(external(self.chunks.unread(format!("it is packed by {name}, which is not read; {wanted} does"))))
            }
        }
    }

    /// What a decoder yields, for which memory is taken as it comes.
    fn read(&self, mut decoder: impl Read) -> Result<Bytes> {
        let mut bytes = Vec::new();
        while decoder.by_ref().take(1 << 20).read_to_end(&mut bytes)? > 0 {
            host::check(2 * bytes.len()).map_err(|e| external(e.into()))?;
            if bytes.len() > LARGEST {
                return Err(ParquetError::General("a page of more than 1 GiB".into()));
            }
        }
        Ok(bytes.into())
    }

    fn unpack_page(&mut self, page: Page) -> Result<Page> {
        use Page::{DataPage, DataPageV2, DictionaryPage};
        Ok(match page {
            DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. } => {
                let buf = self.unpack(buf)?;
                DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics: None }
            }
            DictionaryPage { buf, num_values, encoding, is_sorted } => {
                DictionaryPage { buf: self.unpack(buf)?, num_values, encoding, is_sorted }
            }
            DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed,
                ..
            } => {
                // Levels come first, as they are.
                let levels = (def_levels_byte_len as usize).saturating_add(rep_levels_byte_len as usize);
                if levels > buf.len() {
                    return Err(ParquetError::General("a page whose levels are longer than it".into()));
                }
                let values = buf.slice(levels..);
                let values = if is_compressed { self.unpack(values)? } else { values };
                DataPageV2 {
                    buf: [&buf[..levels], &values].concat().into(),
                    num_values,
                    encoding,
                    num_nulls,
                    num_rows,
                    def_levels_byte_len,
                    rep_levels_byte_len,
                    is_compressed: false,
                    statistics: None,
                }
            }
        })
    }

    /// Refuses numbers that the library would take memory for, and what it panics on.
    fn check(&mut self, page: &Page) -> Result<()> {
        let fail = |reason: String| Err(ParquetError::General(reason));
        let n = page.num_values();
        if let Page::DictionaryPage { buf, .. } = page {
            self.has_dictionary = true;
            let fits = (n as usize).checked_mul(self.smallest).is_some_and(|bytes| bytes <= buf.len());
            return if fits { Ok(()) } else { fail(format!("a dictionary of {n} values in {} bytes", buf.len())) };
        }
        let by_dictionary = matches!(page.encoding(), Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY);
        if by_dictionary && !self.has_dictionary {
            return fail("a page without its dictionary".into());
        }
        let several =
            self.n_values.as_ref().map(|count| count.fetch_add(n.min(MOST_VALUES), Relaxed) + n.min(MOST_VALUES));
        match several {
            Some(n) if n >= MOST_VALUES => fail(format!("a list of {n} values")),
            _ => Ok(()),
        }
    }
}

/// Bytes that a value takes at least where it is not encoded.
fn smallest(column: &ColumnChunkMetaData) -> usize {
    match column.column_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.column_descr().type_length()).unwrap_or(0).max(1),
    }
}

fn unsnap(packed: &[u8]) -> Result<Bytes> {
    let fail = |e: snap::Error| ParquetError::General(e.to_string());
    let len = snap::raw::decompress_len(packed).map_err(fail)?;
    if len > packed.len().saturating_mul(SNAPPY_AT_MOST).min(LARGEST) {
        return Err(ParquetError::General(format!("a page of {len} bytes in {}", packed.len())));
    }
    host::check(len).map_err(|e| external(e.into()))?;
    Ok(snap::raw::Decoder::new().decompress_vec(packed).map_err(fail)?.into())
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(page) = self.packed.get_next_page()? else { return Ok(None) };
        let page = self.unpack_page(page)?;
        self.check(&page)?;
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.packed.skip_next_page()
    }
}
