//! The gradient of attention, in two passes over the scores: one for queries, one for keys and values. Each output
//! row is summed by one task in a fixed order.

use super::{
    device::Cpu,
    flash::{Blocks, Cut, Piece, panel, result_len, split_rows, write_rows},
    math, par,
    simd::{convert, tile::tile, vectorize},
};
use crate::{
    buffer::{Mat, MatMut},
    element::Float,
    ops::AttentionGrad,
};
use rayon::prelude::*;

pub(super) fn attention_grad<T: Float>(op: AttentionGrad<'_, Cpu, T>) {
    let AttentionGrad { q, k, v, heads, cu_seqlens, max_len, scale, out, lse, d_out, .. } = op;
    let AttentionGrad { mut delta, mut d_q, mut d_k, mut d_v, .. } = op;
    let (n, dim, group) = (q.rows, heads.dim, heads.q / heads.kv);
    let cut = Cut::new(cu_seqlens.slice(), n, max_len);
    let head = |h: usize| h * dim..(h + 1) * dim;
    for kv in 0..heads.kv {
        let (k, v) = (k.columns(head(kv)), v.columns(head(kv)));
        let keys = Keys::new(k, v, &cut);
        let queries: Vec<Queries> = (kv * group..(kv + 1) * group)
            .map(|h| {
                let (q, d_out) = (q.columns(head(h)), d_out.columns(head(h)));
                let delta = delta.at_mut(h * n..(h + 1) * n).into_slice();
                row_dots(out.columns(head(h)), d_out, delta);
                let queries = Queries::new(q, d_out, &lse.slice()[h * n..(h + 1) * n], delta, &cut);
                write_query_grads(&cut, [q, d_out], &queries, &keys, scale, d_q.reborrow().columns(head(h)));
                queries
            })
            .collect();
        let d_kv = [d_k.reborrow().columns(head(kv)), d_v.reborrow().columns(head(kv))];
        write_key_grads(&cut, [k, v], &queries, scale, d_kv);
    }
}

