use super::{device::Cpu, par, simd::vectorize};
use crate::ops::{Norm, Sum};
use rayon::prelude::*;

/// Elements that one task adds up; fixed, so that the order depends only on the length.
const CHUNK: usize = 1 << 16;

/// The sum of `f(x)` in f64, in an order that depends only on the length.
fn total(x: &[f32], f: impl Fn(f64) -> f64 + Sync) -> f64 {
    let part = |x: &[f32]| {
        vectorize(
            #[inline(always)]
            || {
                let mut lanes = [0.0; 16];
                let (chunks, tail) = x.as_chunks::<16>();
                for chunk in chunks {
                    lanes.iter_mut().zip(chunk).for_each(|(lane, &v)| *lane += f(f64::from(v)));
                }
                lanes.iter_mut().zip(tail).for_each(|(lane, &v)| *lane += f(f64::from(v)));
                lanes.iter().sum::<f64>()
            },
        )
    };
    let mut parts = vec![0.0; x.len().div_ceil(CHUNK)];
    par::each(x.par_chunks(CHUNK).zip(parts.par_iter_mut()), |(x, sum)| *sum = part(x));
    parts.iter().sum()
}

pub(super) fn sum(op: Sum<'_, Cpu>) {
    let out = op.out.into_slice();
    let before = if op.accumulate { out[0] } else { 0.0 };
    out[0] = before + total(op.x.slice(), |v| v) as f32;
}

pub(super) fn norm(op: Norm<'_, Cpu>) {
    op.out.into_slice()[0] = total(op.x.slice(), |v| v * v).sqrt() as f32;
}
