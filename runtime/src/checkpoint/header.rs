use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::error::{Error, Result};

/// Bytes before the header: its length as u64.
const PREFIX: usize = 8;
/// The longest header that safetensors accepts.
const LONGEST: usize = 100_000_000;

/// What a safetensors file says about its tensors; offsets are within the file.
#[derive(Debug)]
pub(super) struct Header {
    pub tensors: BTreeMap<String, TensorInfo>,
    data_start: usize,
}

impl Header {
    /// Parses and verifies the header of a whole file: every tensor's bytes match its shape, follow one another without
    /// gaps, and end where the file ends.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self> {
        Self::check(file).map_err(|reason| Error::Corrupt { path: path.to_owned(), format: "safetensors", reason })
    }

    /// Where a tensor's bytes are in the file.
    pub fn range(&self, info: &TensorInfo) -> Range<usize> {
        self.data_start + info.data_offsets.0..self.data_start + info.data_offsets.1
    }

    fn check(file: &[u8]) -> Result<Self, String> {
        let (prefix, rest) = file
            .split_first_chunk::<PREFIX>()
            .ok_or_else(|| format!("it has {} bytes, fewer than the 8 of the header's length", file.len()))?;
        let len = usize::try_from(u64::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if len > LONGEST && len <= rest.len() {
            return Err(format!("its header is {len} bytes long, but the format allows {LONGEST}"));
        }
        if len > rest.len() {
            return Err(format!("its header says that it is {len} bytes long, but {} bytes follow", rest.len()));
        }
        let raw: RawHeader = serde_json::from_slice(&rest[..len]).map_err(|e| format!("its header: {e}"))?;
        let data_len = verify(&raw.0)?;
        let got = rest.len() - len;
        if data_len != got {
            return Err(format!("its tensors take {data_len} bytes, but the file has {got}"));
        }
        Ok(Self { tensors: raw.0, data_start: PREFIX + len })
    }
}

/// Has the safetensors crate verify shapes and offsets; returns the bytes of all tensors.
fn verify(tensors: &BTreeMap<String, TensorInfo>) -> Result<usize, String> {
    let mut by_offset: Vec<_> = tensors.iter().map(|(name, info)| (name.clone(), info.clone())).collect();
    by_offset.sort_by_key(|(_, info)| info.data_offsets);
    Metadata::new(None, by_offset).map(|m| m.data_len()).map_err(|e| format!("its header: {e}"))
}

/// The header's JSON object without its `__metadata__`.
struct RawHeader(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<BTreeMap<String, String>>()?;
                continue;
            }
            let info = map.next_value()?;
            match tensors.entry(name) {
                Entry::Vacant(entry) => entry.insert(info),
                Entry::Occupied(entry) => {
                    return Err(A::Error::custom(format!("tensor `{}` is in it twice", entry.key())));
                }
            };
        }
        Ok(RawHeader(tensors))
    }
}

/// The prefix and header of a file with these tensors (name, type, shape and bytes), which follow in this order.
///
/// They must be ordered as [`file_order`] has it for the bytes to equal those that safetensors itself writes.
pub(super) fn encode<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize], usize)>,
) -> Result<Vec<u8>> {
    let broken = |reason| Error::Corrupt { path: path.to_owned(), format: "safetensors", reason };
    let mut at = 0;
    let infos = tensors.map(|(name, dtype, shape, len)| {
        let data_offsets = (at, at + len);
        at = data_offsets.1;
        (name.to_owned(), TensorInfo { dtype, shape: shape.to_vec(), data_offsets })
    });
    let pytorch = Some([("format".to_owned(), "pt".to_owned())].into());
    let metadata = Metadata::new(pytorch, infos.collect()).map_err(|e| broken(e.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| broken(e.to_string()))?;
    json.resize(json.len().next_multiple_of(PREFIX), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    Ok(bytes)
}

/// safetensors' order of tensors within a file: the widest types first, then by name.
pub(super) fn file_order<'a>(a: (&'a str, Dtype), b: (&'a str, Dtype)) -> std::cmp::Ordering {
    b.1.cmp(&a.1).then(a.0.cmp(b.0))
}
