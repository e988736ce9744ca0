use super::{
    attention::Heads,
    check::{Check, Op},
    dequantize_rows::KvMut,
};
use crate::{
    buffer::{Mat, MatMut, Storage, View},
    element::Float,
    error::Result,
};

/// A cache of keys and values, and where those of new tokens go in it.
///
/// Token `i` goes to row `[seqs[i], positions[i]]`. One whose position is `capacity` or more, or whose sequence does not
/// exist, is left out.
#[derive(Debug)]
pub struct CacheRows<'a, B: Storage, T: Float> {
    /// `[n]`.
    pub seqs: View<'a, B, u32>,
    /// Positions of one sequence in the cache.
    pub capacity: usize,
    /// The cache itself.
    pub kv: KvMut<'a, B, T>,
}

impl<B: Storage, T: Float> CacheRows<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>, n: usize, heads: Heads) -> Result<()> {
        check.len("cache.seqs", &self.seqs, n)?;
        check.dims(&[self.capacity])?;
        let (row, len) = (self.capacity * heads.kv * heads.dim, self.kv.len());
        let whole = row > 0 && len.is_multiple_of(row);
        check.value(whole, "cache.k", len, "it must hold whole sequences")?;
        check.dims(&[len / row])?;
        self.kv.verify(check, heads, None)
    }
}

/// Normalises every query and key head, then rotates it by its position. With a cache, keys and values go there too.
///
/// For each head `h` of `d` elements: `u = h / sqrt(mean(h²) + eps) · weight`, then, with `c` and `s` the rows
/// of `cos` and `sin` at the token's position, `out[i] = u[i] · c[i] - u[i + d/2] · s[i]` and
/// `out[i + d/2] = u[i + d/2] · c[i] + u[i] · s[i]` for `i < d/2` (Su et al., "RoFormer", 2021; Qwen3 normalises first).
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let heads = Heads { q: 1, kv: 1, dim: 32 };
/// // One token, at a position where every pair is turned by 90 degrees.
/// let (qkv, positions, ones) = (cpu.upload(&[3_f32; 96])?, cpu.zeros(1)?, cpu.upload(&[1_f32; 32])?);
/// let (cos, sin, mut q, mut k) = (cpu.zeros(16)?, cpu.upload(&[1_f32; 16])?, cpu.zeros(32)?, cpu.zeros(32)?);
/// QkNormRope {
///     qkv: qkv.mat(1, 96),
///     heads,
///     q_weight: ones.view(),
///     k_weight: ones.view(),
///     eps: 0.0,
///     positions: positions.view(),
///     cos: cos.view(),
///     sin: sin.view(),
///     q: q.mat_mut(1, 32),
///     k: k.mat_mut(1, 32),
///     cache: None,
/// }
/// .run(&cpu)?;
/// let want = [[-1.0; 16], [1.0; 16]].concat();
/// assert!(q.to_vec(&cpu)?.iter().zip(want).all(|(q, want)| (q - want).abs() < 1e-6));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct QkNormRope<'a, B: Storage, T: Float> {
    /// `[n, (heads.q + 2 heads.kv) d]`: queries, keys, values. Values are read for a cache only.
    pub qkv: Mat<'a, B, T>,
    /// How many heads, and `d`.
    pub heads: Heads,
    /// `[d]`.
    pub q_weight: View<'a, B, f32>,
    /// `[d]`.
    pub k_weight: View<'a, B, f32>,
    /// Added to the mean of squares.
    pub eps: f32,
    /// `[n]`: each below the number of rows of `cos`; larger ones take the last row.
    pub positions: View<'a, B, u32>,
    /// `[max_positions, d / 2]`.
    pub cos: View<'a, B, f32>,
    /// `[max_positions, d / 2]`.
    pub sin: View<'a, B, f32>,
    /// `[n, heads.q d]`.
    pub q: MatMut<'a, B, T>,
    /// `[n, heads.kv d]`.
    pub k: MatMut<'a, B, T>,
    /// Where keys and values go beside.
    pub cache: Option<CacheRows<'a, B, T>>,
}

impl<B: Storage, T: Float> Op<B> for QkNormRope<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let QkNormRope { qkv, heads, q_weight, k_weight, positions, cos, sin, .. } = *self;
        let Heads { q, kv, dim } = heads;
        let n = qkv.shape()[0];
        Shapes { qkv, heads, q_weight, k_weight, positions, cos, sin }.verify(check)?;
        check.mat_mut("q", &self.q, [n, q * dim])?;
        check.mat_mut("k", &self.k, [n, kv * dim])?;
        self.cache.as_ref().map_or(Ok(()), |cache| cache.verify(check, n, heads))
    }
}

