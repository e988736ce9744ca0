use super::{
    attention::{Heads, verify_scale},
    check::{Check, Op},
};
use crate::{
    buffer::{Mat, MatMut, Storage, View},
    element::Float,
    error::Result,
};

/// Attention of one new token for each sequence over its cache: row `b` attends to positions `0 ..= positions[b]`
/// of sequence `b` (whose last entry is its own, appended before). The formula is [`super::Attention`]'s.
pub struct DecodeAttention<'a, B: Storage, T: Float> {
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

impl<B: Storage, T: Float> Op<B> for DecodeAttention<'_, B, T> {
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
