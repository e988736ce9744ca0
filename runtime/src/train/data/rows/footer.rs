//! What a file says of itself, at its end.

use parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use parquet::file::reader::Length;

use super::chunks::Chunks;
use super::{MAGIC, error_of};
use crate::error::Result;

/// Groups within groups; a list is two.
const DEEPEST: usize = 100;

/// The schema and the row groups, without statistics.
pub(super) fn read(chunks: &Chunks) -> Result<ParquetMetaData> {
    let end = chunks.len().checked_sub(8).ok_or_else(|| chunks.damaged("it is too short"))?;
    let tail = chunks.bytes(end, 8)?;
    let (length, magic) = (u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]), &tail[4..]);
    if magic == b"PARE" {
        return Err(chunks.unread("it is encrypted; write it without encryption"));
    }
    if magic != MAGIC {
        return Err(chunks.damaged("it does not end in `PAR1`, as a whole one does"));
    }
    let start = end.checked_sub(length.into());
    let start =
        start.ok_or_else(|| chunks.damaged(format!("its footer has {length} bytes, more than it has in all")))?;
    let footer = chunks.bytes(start, length as usize)?;
    check_schema(&footer).map_err(|reason| chunks.damaged(reason))?;
    let mut options = ParquetMetaDataOptions::new();
    options.set_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll);
    options.set_column_stats_policy(ParquetStatisticsPolicy::SkipAll);
    options.set_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    ParquetMetaDataReader::decode_metadata_with_options(&footer, Some(&options)).map_err(error_of(chunks))
}

/// Refuses a schema whose groups claim more children than it has elements, for which the library would take memory, or lie
/// so deep that it would exhaust the stack.
fn check_schema(footer: &[u8]) -> Result<(), String> {
    let mut thrift = Thrift(footer);
    let mut schema = Ok(());
    let read = thrift.fields(|thrift, id, kind| {
        if (id, kind) != (2, LIST) {
            return thrift.skip(kind, 0);
        }
        let (n, _) = thrift.list()?;
        // Children that are still to come, of each group that is open.
        let mut open: Vec<usize> = Vec::new();
        for _ in 0..n {
            let mut children = 0;
            thrift.fields(|thrift, id, kind| {
                if (id, kind) != (5, I32) {
                    return thrift.skip(kind, 0);
                }
                children = usize::try_from(thrift.zigzag()?).ok()?;
                Some(())
            })?;
            while open.pop_if(|left| *left == 0).is_some() {}
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.push(children);
            if children > n || open.len() > DEEPEST {
                schema = Err(format!("its schema has a group of {children} columns, or groups {DEEPEST} deep"));
                return None;
            }
        }
        Some(())
    });
    schema.and(read.ok_or_else(|| "its footer is cut off".into()))
}

// Types of the compact protocol.
const I32: u8 = 5;
const LIST: u8 = 9;

/// Thrift's compact protocol, as far as it takes to skip through it:
/// <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>. Nothing at its end.
struct Thrift<'a>(&'a [u8]);

impl Thrift<'_> {
    fn take(&mut self, n: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let number = self.varint()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// The length of a list, and what its elements are.
    fn list(&mut self) -> Option<(usize, u8)> {
        let head = self.byte()?;
        let n = if head >> 4 == 15 { usize::try_from(self.varint()?).ok()? } else { usize::from(head >> 4) };
        // Each takes a byte at least.
        (n <= self.0.len()).then_some((n, head & 15))
    }

    /// The fields of a struct, each of which `read` must read.
    fn fields(&mut self, mut read: impl FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut id = 0;
        loop {
            let head = self.byte()?;
            match (head, head >> 4) {
                (0, _) => return Some(()),
                (_, 0) => id = self.zigzag()?,
                (_, delta) => id += i64::from(delta),
            }
            read(self, id, head & 15)?;
        }
    }

    /// Skips a value within `depth` others.
    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            _ if depth > DEEPEST => return None,
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => drop(self.take(8)?),
            8 => {
                let n = usize::try_from(self.varint()?).ok()?;
                self.take(n)?;
            }
            LIST | 10 => {
                let (n, kind) = self.list()?;
                (0..n).try_for_each(|_| if kind < 3 { self.take(1).map(drop) } else { self.skip(kind, depth + 1) })?;
            }
            12 => self.fields(|thrift, _, kind| thrift.skip(kind, depth + 1))?,
            // No file of ours has a map or what else there is.
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 2, a list of this many structs, each of which has this number of children as field 5.
    fn schema(children: &[u32]) -> Vec<u8> {
        let varint = |mut n: u32, bytes: &mut Vec<u8>| {
            while n >= 0x80 {
                bytes.push(n as u8 | 0x80);
                n >>= 7;
            }
            bytes.push(n as u8);
        };
        let mut bytes = vec![0x29, 0xFC];
        varint(children.len() as u32, &mut bytes);
        for &n in children {
            bytes.push(0x55);
            varint(n << 1, &mut bytes);
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn schemas_that_would_exhaust_memory_or_stack_are_refused() {
        let says = |footer: &[u8], want: &str| {
            let said = check_schema(footer).unwrap_err();
            assert!(said.contains(want), "{said}");
        };
        check_schema(&schema(&[2, 0, 0])).unwrap();
        check_schema(&schema(&[[1; DEEPEST - 1].as_slice(), &[0]].concat())).unwrap();
        says(&schema(&[[1; DEEPEST].as_slice(), &[0]].concat()), "groups 100 deep");
        says(&schema(&[1 << 30, 0]), "a group of 1073741824 columns");
        says(&schema(&[1, 0])[..8], "cut off");
        // A list of 2^28 elements in six bytes, and structs within structs.
        says(&[0x29, 0xFC, 0x80, 0x80, 0x80, 0x80, 1, 0], "cut off");
        says(&[0x1C; 100_000], "cut off");
    }
}
