use super::{
    dequantize_rows::{self, Rows},
    device::Cpu,
    math, par,
    qk_norm_rope::{angles, norm_rope},
    simd::{convert, vectorize},
};
use crate::{
    buffer::{Mat, MatMut, View},
    element::Float,
    ops::{DecodeAttention, Heads, KvMut},
};
use rayon::prelude::*;

pub(super) fn decode_attention<T: Float>(op: DecodeAttention<'_, Cpu, T>) {
    let DecodeAttention { qkv, heads, q_weight, k_weight, eps, positions, cos, sin, capacity, scale, .. } = op;
    let tokens = Tokens { qkv, heads, q_weight, k_weight, eps, positions, cos, sin, capacity, scale };
    let width = heads.kv * heads.dim;
    match op.cache {
        KvMut::Plain { k, v } => {
            let [k, v] = [k, v].map(|cache| dequantize_rows::plain(cache, capacity, width));
            tokens.attend(k.zip(v), op.out);
        }
        KvMut::Int8 { k, v, k_scales, v_scales } => {
            let caches = [(k, k_scales), (v, v_scales)];
            let [k, v] = caches.map(|(codes, scales)| dequantize_rows::int8(codes, scales, capacity, heads));
            tokens.attend(k.zip(v), op.out);
        }
    }
}

/// What the op has beside the cache and the result.
struct Tokens<'a, T: Float> {
    qkv: Mat<'a, Cpu, T>,
    heads: Heads,
    q_weight: View<'a, Cpu, f32>,
    k_weight: View<'a, Cpu, f32>,
    eps: f32,
    positions: View<'a, Cpu, u32>,
    cos: View<'a, Cpu, f32>,
    sin: View<'a, Cpu, f32>,
    capacity: usize,
    scale: f32,
}

impl<T: Float> Tokens<'_, T> {
    /// `caches`: keys and values of each sequence.
    fn attend<R: Rows<T>>(&self, caches: impl IndexedParallelIterator<Item = (R, R)>, out: MatMut<'_, Cpu, T>) {
        par::each(par::rows_mut(out).zip(caches).enumerate(), |(b, (out, (mut keys, mut values)))| {
            self.append(b, &mut keys, &mut values);
            self.attend_one(b, &keys, &values, out);
        });
    }

    fn angles(&self, b: usize) -> (&[f32], &[f32]) {
        angles(self.cos, self.sin, self.positions.slice()[b], self.heads.dim / 2)
    }

    /// Key and value of the token, where there is room.
    fn append<R: Rows<T>>(&self, b: usize, keys: &mut R, values: &mut R) {
        let (Heads { q, kv, dim }, position) = (self.heads, self.positions.slice()[b] as usize);
        let (k, v) = self.qkv.row(b)[q * dim..].split_at(kv * dim);
        if position < self.capacity {
            let mut key = vec![T::default(); kv * dim];
            norm_rope(k, self.k_weight, self.eps, self.angles(b), &mut vec![0.0; dim], &mut key);
            keys.put(position, &key);
            values.put(position, v);
        }
    }

    fn attend_one<R: Rows<T>>(&self, b: usize, keys: &R, values: &R, out: &mut [T]) {
        let Heads { q, kv, dim } = self.heads;
        let (group, angles) = (q / kv, self.angles(b));
        let len = (self.positions.slice()[b] as usize).min(self.capacity - 1) + 1;
        let queries = self.qkv.row(b)[..q * dim].par_chunks(group * dim);
        par::each(out.par_chunks_mut(group * dim).zip(queries).enumerate(), |(head, (out, q))| {
            let rows = |rows| Head { rows, head, len, dim };
            par::with_scratch(group * dim, |queries| {
                vectorize(
                    #[inline(always)]
                    || {
                        // Rounded to `T`, through the place of the result.
                        norm_rope(q, self.q_weight, self.eps, angles, &mut queries[..dim], out);
                        convert::widen(out, queries);
                    },
                );
                attend(queries, rows(keys), rows(values), self.scale, out);
            });
        });
    }
}

/// One head of the first `len` rows of a sequence.
struct Head<'a, R> {
    rows: &'a R,
    head: usize,
    len: usize,
    dim: usize,
}

/// Rows of the cache that are widened at once.
const BLOCK: usize = 8;
/// Rows ahead at which memory is asked for: those of one head do not lie side by side.
const AHEAD: usize = 32;

impl<R> Head<'_, R> {
    /// Asks for the rows with which [`each`](Self::each) begins: nothing else foresees where they lie.
    fn prefetch<T: Float>(&self)
    where
        R: Rows<T>,
    {
        (0..AHEAD.min(self.len)).for_each(|row| self.rows.prefetch(row, self.head, self.dim));
    }

    /// Calls `f` with the number of the first and the elements of some rows at a time.
    fn each<T: Float>(&self, mut f: impl FnMut(usize, &[f32]))
    where
        R: Rows<T>,
    {
        let Head { rows, head, len, dim } = *self;
        par::with_scratch(BLOCK * dim, |wide| {
            for first in (0..len).step_by(BLOCK) {
                let wide = &mut wide[..BLOCK.min(len - first) * dim];
                vectorize(
                    #[inline(always)]
                    || {
                        for (wide, row) in wide.chunks_exact_mut(dim).zip(first..) {
                            if row + AHEAD < len {
                                rows.prefetch(row + AHEAD, head, dim);
                            }
                            rows.widen(row, head, wide);
                        }
                    },
                );
                f(first, wide);
            }
        });
    }
}

/// Attention of the `queries` of one group over the keys and values of their head.
fn attend<T: Float, R: Rows<T>>(queries: &[f32], keys: Head<'_, R>, values: Head<'_, R>, scale: f32, out: &mut [T]) {
    let (dim, len) = (keys.dim, keys.len);
    keys.prefetch();
    values.prefetch();
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
