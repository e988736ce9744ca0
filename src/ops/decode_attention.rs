use super::{Check, Heads, Op, attention::verify_scale};
use crate::{Backend, Float, Mat, MatMut, Result, View, ViewMut};

/// Stores keys and values of new tokens in a cache: row `i` goes to `cache[seqs[i], positions[i], :]`.
///
/// A row whose position is `capacity` or more, or whose sequence does not exist, is dropped.
pub struct CacheAppend<'a, B: Backend, T: Float> {
    /// `[n, width]`.
    pub k: Mat<'a, B, T>,
    /// `[n, width]`.
    pub v: Mat<'a, B, T>,
    /// `[n]`.
    pub seqs: View<'a, B, u32>,
    /// `[n]`.
    pub positions: View<'a, B, u32>,
    /// Positions of one sequence in the cache.
    pub capacity: usize,
    /// `[n_seqs, capacity, width]`.
    pub k_cache: ViewMut<'a, B, T>,
    /// `[n_seqs, capacity, width]`.
    pub v_cache: ViewMut<'a, B, T>,
}

impl<B: Backend, T: Float> Op<B> for CacheAppend<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let [n, width] = self.k.shape();
        check.mat("k", &self.k, [n, width])?;
        check.mat("v", &self.v, [n, width])?;
        check.len("seqs", &self.seqs, n)?;
        check.len("positions", &self.positions, n)?;
        check.dims(&[self.capacity])?;
        let row = self.capacity * width;
        check.view_mut("k_cache", &self.k_cache)?;
        check.value(
            row > 0 && self.k_cache.len().is_multiple_of(row),
            "k_cache",
            self.k_cache.len(),
            "it must hold whole sequences",
        )?;
        check.dims(&[self.k_cache.len() / row])?;
        check.len_mut("v_cache", &self.v_cache, self.k_cache.len())
    }
}

/// Attention of one new token for each sequence over its cache: row `b` attends to positions `0 ..= positions[b]`
/// of sequence `b` (whose last entry is its own, appended before). The formula is [`super::Attention`]'s.
pub struct DecodeAttention<'a, B: Backend, T: Float> {
    /// `[n_seqs, heads.q dim]`.
    pub q: Mat<'a, B, T>,
    /// `[n_seqs, capacity, heads.kv dim]`.
    pub k_cache: View<'a, B, T>,
    /// `[n_seqs, capacity, heads.kv dim]`.
    pub v_cache: View<'a, B, T>,
    /// How many heads.
    pub heads: Heads,
    /// `[n_seqs]`: each below `capacity`; larger ones count as `capacity - 1`.
    pub positions: View<'a, B, u32>,
    /// Positions of one sequence in the cache.
    pub capacity: usize,
    /// `dim^-0.5`, or another positive number.
    pub scale: f32,
    /// `[n_seqs, heads.q dim]`.
    pub out: MatMut<'a, B, T>,
}

impl<B: Backend, T: Float> Op<B> for DecodeAttention<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let Heads { q, kv, dim } = self.heads;
        let n = self.q.shape()[0];
        self.heads.verify(check)?;
        check.mat("q", &self.q, [n, q * dim])?;
        check.value(self.capacity > 0, "capacity", 0, "the cache must hold at least one position")?;
        check.dims(&[self.capacity])?;
        verify_scale(check, self.scale)?;
        // No view is as long as a product of three dimensions that wraps.
        let cache = (n * self.capacity).saturating_mul(kv * dim);
        check.len("k_cache", &self.k_cache, cache)?;
        check.len("v_cache", &self.v_cache, cache)?;
        check.len("positions", &self.positions, n)?;
        check.mat_mut("out", &self.out, [n, q * dim])
    }
}
