use super::{
    device::Cpu,
    par,
    simd::{convert, vectorize},
};
use crate::{element::Float, ops::Cast};
use rayon::prelude::*;

/// Elements converted at once.
const CHUNK: usize = 4096;

pub(super) fn cast<S: Float, T: Float>(op: Cast<'_, Cpu, S, T>) {
    par::each(
        op.out.into_slice().par_chunks_mut(CHUNK).zip(op.x.slice().par_chunks(CHUNK)).with_min_len(4),
        |(out, x)| {
            let mut wide = [0.0; CHUNK];
            let wide = &mut wide[..x.len()];
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(x, wide);
                    convert::narrow(wide, out);
                },
            );
        },
    );
}
