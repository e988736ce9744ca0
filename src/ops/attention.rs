use super::check::{Check, Op};
use crate::{
    buffer::{Mat, MatMut, Storage, View, ViewMut},
    element::Float,
    error::Result,
};

/// The heads of a grouped-query attention layer: query head `h` reads key/value head `h / (q / kv)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub q: usize,
    /// Key and value heads; divides `q`.
    pub kv: usize,
    /// Elements of one head: 32, 64 or 128.
    pub dim: usize,
}

impl Heads {
    pub(crate) fn verify<B: Storage>(&self, check: &Check<'_, B>) -> Result<()> {
        check.dims(&[self.q, self.kv])?;
        let groups = self.kv > 0 && self.q > 0 && self.q.is_multiple_of(self.kv);
        check.value(groups, "heads", format!("{} / {}", self.q, self.kv), "kv heads must divide the query heads")?;
        verify_dim(check, self.dim)
    }
}

pub(super) fn verify_dim<B: Storage>(check: &Check<'_, B>, dim: usize) -> Result<()> {
    check.value([32, 64, 128].contains(&dim), "the head dimension", dim, "it must be 32, 64 or 128")
}

/// Kernels find the largest score before it is scaled.
pub(super) fn verify_scale<B: Storage>(check: &Check<'_, B>, scale: f32) -> Result<()> {
    check.value(scale > 0.0 && scale.is_finite(), "scale", scale, "it must be positive and finite")
}

/// Keys and values that sequences see, all of them, before their own: those of a text that several go on from.
#[derive(Debug)]
pub struct Prefix<'a, B: Storage, T: Float> {
    /// `[n_prefix, heads.kv dim]`; may be the keys of the sequences themselves.
    pub k: Mat<'a, B, T>,
    /// `[n_prefix, heads.kv dim]`.
    pub v: Mat<'a, B, T>,
    /// `[n_seqs, 2]`: of each sequence the first row, and how many. (Read by the device, which leaves rows out that are
    /// not there.)
    pub rows: View<'a, B, u32>,
}

impl<B: Storage, T: Float> Clone for Prefix<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Storage, T: Float> Copy for Prefix<'_, B, T> {}

impl<B: Storage, T: Float> Prefix<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>, heads: Heads, n_seqs: usize) -> Result<()> {
        let shape = [self.k.shape()[0], heads.kv * heads.dim];
        check.mat("prefix.k", &self.k, shape)?;
        check.mat("prefix.v", &self.v, shape)?;
        check.len("prefix.rows", &self.rows, 2 * n_seqs)
    }
}

/// Causal grouped-query attention over packed sequences, without the matrix of scores in memory.
///
/// Sequence `s` is rows `cu_seqlens[s] .. cu_seqlens[s + 1]`. For row `i` and head `h`, over the rows `j <= i` of the
/// same sequence and all of its prefix: `p[j] = exp(scale · q[i]·k[j] - lse)`, `out[i] = sum_j p[j] · v[j]`,
/// `lse = ln sum_j exp(scale · q[i]·k[j])` (Dao, "FlashAttention-2", 2023).
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// // A sequence of two tokens. Queries of zeros see all tokens alike.
/// let (q, v) = (cpu.zeros::<f32>(64)?, cpu.upload(&[[1_f32; 32], [3.0; 32]].concat())?);
/// let (cu_seqlens, mut out, mut lse) = (cpu.upload(&[0, 2])?, cpu.zeros(64)?, cpu.zeros(2)?);
/// Attention {
///     q: q.mat(2, 32),
///     k: v.mat(2, 32),
///     v: v.mat(2, 32),
///     heads: Heads { q: 1, kv: 1, dim: 32 },
///     cu_seqlens: cu_seqlens.view(),
///     max_len: 2,
///     prefix: None,
///     scale: 32_f32.powf(-0.5),
///     out: out.mat_mut(2, 32),
///     lse: lse.view_mut(),
/// }
/// .run(&cpu)?;
/// let want = [[1.0; 32], [2.0; 32]].concat();
/// assert!(out.to_vec(&cpu)?.iter().zip(want).all(|(out, want)| (out - want).abs() < 1e-5));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Attention<'a, B: Storage, T: Float> {
    /// `[n, heads.q dim]`.
    pub q: Mat<'a, B, T>,
    /// `[n, heads.kv dim]`.
    pub k: Mat<'a, B, T>,
    /// `[n, heads.kv dim]`.
    pub v: Mat<'a, B, T>,
    /// How many heads.
    pub heads: Heads,
    /// `[n_seqs + 1]`, from 0 to `n`, not falling. (Read by the device: the caller vouches for its contents.)
    pub cu_seqlens: View<'a, B, u32>,
    /// At least the longest sequence.
    pub max_len: usize,
    /// What sequences see before their own rows. There is no gradient with one.
    pub prefix: Option<Prefix<'a, B, T>>,
    /// `dim^-0.5`, or another positive number.
    pub scale: f32,
    /// `[n, heads.q dim]`.
    pub out: MatMut<'a, B, T>,
    /// `[heads.q, n]`.
    pub lse: ViewMut<'a, B, f32>,
}

