use super::{
    dequantize_rows::{Int8, Plain, Rows},
    device::Cpu,
    par,
    rms_norm::{inverse_rms, norm_grad},
    simd::{convert, vectorize},
};
use crate::{
    buffer::{Mat, View, ViewMut},
    element::Float,
    ops::{CacheRows, Heads, KvMut, QkNormRope, QkNormRopeGrad},
};
use rayon::prelude::*;

/// The rows of cosines and sines at a position; the last ones beyond the table.
#[inline(always)]
pub(super) fn angles<'a>(
    cos: View<'a, Cpu, f32>,
    sin: View<'a, Cpu, f32>,
    position: u32,
    half: usize,
) -> (&'a [f32], &'a [f32]) {
    let row = (position as usize).min(cos.len() / half - 1);
    (&cos.slice()[row * half..][..half], &sin.slice()[row * half..][..half])
}

/// Rotates pairs `(u[i], u[i + d/2])` by the angle, or back when `sign` is -1.
#[inline(always)]
fn rotate(u: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (low, high) = u.split_at_mut(cos.len());
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let s = s * sign;
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

/// Norm and rotation of the heads `x`, through `u`, which has room for one in f32.
#[inline(always)]
pub(super) fn norm_rope<T: Float>(
    x: &[T],
    weight: View<'_, Cpu, f32>,
    eps: f32,
    (cos, sin): (&[f32], &[f32]),
    u: &mut [f32],
    out: &mut [T],
) {
    for (x, out) in x.chunks_exact(u.len()).zip(out.chunks_exact_mut(u.len())) {
        convert::widen(x, u);
        let r = inverse_rms(u, eps);
        u.iter_mut().zip(weight.slice()).for_each(|(u, w)| *u = *u * r * w);
        rotate(u, cos, sin, 1.0);
        convert::narrow(u, out);
    }
}

pub(super) fn qk_norm_rope<T: Float>(op: QkNormRope<'_, Cpu, T>) {
    let QkNormRope { qkv, heads, q_weight, k_weight, eps, positions, cos, sin, q, mut k, cache } = op;
    let d = heads.dim;
    let rows = par::rows_mut(q).zip(par::rows_mut(k.reborrow())).enumerate().with_min_len(par::grain(qkv.cols));
    par::each_with(
        rows,
        || vec![0.0; d],
        |u, (i, (q, k))| {
            let angles = angles(cos, sin, positions.slice()[i], d / 2);
            let (q_heads, rest) = qkv.row(i).split_at(heads.q * d);
            vectorize(
                #[inline(always)]
                || {
                    norm_rope(q_heads, q_weight, eps, angles, u, q);
                    norm_rope(rest, k_weight, eps, angles, u, k);
                },
            );
        },
    );
    if let Some(cache) = cache {
        append(k.mat(), qkv.columns((heads.q + heads.kv) * d..qkv.cols), heads, positions, cache);
    }
}

/// Keys and values of the tokens, row by row.
fn append<T: Float>(
    k: Mat<'_, Cpu, T>,
    v: Mat<'_, Cpu, T>,
    heads: Heads,
    positions: View<'_, Cpu, u32>,
    cache: CacheRows<'_, Cpu, T>,
) {
    let CacheRows { seqs, capacity, kv } = cache;
    let (width, sequence) = (k.cols, capacity * k.cols);
    let n_seqs = kv.len() / sequence;
    let places = seqs.slice().iter().zip(positions.slice()).map(|(&seq, &position)| (seq as usize, position as usize));
    let places = places.enumerate().filter(|(_, (seq, position))| *seq < n_seqs && *position < capacity);
    match kv {
        KvMut::Plain { k: k_cache, v: v_cache } => {
            let mut caches = [k_cache, v_cache].map(ViewMut::into_slice);
            for (i, (seq, position)) in places {
                for (cache, x) in caches.iter_mut().zip([k, v]) {
                    let rows = &mut cache[seq * sequence..][..sequence];
                    Plain { rows, width }.put(position, x.row(i));
                }
            }
        }
        KvMut::Int8 { k: k_cache, v: v_cache, k_scales, v_scales } => {
            let mut caches = [(k_cache, k_scales), (v_cache, v_scales)].map(|(c, s)| (c.into_slice(), s.into_slice()));
            let n_scales = capacity * heads.kv;
            for (i, (seq, position)) in places {
                for ((codes, scales), x) in caches.iter_mut().zip([k, v]) {
                    let codes = &mut codes[seq * sequence..][..sequence];
                    let scales = &mut scales[seq * n_scales..][..n_scales];
                    Int8 { codes, scales, dim: heads.dim, capacity }.put(position, x.row(i));
                }
            }
        }
    }
}

pub(super) fn qk_norm_rope_grad<T: Float>(op: QkNormRopeGrad<'_, Cpu, T>) {
    let QkNormRopeGrad { qkv, heads, q_weight, k_weight, eps, positions, cos, sin, d_q, d_k, d_qk } = op;
    let d = heads.dim;
    let rows = par::rows_mut(d_qk).enumerate().with_min_len(par::grain(qkv.cols));
    par::each_with(
        rows,
        || (vec![0.0; d], vec![0.0; d]),
        |(x, g), (i, d_qk)| {
            let (cos, sin) = angles(cos, sin, positions.slice()[i], d / 2);
            let d_outs = d_q.row(i).chunks(d).chain(d_k.row(i).chunks(d));
            vectorize(
                #[inline(always)]
                || {
                    for (((h, out), head), d_out) in
                        d_qk.chunks_mut(d).enumerate().zip(qkv.row(i).chunks(d)).zip(d_outs)
                    {
                        let weight = if h < heads.q { q_weight } else { k_weight };
                        convert::widen(head, x);
                        convert::widen(d_out, g);
                        rotate(g, cos, sin, -1.0);
                        g.iter_mut().zip(weight.slice()).for_each(|(g, w)| *g *= w);
                        norm_grad(x, eps, g);
                        convert::narrow(g, out);
                    }
                },
            );
        },
    );
}
