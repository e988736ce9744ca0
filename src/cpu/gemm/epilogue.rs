//! What becomes of the sums of a product.

use crate::{cpu::simd::convert, element::Float};

/// Stores a row of sums, or adds it to what is there.
#[inline(always)]
pub(super) fn store<O: Float>(accumulate: bool, scale: f32, sums: &mut [f32], out: &mut [O]) {
    for sum in sums.iter_mut() {
        *sum *= scale;
    }
    if accumulate {
        let mut before = [0.0; 64];
        for (sums, out) in sums.chunks_mut(64).zip(out.chunks(64)) {
            let before = &mut before[..out.len()];
            convert::widen(out, before);
            sums.iter_mut().zip(before).for_each(|(sum, before)| *sum += *before);
        }
    }
    convert::narrow(sums, out);
}