impl<B: Storage, T: Float> Op<B> for Attention<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let Attention { q, k, v, heads, cu_seqlens, max_len, prefix, scale, ref out, ref lse } = *self;
        Shapes { q, k, v, heads, cu_seqlens, max_len, scale, out: out.mat(), lse: lse.view() }.verify(check)?;
        prefix.map_or(Ok(()), |prefix| prefix.verify(check, heads, cu_seqlens.len() - 1))
    }
}

/// What the check of an attention and of its gradient share.
struct Shapes<'a, B: Storage, T: Float> {
    q: Mat<'a, B, T>,
    k: Mat<'a, B, T>,
    v: Mat<'a, B, T>,
    heads: Heads,
    cu_seqlens: View<'a, B, u32>,
    max_len: usize,
    scale: f32,
    out: Mat<'a, B, T>,
    lse: View<'a, B, f32>,
}

impl<B: Storage, T: Float> Shapes<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let Heads { q, kv, dim } = self.heads;
        let n = self.q.shape()[0];
        self.heads.verify(check)?;
        check.mat("q", &self.q, [n, q * dim])?;
        check.mat("k", &self.k, [n, kv * dim])?;
        check.mat("v", &self.v, [n, kv * dim])?;
        check.view("cu_seqlens", &self.cu_seqlens)?;
        check.dims(&[self.max_len, self.cu_seqlens.len()])?;
        verify_scale(check, self.scale)?;
        check.value(self.cu_seqlens.len() >= 2, "cu_seqlens", self.cu_seqlens.len(), "it needs two entries or more")?;
        check.mat("out", &self.out, [n, q * dim])?;
        check.len("lse", &self.lse, q * n)
    }
}

/// The gradients of [`Attention`], from its output and `lse`; scores are computed again.
///
/// With `delta[i] = d_out[i]·out[i]`, `ds[i, j] = p[i, j] · (d_out[i]·v[j] - delta[i])`: `d_q[i] = scale · sum_j ds[i, j] k[j]`,
/// `d_k[j] = scale · sum_i ds[i, j] q[i]`, `d_v[j] = sum_i p[i, j] d_out[i]`, sums over the query heads of a group included.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// // As in the example of the forward op.
/// let (q, v) = (cpu.zeros::<f32>(64)?, cpu.upload(&[[1_f32; 32], [3.0; 32]].concat())?);
/// let (cu_seqlens, lse) = (cpu.upload(&[0, 2])?, cpu.upload(&[0.0, 2_f32.ln()])?);
/// let (out, d_out) = (cpu.upload(&[[1_f32; 32], [2.0; 32]].concat())?, cpu.upload(&[1_f32; 64])?);
/// let [mut delta, mut d_q, mut d_k, mut d_v] = [cpu.zeros(2)?, cpu.zeros(64)?, cpu.zeros(64)?, cpu.zeros(64)?];
/// AttentionGrad {
///     q: q.mat(2, 32),
///     k: v.mat(2, 32),
///     v: v.mat(2, 32),
///     heads: Heads { q: 1, kv: 1, dim: 32 },
///     cu_seqlens: cu_seqlens.view(),
///     max_len: 2,
///     scale: 32_f32.powf(-0.5),
///     out: out.mat(2, 32),
///     lse: lse.view(),
///     d_out: d_out.mat(2, 32),
///     delta: delta.view_mut(),
///     d_q: d_q.mat_mut(2, 32),
///     d_k: d_k.mat_mut(2, 32),
///     d_v: d_v.mat_mut(2, 32),
/// }
/// .run(&cpu)?;
/// let want = [[1.5; 32], [0.5; 32]].concat();
/// assert!(d_v.to_vec(&cpu)?.iter().zip(want).all(|(d, want)| (d - want).abs() < 1e-5));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct AttentionGrad<'a, B: Storage, T: Float> {
    /// `[n, heads.q dim]`.
    pub q: Mat<'a, B, T>,
    /// `[n, heads.kv dim]`.
    pub k: Mat<'a, B, T>,
    /// `[n, heads.kv dim]`.
    pub v: Mat<'a, B, T>,
    /// How many heads.
    pub heads: Heads,
    /// As in the forward op.
    pub cu_seqlens: View<'a, B, u32>,
    /// As in the forward op.
    pub max_len: usize,
    /// As in the forward op.
    pub scale: f32,
    /// `[n, heads.q dim]`, from the forward op.
    pub out: Mat<'a, B, T>,
    /// `[heads.q, n]`, from the forward op.
    pub lse: View<'a, B, f32>,
    /// `[n, heads.q dim]`.
    pub d_out: Mat<'a, B, T>,
    /// `[heads.q, n]`, written: scratch.
    pub delta: ViewMut<'a, B, f32>,
    /// `[n, heads.q dim]`.
    pub d_q: MatMut<'a, B, T>,
    /// `[n, heads.kv dim]`.
    pub d_k: MatMut<'a, B, T>,
    /// `[n, heads.kv dim]`.
    pub d_v: MatMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for AttentionGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let AttentionGrad { q, k, v, heads, cu_seqlens, max_len, scale, out, lse, .. } = *self;
        Shapes { q, k, v, heads, cu_seqlens, max_len, scale, out, lse }.verify(check)?;
        check.mat("d_out", &self.d_out, q.shape())?;
        check.len_mut("delta", &self.delta, lse.len())?;
        check.mat_mut("d_q", &self.d_q, q.shape())?;
        check.mat_mut("d_k", &self.d_k, k.shape())?;
        check.mat_mut("d_v", &self.d_v, v.shape())
    }
}
