use super::{
    device::Cpu,
    math, par,
    simd::{convert, vectorize},
};
use crate::{element::Float, ops::DecodeAttention};
use rayon::prelude::*;

pub(super) fn decode_attention<T: Float>(op: DecodeAttention<'_, Cpu, T>) {
    let DecodeAttention { q, k_cache, v_cache, heads, positions, capacity, scale, out } = op;
    let (dim, group, width) = (heads.dim, heads.q / heads.kv, heads.kv * heads.dim);
    par::rows_mut(out).enumerate().for_each(|(b, out)| {
        let len = (positions.slice()[b] as usize).min(capacity - 1) + 1;
        let start = b * capacity * width;
        let sequence = start..start + len * width;
        let (keys, values) = (&k_cache.slice()[sequence.clone()], &v_cache.slice()[sequence]);
        out.par_chunks_mut(group * dim).zip(q.row(b).par_chunks(group * dim)).enumerate().for_each(
            |(head, (out, q))| {
                vectorize(
                    #[inline(always)]
                    || {
                        let rows = |cache| Rows { cache, width, dim, head };
                        attend(q, rows(keys), rows(values), scale, out);
                    },
                );
            },
        );
    });
}

/// The rows of one head in the cache of one sequence.
#[derive(Clone, Copy)]
struct Rows<'a, T> {
    cache: &'a [T],
    width: usize,
    dim: usize,
    head: usize,
}

impl<'a, T: Float> Rows<'a, T> {
    /// Calls `f` with the number and the elements of each row.
    #[inline(always)]
    fn each(self, mut f: impl FnMut(usize, &[f32])) {
        let mut row = [0.0; 128];
        let row = &mut row[..self.dim];
        for (i, all) in self.cache.chunks_exact(self.width).enumerate() {
            convert::widen(&all[self.head * self.dim..][..self.dim], row);
            f(i, row);
        }
    }
}

/// Attention of the queries `q` of one group over the keys and values of their head.
#[inline(always)]
fn attend<T: Float>(q: &[T], keys: Rows<'_, T>, values: Rows<'_, T>, scale: f32, out: &mut [T]) {
    let dim = keys.dim;
    let group = q.len() / dim;
    let mut queries = vec![0.0; q.len()];
    convert::widen(q, &mut queries);
    let len = keys.cache.len() / keys.width;
    let mut scores = vec![0.0; group * len];
    keys.each(|j, key| {
        for (query, scores) in queries.chunks_exact(dim).zip(scores.chunks_exact_mut(len)) {
            scores[j] = scale * math::dot(query, key);
        }
    });
    for scores in scores.chunks_exact_mut(len) {
        softmax(scores);
    }
    let mut sums = vec![0.0; q.len()];
    values.each(|j, value| {
        for (sums, scores) in sums.chunks_exact_mut(dim).zip(scores.chunks_exact(len)) {
            let p = scores[j];
            sums.iter_mut().zip(value).for_each(|(sum, v)| *sum += p * v);
        }
    });
    convert::narrow(&sums, out);
}

/// `x[i] = exp(x[i]) / sum_j exp(x[j])`.
#[inline(always)]
fn softmax(x: &mut [f32]) {
    let max = math::max(x);
    x.iter_mut().for_each(|x| *x = math::exp(*x - max));
    let share = 1.0 / math::sum(x);
    x.iter_mut().for_each(|x| *x *= share);
}
