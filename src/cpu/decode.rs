//! From 4-bit codes to f32.

use super::{convert, simd};
use crate::{
    Cpu, Float,
    quant::{GROUP, Scales, Weight4},
};

impl Scales<'_, Cpu> {
    /// The absmax of block `i`.
    #[inline(always)]
    pub(super) fn absmax(&self, i: usize) -> f32 {
        match self {
            Scales::Plain(absmax) => absmax.slice()[i],
            Scales::Nested { codes, groups } => groups.slice()[i / GROUP].absmax_of(codes.slice()[i]),
        }
    }
}

/// Elements `first ..` of the flattened weight, each rounded to `T`.
pub(super) fn decode<T: Float>(weight: &Weight4<'_, Cpu>, first: usize, out: &mut [f32]) {
    let table = weight.format.codes();
    let mut at = first;
    let mut rest = &mut *out;
    while !rest.is_empty() {
        let block = at / weight.block_size;
        let here = ((block + 1) * weight.block_size - at).min(rest.len());
        let (run, after) = rest.split_at_mut(here);
        decode_run(table, weight.scales.absmax(block), weight.codes.slice(), at, run);
        (rest, at) = (after, at + here);
    }
    simd::vectorize(|| convert::round::<T>(out));
}

/// Elements `first ..`, all of one block.
#[inline(always)]
fn decode_run(table: &[f32; 16], absmax: f32, codes: &[u8], first: usize, out: &mut [f32]) {
    let odd = first % 2;
    let mut bytes = &codes[first / 2..];
    let mut out = out;
    if odd == 1 {
        out[0] = table[usize::from(bytes[0] & 15)] * absmax;
        (bytes, out) = (&bytes[1..], &mut out[1..]);
    }
    let (pairs, tail) = out.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [table[usize::from(byte >> 4)] * absmax, table[usize::from(byte & 15)] * absmax];
    }
    if let [last] = tail {
        *last = table[usize::from(bytes[pairs.len()] >> 4)] * absmax;
    }
}
