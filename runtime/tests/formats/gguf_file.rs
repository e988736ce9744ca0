//! A GGUF file, read by the format's specification, and dequantised by ggml's formulas for its blocks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use serde_json::Value;

/// What a file holds.
pub struct Gguf {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Stored>,
}

/// A tensor: its shape, the slowest first, ggml's number of its type, and its bytes.
pub struct Stored {
    pub shape: Vec<usize>,
    pub kind: u32,
    pub data: Vec<u8>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().expect("the file ends early");
        self.0 = rest;
        *head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn len(&mut self) -> usize {
        u64::from_le_bytes(self.take()) as usize
    }

    fn text(&mut self) -> String {
        let len = self.len();
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        String::from_utf8(text.to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => self.u32().into(),
            5 => i32::from_le_bytes(self.take()).into(),
            6 => f32::from_le_bytes(self.take()).into(),
            7 => (self.take::<1>() == [1]).into(),
            8 => self.text().into(),
            9 => {
                let kind = self.u32();
                (0..self.len()).map(|_| self.value(kind)).collect()
            }
            other => panic!("metadata of type {other}"),
        }
    }
}

pub fn read(path: &Path) -> Gguf {
    let bytes = fs::read(path).unwrap();
    let mut reader = Reader(&bytes);
    assert_eq!((&reader.take::<4>(), reader.u32()), (b"GGUF", 3));
    let (n_tensors, n_values) = (reader.len(), reader.len());
    let mut metadata = BTreeMap::new();
    for _ in 0..n_values {
        let (key, kind) = (reader.text(), reader.u32());
        assert!(metadata.insert(key.clone(), reader.value(kind)).is_none(), "{key} is there twice");
    }
    let mut infos = Vec::new();
    for _ in 0..n_tensors {
        let (name, dims) = (reader.text(), reader.u32());
        let mut shape: Vec<usize> = (0..dims).map(|_| reader.len()).collect();
        shape.reverse();
        infos.push((name, shape, reader.u32(), reader.len()));
    }
    let start = (bytes.len() - reader.0.len()).next_multiple_of(32);
    let ends = infos.iter().skip(1).map(|info| info.3).chain([bytes.len() - start]);
    let mut tensors = BTreeMap::new();
    for ((name, shape, kind, at), end) in infos.iter().zip(ends) {
        assert!(at.is_multiple_of(32), "{name}");
        let (block, size) = block(*kind);
        let len = shape.iter().product::<usize>() / block * size;
        assert_eq!(len.next_multiple_of(32), end - at, "{name} has other bytes than its shape calls for");
        let data = bytes[start + at..][..len].to_vec();
        tensors.insert(name.clone(), Stored { shape: shape.clone(), kind: *kind, data });
    }
    Gguf { metadata, tensors }
}

/// Elements of a block, and its bytes.
fn block(kind: u32) -> (usize, usize) {
    match kind {
        0 => (1, 4),
        1 | 30 => (1, 2),
        8 => (32, 34),
        12 => (256, 144),
        14 => (256, 210),
        other => panic!("a tensor of type {other}"),
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

impl Stored {
    pub fn values(&self) -> Vec<f32> {
        let (_, size) = block(self.kind);
        let blocks = self.data.chunks_exact(size);
        match self.kind {
            0 => blocks.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            1 => blocks.map(half).collect(),
            30 => blocks.map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            8 => {
                blocks.flat_map(|b| b[2..].iter().map(|&q| half(b) * f32::from(q as i8)).collect::<Vec<_>>()).collect()
            }
            12 => blocks.flat_map(q4_k).collect(),
            _ => blocks.flat_map(q6_k).collect(),
        }
    }
}

/// `d · scale · code − d_min · min`.
fn q4_k(block: &[u8]) -> Vec<f32> {
    let (d, d_min, packed, codes) = (half(block), half(&block[2..]), &block[4..16], &block[16..]);
    let scale_min = |i: usize| match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4),
    };
    let element = |i: usize| {
        let (part, byte) = (i / 32, codes[i / 64 * 32 + i % 32]);
        let code = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
        let (scale, min) = scale_min(part);
        d * f32::from(scale) * f32::from(code) - d_min * f32::from(min)
    };
    (0..256).map(element).collect()
}

/// `d · scale · (code − 32)`.
fn q6_k(block: &[u8]) -> Vec<f32> {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(&block[208..]));
    let element = |i: usize| {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[64 * half + 32 * (quarter % 2) + l];
        let four = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let two = high[32 * half + l] >> (2 * quarter) & 3;
        d * f32::from(scales[i / 16] as i8) * (f32::from(four | two << 4) - 32.0)
    };
    (0..256).map(element).collect()
}