/// `d_q` of one head.
fn write_query_grads<T: Float>(
    cut: &Cut,
    [q, d_out]: [Mat<'_, Cpu, T>; 2],
    queries: &Queries,
    keys: &Keys,
    scale: f32,
    d_q: MatMut<'_, Cpu, T>,
) {
    let (dim, stride) = (d_q.cols, d_q.stride);
    par::each(cut.panels.par_iter().zip(split_rows(d_q, &cut.panels)), |(piece, d_q)| {
        let sums = query_grad(piece, &panel(q, piece), &panel(d_out, piece), dim, scale, queries, keys);
        vectorize(
            #[inline(always)]
            || write_rows(&sums, dim, stride, d_q, |_| scale),
        );
    });
}

/// `d_k` and `d_v` of one head.
fn write_key_grads<T: Float>(
    cut: &Cut,
    [k, v]: [Mat<'_, Cpu, T>; 2],
    queries: &[Queries],
    scale: f32,
    [d_k, d_v]: [MatMut<'_, Cpu, T>; 2],
) {
    let (dim, k_stride, v_stride) = (k.cols, d_k.stride, d_v.stride);
    let outs = split_rows(d_k, &cut.panels).into_par_iter().zip(split_rows(d_v, &cut.panels));
    par::each(cut.panels.par_iter().zip(outs), |(piece, (d_k, d_v))| {
        let [k_sums, v_sums] = key_grads(piece, &panel(k, piece), &panel(v, piece), dim, scale, queries);
        vectorize(
            #[inline(always)]
            || {
                write_rows(&k_sums, dim, k_stride, d_k, |_| scale);
                write_rows(&v_sums, dim, v_stride, d_v, |_| 1.0);
            },
        );
    });
}

/// The keys and values of one head.
struct Keys {
    k_rows: Blocks,
    k_columns: Blocks,
    v_rows: Blocks,
}

impl Keys {
    fn new<T: Float>(k: Mat<'_, Cpu, T>, v: Mat<'_, Cpu, T>, cut: &Cut) -> Self {
        Keys { k_rows: Blocks::by_row(k, cut), k_columns: Blocks::by_column(k, cut), v_rows: Blocks::by_row(v, cut) }
    }
}

/// One query head.
struct Queries<'a> {
    q_rows: Blocks,
    q_columns: Blocks,
    d_out_rows: Blocks,
    d_out_columns: Blocks,
    lse: &'a [f32],
    delta: Vec<f32>,
}

impl<'a> Queries<'a> {
    fn new<T: Float>(q: Mat<'_, Cpu, T>, d_out: Mat<'_, Cpu, T>, lse: &'a [f32], delta: &[f32], cut: &Cut) -> Self {
        Queries {
            q_rows: Blocks::by_row(q, cut),
            q_columns: Blocks::by_column(q, cut),
            d_out_rows: Blocks::by_row(d_out, cut),
            d_out_columns: Blocks::by_column(d_out, cut),
            lse,
            delta: delta.to_vec(),
        }
    }
}

/// `out[i] = a[i] · b[i]`, row by row.
fn row_dots<T: Float>(a: Mat<'_, Cpu, T>, b: Mat<'_, Cpu, T>, out: &mut [f32]) {
    par::each(out.par_iter_mut().enumerate().with_min_len(64), |(i, out)| {
        let (mut x, mut y) = ([0.0; 128], [0.0; 128]);
        let (x, y) = (&mut x[..a.cols], &mut y[..a.cols]);
        vectorize(
            #[inline(always)]
            || {
                convert::widen(a.row(i), x);
                convert::widen(b.row(i), y);
                *out = math::dot(x, y);
            },
        );
    });
}

/// The values of a panel's rows, zeros beyond them.
fn lanes(x: &[f32], piece: &Piece) -> Vec<f32> {
    let mut lanes = vec![0.0; tile().cols];
    lanes[..piece.rows.len()].copy_from_slice(&x[piece.rows.clone()]);
    lanes
}

/// `sum_j ds[i, j] k[j]` for a panel of queries, transposed.
fn query_grad(
    piece: &Piece,
    queries: &[f32],
    d_outs: &[f32],
    dim: usize,
    scale: f32,
    head: &Queries,
    keys: &Keys,
) -> Vec<f32> {
    let tile = tile();
    let (lse, delta) = (lanes(head.lse, piece), lanes(&head.delta, piece));
    let mut sums = vec![0.0; result_len(tile, dim)];
    let block_len = piece.block_len;
    let mut p = vec![0.0; block_len * tile.cols];
    let mut d_p = p.clone();
    for (i, start) in (piece.sequence.start..piece.rows.end).step_by(block_len).enumerate() {
        let block = piece.first_block + i;
        let count = block_len.min(piece.rows.end - start);
        let tiles = count.div_ceil(tile.rows) * tile.len();
        p[..tiles].fill(0.0);
        d_p[..tiles].fill(0.0);
        keys.k_rows.multiply(block, dim, queries, &mut p[..tiles]);
        keys.v_rows.multiply(block, dim, d_outs, &mut d_p[..tiles]);
        vectorize(
            #[inline(always)]
            || {
                let rows = p.chunks_exact_mut(tile.cols).zip(d_p.chunks_exact(tile.cols)).take(count);
                for (j, (p, d_p)) in rows.enumerate() {
                    let hidden = (start + j).saturating_sub(piece.rows.start).min(tile.cols);
                    for (((p, d_p), lse), delta) in p.iter_mut().zip(d_p).zip(&lse).zip(&delta) {
                        *p = math::exp(*p * scale - lse) * (d_p - delta);
                    }
                    p[..hidden].fill(0.0);
                }
            },
        );
        keys.k_columns.multiply(block, count, &p, &mut sums);
    }
    sums
}

/// `sum_i ds[i, j] q[i]` and `sum_i p[i, j] d_out[i]` for a panel of keys, over the query heads of the group, transposed.
fn key_grads(piece: &Piece, keys: &[f32], values: &[f32], dim: usize, scale: f32, heads: &[Queries]) -> [Vec<f32>; 2] {
    let tile = tile();
    let [mut k_sums, mut v_sums] = [(); 2].map(|_| vec![0.0; result_len(tile, dim)]);
    let block_len = piece.block_len;
    let [mut p, mut ds] = [(); 2].map(|_| vec![0.0; block_len * tile.cols]);
    let first = (piece.rows.start - piece.sequence.start) / block_len;
    for head in heads {
        let starts = (piece.sequence.start + first * block_len..piece.sequence.end).step_by(block_len);
        for (i, start) in starts.enumerate() {
            let block = piece.first_block + first + i;
            let count = block_len.min(piece.sequence.end - start);
            p.fill(0.0);
            ds.fill(0.0);
            head.q_rows.multiply(block, dim, keys, &mut p);
            head.d_out_rows.multiply(block, dim, values, &mut ds);
            vectorize(
                #[inline(always)]
                || {
                    let rows = p.chunks_exact_mut(tile.cols).zip(ds.chunks_exact_mut(tile.cols)).take(count);
                    for (i, (p, ds)) in rows.enumerate() {
                        let (lse, delta) = (head.lse[start + i], head.delta[start + i]);
                        // Query `start + i` sees this many of the panel's keys.
                        let seen = (start + i + 1).saturating_sub(piece.rows.start).min(tile.cols);
                        for (p, ds) in p.iter_mut().zip(ds.iter_mut()) {
                            *p = math::exp(*p * scale - lse);
                            *ds = *p * (*ds - delta);
                        }
                        p[seen..].fill(0.0);
                        ds[seen..].fill(0.0);
                    }
                },
            );
            head.d_out_columns.multiply(block, count, &p, &mut v_sums);
            head.q_columns.multiply(block, count, &ds, &mut k_sums);
        }
    }
    [k_sums, v_sums]
}
