use super::{
    device::Cpu,
    par,
    simd::{convert, decode, vectorize},
};
use crate::{element::Float, ops::Dequantize};
use rayon::prelude::*;

/// Elements decoded at once.
const CHUNK: usize = 4096;

pub(super) fn dequantize<T: Float>(op: Dequantize<'_, Cpu, T>) {
    let Dequantize { weight, out } = op;
    par::each(out.into_slice().par_chunks_mut(CHUNK).enumerate(), |(i, out)| {
        let mut wide = [0.0; CHUNK];
        let wide = &mut wide[..out.len()];
        decode::decode::<T>(&weight, i * CHUNK, wide);
        vectorize(
            #[inline(always)]
            || convert::narrow(wide, out),
        );
    });
}
