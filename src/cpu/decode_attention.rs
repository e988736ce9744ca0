use super::{
    device::Cpu,
    math, par,
    qk_norm_rope::{angles, norm_rope},
    simd::{convert, vectorize},
};
use crate::{element::Float, ops::DecodeAttention};
use rayon::prelude::*;

pub(super) fn decode_attention<T: Float>(op: DecodeAttention<'_, Cpu, T>) {
    let DecodeAttention { qkv, heads, q_weight, k_weight, eps, positions, cos, sin, capacity, scale, .. } = op;
    let (dim, group, width) = (heads.dim, heads.q / heads.kv, heads.kv * heads.dim);
    let caches = [op.k_cache, op.v_cache].map(|cache| cache.into_slice().par_chunks_mut(capacity * width));
    let [k_caches, v_caches] = caches;
    par::rows_mut(op.out).zip(k_caches.zip(v_caches)).enumerate().for_each(|(b, (out, (keys, values)))| {
        let position = positions.slice()[b];
        let angles = angles(cos, sin, position, dim / 2);
        let (q, kv) = qkv.row(b).split_at(heads.q * dim);
        let (k, v) = kv.split_at(width);
        let position = position as usize;
        if position < capacity {
            let row = position * width..(position + 1) * width;
            norm_rope(k, k_weight, eps, angles, &mut vec![0.0; dim], &mut keys[row.clone()]);
            values[row].copy_from_slice(v);
        }
        let used = position.min(capacity - 1) * width + width;
        let (keys, values) = (&keys[..used], &values[..used]);
        out.par_chunks_mut(group * dim).zip(q.par_chunks(group * dim)).enumerate().for_each(|(head, (out, q))| {
            vectorize(
                #[inline(always)]
                || {
                    let rows = |cache| Rows { cache, width, dim, head };
                    let mut rotated = q.to_vec();
                    norm_rope(q, q_weight, eps, angles, &mut vec![0.0; dim], &mut rotated);
                    attend(&rotated, rows(keys), rows(values), scale, out);
                },
            );
        });
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
