//! From 4-bit codes to f32.

use super::{convert, simd, simd_decode};
use crate::{
    Cpu, Float,
    quant::{GROUP, Scales, Weight4},
};
use std::ops::Range;

impl Scales<'_, Cpu> {
    /// The absmax of block `i`.
    #[inline(always)]
    fn absmax(&self, i: usize) -> f32 {
        match self {
            Scales::Plain(absmax) => absmax.slice()[i],
            Scales::Nested { codes, groups } => groups.slice()[i / GROUP].absmax_of(codes.slice()[i]),
        }
    }
}

/// Cuts elements `first .. first + len` of the flattened weight into runs of one block each, and calls
/// `f(run, first element, values)` with the run's place among the elements and what its 16 codes stand for in `T`.
#[inline(always)]
pub(super) fn each_run<T: Float>(
    weight: &Weight4<'_, Cpu>,
    first: usize,
    len: usize,
    mut f: impl FnMut(Range<usize>, usize, &[f32; 16]),
) {
    let mut done = 0;
    while done < len {
        let at = first + done;
        let block = at / weight.block_size;
        let end = ((block + 1) * weight.block_size - first).min(len);
        let absmax = weight.scales.absmax(block);
        let mut values = weight.format.codes().map(|code| code * absmax);
        convert::round::<T>(&mut values);
        f(done..end, at, &values);
        done = end;
    }
}

/// Elements `first ..` of the flattened weight, each rounded to `T`.
pub(super) fn decode<T: Float>(weight: &Weight4<'_, Cpu>, first: usize, out: &mut [f32]) {
    simd::vectorize(|| {
        each_run::<T>(weight, first, out.len(), |run, at, values| {
            simd_decode::look_up(values, weight.codes.slice(), at, &mut out[run]);
        });
    });
}
