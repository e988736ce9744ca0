use super::{
    flash::{Blocks, Cut, Piece, panel, result_len, split_rows, write_rows},
    math,
    simd::{tile::tile, vectorize},
};
use crate::{Cpu, Float, MatMut, ops::Attention};
use rayon::prelude::*;

pub(super) use super::attention_grad::attention_grad;

pub(super) fn attention<T: Float>(op: Attention<'_, Cpu, T>) {
    let Attention { q, k, v, heads, cu_seqlens, max_len, scale, mut out, mut lse, .. } = op;
    let (n, dim, group) = (q.rows, heads.dim, heads.q / heads.kv);
    let cut = Cut::new(cu_seqlens.slice(), n, max_len);
    let panels = &cut.panels;
    for kv in 0..heads.kv {
        let head = |h: usize| h * dim..(h + 1) * dim;
        let keys = Blocks::by_row(k.columns(head(kv)), &cut);
        let values = Blocks::by_column(v.columns(head(kv)), &cut);
        for h in kv * group..(kv + 1) * group {
            let q = q.columns(head(h));
            let out = out.reborrow().columns(head(h));
            let (stride, out) = (out.stride, split_rows(out, panels));
            let lse = split_rows(MatMut::new(lse.at_mut(h * n..(h + 1) * n), n, 1), panels);
            panels.par_iter().zip(out).zip(lse).for_each(|((piece, out), lse)| {
                let mut state = Online::new(dim, scale, cut.block_len);
                let queries = panel(q, piece);
                state.run(piece, &queries, &keys, &values);
                vectorize(
                    #[inline(always)]
                    || {
                        write_rows(&state.sums, dim, stride, out, |lane| 1.0 / state.total[lane]);
                    },
                );
                for (lse, (max, total)) in lse.iter_mut().zip(state.max.iter().zip(&state.total)) {
                    *lse = max + total.ln();
                }
            });
        }
    }
}

/// Softmax over keys that come block by block, for a panel of queries (Milakov and Gimelshein, "Online normalizer
/// calculation for softmax", 2018).
struct Online {
    dim: usize,
    scale: f32,
    /// For each query, the largest score so far and the sum of exponentials relative to it.
    max: Vec<f32>,
    total: Vec<f32>,
    /// `[dim, queries]`: values weighted with the exponentials.
    sums: Vec<f32>,
    /// `[keys, queries]` of one block.
    scores: Vec<f32>,
}

impl Online {
    fn new(dim: usize, scale: f32, block_len: usize) -> Self {
        let tile = tile();
        Online {
            dim,
            scale,
            max: vec![f32::NEG_INFINITY; tile.cols],
            total: vec![0.0; tile.cols],
            sums: vec![0.0; result_len(tile, dim)],
            scores: vec![0.0; block_len * tile.cols],
        }
    }

    fn run(&mut self, piece: &Piece, queries: &[f32], keys: &Blocks, values: &Blocks) {
        let tile = tile();
        let block_len = piece.block_len;
        for (i, start) in (piece.sequence.start..piece.rows.end).step_by(block_len).enumerate() {
            let block = piece.first_block + i;
            let count = block_len.min(piece.rows.end - start);
            let tiles = count.div_ceil(tile.rows) * tile.len();
            self.scores[..tiles].fill(0.0);
            keys.multiply(block, self.dim, queries, &mut self.scores[..tiles]);
            vectorize(
                #[inline(always)]
                || self.weigh(count, start, piece.rows.start),
            );
            values.multiply(block, count, &self.scores, &mut self.sums);
        }
    }

    /// Turns the scores of `count` keys, the first of which is row `key`, into exponentials.
    #[inline(always)]
    fn weigh(&mut self, count: usize, key: usize, query: usize) {
        let lanes = self.max.len();
        let scores = &mut self.scores[..count * lanes];
        let before = self.max.clone();
        for (j, scores) in scores.chunks_exact_mut(lanes).enumerate() {
            mask_and_scale(scores, (key + j).saturating_sub(query), self.scale, f32::NEG_INFINITY);
            self.max.iter_mut().zip(scores).for_each(|(m, s)| *m = if *s > *m { *s } else { *m });
        }
        let shrink: Vec<f32> = before.iter().zip(&self.max).map(|(before, max)| math::exp(before - max)).collect();
        self.total.iter_mut().zip(&shrink).for_each(|(t, s)| *t *= s);
        for scores in scores.chunks_exact_mut(lanes) {
            for ((s, m), total) in scores.iter_mut().zip(&self.max).zip(&mut self.total) {
                *s = math::exp(*s - m);
                *total += *s;
            }
        }
        for sums in self.sums.chunks_exact_mut(lanes) {
            sums.iter_mut().zip(&shrink).for_each(|(x, s)| *x *= s);
        }
    }
}

/// Scales one key's scores; the queries before it, `hidden` lanes, get `masked`.
#[inline(always)]
pub(super) fn mask_and_scale(scores: &mut [f32], hidden: usize, scale: f32, masked: f32) {
    let hidden = hidden.min(scores.len());
    scores[..hidden].fill(masked);
    scores[hidden..].iter_mut().for_each(|s| *s *= scale);
}
