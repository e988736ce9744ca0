use super::{
    attention::{Heads, verify_scale},
    check::{Check, Op},
    dequantize_rows::KvMut,
    qk_norm_rope::Shapes,
};
use crate::{
    buffer::{Mat, MatMut, Storage, View},
    element::Float,
    error::Result,
};

/// One new token of each sequence: norm and rotation of its heads by [`super::QkNormRope`]'s formula, its key and value
/// into the cache at `[b, positions[b]]`, and the attention of its queries, each rounded to `T`, by
/// [`super::Attention`]'s formula over positions `0 ..= positions[b]` of sequence `b`.
///
/// With a cache in 8 bits ([`KvMut::Int8`]) keys and values are what [`super::DequantizeRows`] makes of it, those of the new
/// token too. A token whose position is `capacity` or more is left out of the cache, and sees all that is there.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// // The first token of a sequence sees itself alone.
/// let (qkv, positions, ones) = (cpu.upload(&[3_f32; 96])?, cpu.zeros(1)?, cpu.upload(&[1_f32; 32])?);
/// let (cos, sin) = (cpu.upload(&[1_f32; 16])?, cpu.zeros(16)?);
/// let (mut k_cache, mut v_cache, mut out) = (cpu.zeros(4 * 32)?, cpu.zeros(4 * 32)?, cpu.zeros(32)?);
/// DecodeAttention {
///     qkv: qkv.mat(1, 96),
///     heads: Heads { q: 1, kv: 1, dim: 32 },
///     q_weight: ones.view(),
///     k_weight: ones.view(),
///     eps: 0.0,
///     positions: positions.view(),
///     cos: cos.view(),
///     sin: sin.view(),
///     cache: KvMut::Plain { k: k_cache.view_mut(), v: v_cache.view_mut() },
///     capacity: 4,
///     settled: false,
///     scale: 32_f32.powf(-0.5),
///     out: out.mat_mut(1, 32),
/// }
/// .run(&cpu)?;
/// assert_eq!(v_cache.to_vec(&cpu)?, [[3.0; 32], [0.0; 32], [0.0; 32], [0.0; 32]].concat());
/// assert!(out.to_vec(&cpu)?.iter().all(|out| (out - 3.0).abs() < 1e-5));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct DecodeAttention<'a, B: Storage, T: Float> {
    /// `[n_seqs, (heads.q + 2 heads.kv) dim]`: queries, keys, values.
    pub qkv: Mat<'a, B, T>,
    /// How many heads, and `dim`.
    pub heads: Heads,
    /// `[dim]`.
    pub q_weight: View<'a, B, f32>,
    /// `[dim]`.
    pub k_weight: View<'a, B, f32>,
    /// Added to the mean of squares.
    pub eps: f32,
    /// `[n_seqs]`: those beyond the rows of `cos` are rotated by the last row.
    pub positions: View<'a, B, u32>,
    /// `[max_positions, dim / 2]`.
    pub cos: View<'a, B, f32>,
    /// `[max_positions, dim / 2]`.
    pub sin: View<'a, B, f32>,
    /// Of `n_seqs` sequences.
    pub cache: KvMut<'a, B, T>,
    /// Positions of one sequence in the cache.
    pub capacity: usize,
    /// Positions, and what the cache has of them, were there before the backend was last waited for, or before the
    /// [`crate::backend::Backend::replay`] that this is part of. A GPU then reads them while ops before this one still run; the
    /// result is the same. With `false` it waits for these first.
    pub settled: bool,
    /// `dim^-0.5`, or another positive number.
    pub scale: f32,
    /// `[n_seqs, heads.q dim]`.
    pub out: MatMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for DecodeAttention<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let DecodeAttention { qkv, heads, q_weight, k_weight, positions, cos, sin, .. } = *self;
        let n = qkv.shape()[0];
        Shapes { qkv, heads, q_weight, k_weight, positions, cos, sin }.verify(check)?;
        check.value(self.capacity > 0, "capacity", 0, "the cache must hold at least one position")?;
        check.dims(&[self.capacity])?;
        verify_scale(check, self.scale)?;
        self.cache.verify(check, heads, Some(n * self.capacity))?;
        check.mat_mut("out", &self.out, [n, heads.q * heads.dim])
    }
}
