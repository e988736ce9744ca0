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
    par::each(par::rows_mut(op.out).zip(k_caches.zip(v_caches)).enumerate(), |(b, (out, (keys, values)))| {
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
        par::each(out.par_chunks_mut(group * dim).zip(q.par_chunks(group * dim)).enumerate(), |(head, (out, q))| {
            let rows = |cache| Rows { cache, width, dim, head };
            par::with_scratch(group * dim, |queries| {
                vectorize(
                    #[inline(always)]
                    || {
                        // Rounded to `T`, through the place of the result.
                        norm_rope(q, q_weight, eps, angles, &mut queries[..dim], out);
                        convert::widen(out, queries);
                    },
                );
                attend(queries, rows(keys), rows(values), scale, out);
            });
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

/// Rows of the cache that are widened at once.
const BLOCK: usize = 32;

impl<T: Float> Rows<'_, T> {
    /// Calls `f` with the number of the first and the elements of some rows at a time.
    fn each(self, mut f: impl FnMut(usize, &[f32])) {
        let Rows { cache, width, dim, head } = self;
        par::with_scratch(BLOCK * dim, |wide| {
            for (i, rows) in cache.chunks(BLOCK * width).enumerate() {
                let wide = &mut wide[..rows.len() / width * dim];
                vectorize(
                    #[inline(always)]
                    || {
                        for (all, wide) in rows.chunks_exact(width).zip(wide.chunks_exact_mut(dim)) {
                            convert::widen(&all[head * dim..][..dim], wide);
                        }
                    },
                );
                f(i * BLOCK, wide);
            }
        });
    }
}

/// Attention of the `queries` of one group over the keys and values of their head.
fn attend<T: Float>(queries: &[f32], keys: Rows<'_, T>, values: Rows<'_, T>, scale: f32, out: &mut [T]) {
    let (dim, len) = (keys.dim, keys.cache.len() / keys.width);
    par::with_scratch(queries.len() / dim * len + queries.len(), |scratch| {
        let (sums, scores) = scratch.split_at_mut(queries.len());
        keys.each(|first, keys| {
            for (query, scores) in queries.chunks_exact(dim).zip(scores.chunks_exact_mut(len)) {
                math::dots(query, keys, &mut scores[first..][..keys.len() / dim]);
            }
        });
        vectorize(
            #[inline(always)]
            || scores.chunks_exact_mut(len).for_each(|scores| softmax(scores, scale)),
        );
        sums.fill(0.0);
        values.each(|first, values| {
            for (sums, scores) in sums.chunks_exact_mut(dim).zip(scores.chunks_exact(len)) {
                math::add_rows(&scores[first..][..values.len() / dim], values, sums);
            }
        });
        vectorize(
            #[inline(always)]
            || convert::narrow(sums, out),
        );
    });
}

/// `x[i] = exp(scale x[i]) / sum_j exp(scale x[j])`.
#[inline(always)]
fn softmax(x: &mut [f32], scale: f32) {
    x.iter_mut().for_each(|x| *x *= scale);
    let max = math::max(x);
    x.iter_mut().for_each(|x| *x = math::exp(*x - max));
    let share = 1.0 / math::sum(x);
    x.iter_mut().for_each(|x| *x *= share);
}