/// What the checks of the op, of its gradient and of [`super::DecodeAttention`] share.
pub(super) struct Shapes<'a, B: Storage, T: Float> {
    pub qkv: Mat<'a, B, T>,
    pub heads: Heads,
    pub q_weight: View<'a, B, f32>,
    pub k_weight: View<'a, B, f32>,
    pub positions: View<'a, B, u32>,
    pub cos: View<'a, B, f32>,
    pub sin: View<'a, B, f32>,
}

impl<B: Storage, T: Float> Shapes<'_, B, T> {
    pub fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let Heads { q, kv, dim } = self.heads;
        let n = self.qkv.shape()[0];
        self.heads.verify(check)?;
        check.mat("qkv", &self.qkv, [n, (q + 2 * kv) * dim])?;
        check.len("q_weight", &self.q_weight, dim)?;
        check.len("k_weight", &self.k_weight, dim)?;
        check.len("positions", &self.positions, n)?;
        check.view("cos", &self.cos)?;
        let rows = !self.cos.is_empty() && self.cos.len().is_multiple_of(dim / 2);
        check.value(rows, "cos", self.cos.len(), "it must hold whole rows of d / 2")?;
        check.dims(&[self.cos.len() / (dim / 2)])?;
        check.len("sin", &self.sin, self.cos.len())
    }
}

/// The gradient of [`QkNormRope`]: rotates back, then the gradient of the norm, head by head.
///
/// `d_qk` is only the query and key columns of the stacked gradient
/// (the attention gradient writes the value columns).
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let heads = Heads { q: 1, kv: 1, dim: 32 };
/// // As in the example of the forward op.
/// let (qkv, positions, ones) = (cpu.upload(&[1_f32; 96])?, cpu.zeros(1)?, cpu.upload(&[1_f32; 32])?);
/// let (cos, sin, mut d_qk) = (cpu.zeros(16)?, cpu.upload(&[1_f32; 16])?, cpu.zeros(64)?);
/// QkNormRopeGrad {
///     qkv: qkv.mat(1, 96),
///     heads,
///     q_weight: ones.view(),
///     k_weight: ones.view(),
///     eps: 0.0,
///     positions: positions.view(),
///     cos: cos.view(),
///     sin: sin.view(),
///     d_q: ones.mat(1, 32),
///     d_k: ones.mat(1, 32),
///     d_qk: d_qk.mat_mut(1, 64),
/// }
/// .run(&cpu)?;
/// let want = [[1.0; 16], [-1.0; 16]].concat().repeat(2);
/// assert!(d_qk.to_vec(&cpu)?.iter().zip(want).all(|(d, want)| (d - want).abs() < 1e-6));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct QkNormRopeGrad<'a, B: Storage, T: Float> {
    /// As in the forward op.
    pub qkv: Mat<'a, B, T>,
    /// As in the forward op.
    pub heads: Heads,
    /// `[d]`.
    pub q_weight: View<'a, B, f32>,
    /// `[d]`.
    pub k_weight: View<'a, B, f32>,
    /// As in the forward op.
    pub eps: f32,
    /// `[n]`.
    pub positions: View<'a, B, u32>,
    /// `[max_positions, d / 2]`.
    pub cos: View<'a, B, f32>,
    /// `[max_positions, d / 2]`.
    pub sin: View<'a, B, f32>,
    /// `[n, heads.q d]`.
    pub d_q: Mat<'a, B, T>,
    /// `[n, heads.kv d]`.
    pub d_k: Mat<'a, B, T>,
    /// `[n, (heads.q + heads.kv) d]`: queries, keys.
    pub d_qk: MatMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for QkNormRopeGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let QkNormRopeGrad { qkv, heads, q_weight, k_weight, positions, cos, sin, .. } = *self;
        let Heads { q, kv, dim } = heads;
        let n = qkv.shape()[0];
        Shapes { qkv, heads, q_weight, k_weight, positions, cos, sin }.verify(check)?;
        check.mat("d_q", &self.d_q, [n, q * dim])?;
        check.mat("d_k", &self.d_k, [n, kv * dim])?;
        check.mat_mut("d_qk", &self.d_qk, [n, (q + kv) * dim])
    }
}
