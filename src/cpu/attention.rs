use super::{
    device::Cpu,
    flash::{Blocks, Cut, Piece, panel, result_len, split_rows, write_rows},
    math, par,
    simd::{tile::tile, vectorize},
};
use crate::{
    buffer::{Mat, MatMut},
    element::Float,
    ops::{Attention, Prefix},
};
use rayon::prelude::*;
use std::ops::Range;

pub(super) use super::attention_grad::attention_grad;

pub(super) fn attention<T: Float>(op: Attention<'_, Cpu, T>) {
    let Attention { q, k, v, heads, cu_seqlens, max_len, prefix, scale, mut out, mut lse } = op;
    let (n, dim, group) = (q.rows, heads.dim, heads.q / heads.kv);
    let cut = Cut::new(cu_seqlens.slice(), n, max_len);
    let panels = &cut.panels;
    let prefix = prefix.map(|prefix| (cut_prefix(&prefix), prefix));
    let block_len = prefix.as_ref().map_or(0, |(cut, _)| cut.block_len).max(cut.block_len);
    for kv in 0..heads.kv {
        let head = |h: usize| h * dim..(h + 1) * dim;
        let own = Seen::new(k.columns(head(kv)), v.columns(head(kv)), &cut);
        let before = prefix.as_ref().map(|(cut, p)| Seen::new(p.k.columns(head(kv)), p.v.columns(head(kv)), cut));
        for h in kv * group..(kv + 1) * group {
            let q = q.columns(head(h));
            let out = out.reborrow().columns(head(h));
            let (stride, out) = (out.stride, split_rows(out, panels));
            let lse = split_rows(MatMut::new(lse.at_mut(h * n..(h + 1) * n), n, 1), panels);
            par::each(panels.par_iter().zip(out).zip(lse), |((piece, out), lse)| {
                let mut state = Online::new(dim, scale, block_len);
                let queries = panel(q, piece);
                before.iter().for_each(|before| state.run_before(piece, &queries, before));
                state.run(piece, &queries, &own);
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

/// The prefix of each sequence, whole.
fn cut_prefix<T: Float>(prefix: &Prefix<'_, Cpu, T>) -> Cut {
    let n = prefix.k.rows;
    let rows = |row: &[u32]| {
        let start = (row[0] as usize).min(n);
        start..start + (row[1] as usize).min(n - start)
    };
    let prefixes: Vec<_> = prefix.rows.slice().chunks_exact(2).map(rows).collect();
    let longest = prefixes.iter().map(Range::len).max();
    Cut::of(&prefixes, longest.unwrap_or(0))
}

/// Keys and values of one head.
struct Seen<'a> {
    cut: &'a Cut,
    keys: Blocks,
    values: Blocks,
}

impl<'a> Seen<'a> {
    fn new<T: Float>(k: Mat<'_, Cpu, T>, v: Mat<'_, Cpu, T>, cut: &'a Cut) -> Self {
        Seen { cut, keys: Blocks::by_row(k, cut), values: Blocks::by_column(v, cut) }
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

    /// The prefix of the panel's sequence: all of it, for each query.
    fn run_before(&mut self, panel: &Piece, queries: &[f32], before: &Seen<'_>) {
        for (block, piece) in before.cut.blocks_of(panel.index) {
            self.see(before, block, piece.rows.len(), queries, |_| 0);
        }
    }

    /// The rows of the panel's own sequence, up to each query.
    fn run(&mut self, panel: &Piece, queries: &[f32], own: &Seen<'_>) {
        let first = panel.rows.start;
        for (i, start) in (panel.sequence.start..panel.rows.end).step_by(panel.block_len).enumerate() {
            let count = panel.block_len.min(panel.rows.end - start);
            self.see(own, panel.first_block + i, count, queries, |key| (start + key).saturating_sub(first));
        }
    }

    /// The first `count` keys of a block; the first `hidden(key)` queries do not see one.
    fn see(&mut self, seen: &Seen<'_>, block: usize, count: usize, queries: &[f32], hidden: impl Fn(usize) -> usize) {
        let tiles = count.div_ceil(tile().rows) * tile().len();
        self.scores[..tiles].fill(0.0);
        seen.keys.multiply(block, self.dim, queries, &mut self.scores[..tiles]);
        vectorize(
            #[inline(always)]
            || self.weigh(count, &hidden),
        );
        seen.values.multiply(block, count, &self.scores, &mut self.sums);
    }

    /// Turns the scores of `count` keys into exponentials.
    #[inline(always)]
    fn weigh(&mut self, count: usize, hidden: impl Fn(usize) -> usize) {
        let lanes = self.max.len();
        let scores = &mut self.scores[..count * lanes];
        let before = self.max.clone();
        for (j, scores) in scores.chunks_exact_mut(lanes).enumerate() {
            mask_and_scale(scores, hidden(j), self.scale, f32::NEG_INFINITY);
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
