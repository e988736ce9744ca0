use super::{
    attention::{Heads, verify_dim},
    check::{Check, Op},
};
use crate::{
    buffer::{Mat, MatMut, Storage, ViewMut},
    element::Float,
    error::Result,
};

/// Keys and values of sequences in a cache, to write: a row for each of `capacity` positions.
#[derive(Debug)]
pub enum KvMut<'a, B: Storage, T: Float> {
    /// As they are.
    Plain {
        /// `[n_seqs, capacity, heads.kv d]`.
        k: ViewMut<'a, B, T>,
        /// `[n_seqs, capacity, heads.kv d]`.
        v: ViewMut<'a, B, T>,
    },
    /// In 8 bits: each head `x` of `d` elements as codes and a scale, of which [`DequantizeRows`] makes `x` again.
    ///
    /// With `m = max |x|`: `scale = m / 127`, and `code[i]` is the whole number next to `x[i] · (127 / m)`, ties to even;
    /// 0 where `m` is less than `2^-100`. Each operation is rounded to f32, so that backends agree to the bit. Where an
    /// element is not finite, neither is `scale`, and codes are 0.
    Int8 {
        /// `[n_seqs, capacity, heads.kv d]`.
        k: ViewMut<'a, B, i8>,
        /// `[n_seqs, capacity, heads.kv d]`.
        v: ViewMut<'a, B, i8>,
        /// `[n_seqs, heads.kv, capacity]`.
        k_scales: ViewMut<'a, B, f32>,
        /// `[n_seqs, heads.kv, capacity]`.
        v_scales: ViewMut<'a, B, f32>,
    },
}

impl<B: Storage, T: Float> KvMut<'_, B, T> {
    /// Elements of all keys.
    pub(crate) fn len(&self) -> usize {
        match self {
            KvMut::Plain { k, .. } => k.len(),
            KvMut::Int8 { k, .. } => k.len(),
        }
    }

    /// All keys are there, and as many values and scales; `rows` of them, where that is known.
    pub(super) fn verify(&self, check: &Check<'_, B>, heads: Heads, rows: Option<usize>) -> Result<()> {
        // No view is as long as a product of three dimensions that wraps.
        let len = rows.map_or(self.len(), |rows| rows.saturating_mul(heads.kv * heads.dim));
        match self {
            KvMut::Plain { k, v } => {
                check.len_mut("cache.k", k, len)?;
                check.len_mut("cache.v", v, len)
            }
            KvMut::Int8 { k, v, k_scales, v_scales } => {
                check.len_mut("cache.k", k, len)?;
                check.len_mut("cache.v", v, len)?;
                check.len_mut("cache.k_scales", k_scales, len / heads.dim)?;
                check.len_mut("cache.v_scales", v_scales, len / heads.dim)
            }
        }
    }
}

/// Keys or values of one sequence in 8 bits ([`KvMut::Int8`]) as `T` again: `out[i, h d + j] = scales[h, i] · codes[i, h d + j]`,
/// multiplied in f32 and rounded once.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// // One position of two heads of 32.
/// let codes = cpu.upload(&[[4_i8; 32], [-2; 32]].concat())?;
/// let (scales, mut out) = (cpu.upload(&[0.5_f32, 2.0])?, cpu.zeros::<f32>(64)?);
/// DequantizeRows { codes: codes.mat(1, 64), scales: scales.mat(2, 1), dim: 32, out: out.mat_mut(1, 64) }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [[2.0; 32], [-4.0; 32]].concat());
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct DequantizeRows<'a, B: Storage, T: Float> {
    /// `[n, heads d]`.
    pub codes: Mat<'a, B, i8>,
    /// `[heads, n]`.
    pub scales: Mat<'a, B, f32>,
    /// `d`: 32, 64 or 128.
    pub dim: usize,
    /// `[n, heads d]`.
    pub out: MatMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for DequantizeRows<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let (n, heads) = (self.codes.shape()[0], self.scales.shape()[0]);
        verify_dim(check, self.dim)?;
        check.dims(&[heads])?;
        check.mat("codes", &self.codes, [n, heads * self.dim])?;
        check.mat("scales", &self.scales, [heads, n])?;
        check.mat_mut("out", &self.out, [n, heads * self.dim])
    }
}
