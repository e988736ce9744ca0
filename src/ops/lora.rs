use super::check::{Check, Op, product_flops};
use crate::{
    buffer::{Mat, MatMut, Storage, View, ViewMut},
    element::Float,
    error::Result,
    rng::philox_of,
};

/// Zeroes elements of an adapter's input with probability `p`, rounded to a 65536th that is neither none nor all, and
/// multiplies the others by the inverse of the share that is kept.
///
/// Element `(row, col)` is kept iff half `col % 2`, the lower one first, of word `col % 8 / 2` of
/// `philox_of::<7>([col / 8, row, stream, stream >> 32], seed)` is at least `p · 2¹⁶`: a pure function of the position,
/// so that the backward pass needs no stored mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// In `[0, 1)`.
    pub p: f32,
    /// The run's seed.
    pub seed: u64,
    /// Which mask: differs for each adapter and each micro-batch.
    pub stream: u64,
}

impl Dropout {
    /// Random halves of words below this are dropped.
    pub fn threshold(&self) -> u16 {
        if self.p > 0.0 { (f64::from(self.p) * 65_536.0).round().clamp(1.0, 65_535.0) as u16 } else { 0 }
    }

    /// What kept elements are multiplied by.
    pub fn scale(&self) -> f32 {
        65_536.0 / (65_536.0 - f32::from(self.threshold()))
    }

    pub(super) fn verify<B: Storage>(&self, check: &Check<'_, B>) -> Result<()> {
        check.value((0.0..1.0).contains(&self.p), "dropout", self.p, "it must be at least 0 and below 1")
    }

    /// Eight keep-flags: those of columns `8 · oct ..` of `row`.
    pub fn keep(&self, row: u32, oct: u32) -> [bool; 8] {
        let counter = [oct, row, self.stream as u32, (self.stream >> 32) as u32];
        let words = philox_of::<7>(counter, self.seed);
        std::array::from_fn(|i| (words[i / 2] >> (i % 2 * 16)) as u16 >= self.threshold())
    }
}

/// A low-rank adapter: `xa = drop(x) · Aᵀ`, `out += scale · xa · Bᵀ` (Hu et al., "LoRA", 2021).
///
/// `xa` is rounded to `T`, unscaled, and kept for the backward pass.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, a, b) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[1_f32, 1.0])?, cpu.upload(&[1_f32, -1.0])?);
/// let (mut xa, mut out) = (cpu.zeros(1)?, cpu.upload(&[10_f32, 10.0])?);
/// Lora {
///     x: x.mat(1, 2),
///     a: a.view(),
///     b: b.view(),
///     scale: 2.0,
///     dropout: None,
///     xa: xa.mat_mut(1, 1),
///     out: out.mat_mut(1, 2),
/// }
/// .run(&cpu)?;
/// assert_eq!((xa.to_vec(&cpu)?, out.to_vec(&cpu)?), (vec![3.0], vec![16.0, 4.0]));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Lora<'a, B: Storage, T: Float> {
    /// `[n, in]`.
    pub x: Mat<'a, B, T>,
    /// `A`, `[r, in]`.
    pub a: View<'a, B, T>,
    /// `B`, `[out, r]`.
    pub b: View<'a, B, T>,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub scale: f32,
    /// On the adapter's input.
    pub dropout: Option<Dropout>,
    /// `[n, r]`, written.
    pub xa: MatMut<'a, B, T>,
    /// `[n, out]`, added to.
    pub out: MatMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for Lora<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let Lora { x, a, b, dropout, .. } = *self;
        Shapes { x, a, b, xa: self.xa.mat(), out: ("out", self.out.mat()), dropout }.verify(check)
    }

    fn flops(&self) -> f64 {
        factor_flops(self.x.shape()[0], self.a.len() + self.b.len())
    }
}

/// Multiplications and additions of `n` tokens with so many elements of factors.
pub(super) fn factor_flops(n: usize, elements: usize) -> f64 {
    product_flops([n, elements, 1])
}

/// What the check of an adapter and of its gradient share.
pub(super) struct Shapes<'a, B: Storage, T: Float> {
    pub x: Mat<'a, B, T>,
    pub a: View<'a, B, T>,
    pub b: View<'a, B, T>,
    pub xa: Mat<'a, B, T>,
    /// The output or its gradient, and its name.
    pub out: (&'static str, Mat<'a, B, T>),
    pub dropout: Option<Dropout>,
}

impl<B: Storage, T: Float> Shapes<'_, B, T> {
    pub fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let (name, output) = self.out;
        let ([n, k], [_, r], [_, out]) = (self.x.shape(), self.xa.shape(), output.shape());
        check.mat("x", &self.x, [n, k])?;
        check.mat("xa", &self.xa, [n, r])?;
        check.mat(name, &output, [n, out])?;
        check.len("a", &self.a, r * k)?;
        check.len("b", &self.b, out * r)?;
        self.dropout.map_or(Ok(()), |dropout| dropout.verify(check))
    }
}

/// The gradients of [`Lora`].
///
/// `d_xa = scale · d_out · B` (rounded to `T`), `d_b += scale · d_outᵀ · xa`, `d_a += d_xaᵀ · drop(x)`,
/// `d_x += drop(d_xa · A)` with the forward's mask and scale.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, a, b) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[1_f32, 1.0])?, cpu.upload(&[1_f32, -1.0])?);
/// let (xa, d_out) = (cpu.upload(&[3_f32])?, cpu.upload(&[1_f32, 0.0])?);
/// let (mut d_xa, mut d_a, mut d_b, mut d_x) = (cpu.zeros(1)?, cpu.zeros(2)?, cpu.zeros(2)?, cpu.zeros(2)?);
/// LoraGrad {
///     x: x.mat(1, 2),
///     a: a.view(),
///     b: b.view(),
///     scale: 2.0,
///     dropout: None,
///     xa: xa.mat(1, 1),
///     d_out: d_out.mat(1, 2),
///     d_xa: d_xa.mat_mut(1, 1),
///     d_a: d_a.view_mut(),
///     d_b: d_b.view_mut(),
///     d_x: Some(d_x.mat_mut(1, 2)),
/// }
/// .run(&cpu)?;
/// assert_eq!((d_a.to_vec(&cpu)?, d_b.to_vec(&cpu)?), (vec![2.0, 4.0], vec![6.0, 0.0]));
/// assert_eq!(d_x.to_vec(&cpu)?, [2.0, 2.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct LoraGrad<'a, B: Storage, T: Float> {
    /// `[n, in]`, the forward's input.
    pub x: Mat<'a, B, T>,
    /// `A`, `[r, in]`.
    pub a: View<'a, B, T>,
    /// `B`, `[out, r]`.
    pub b: View<'a, B, T>,
    /// As in the forward op.
    pub scale: f32,
    /// As in the forward op.
    pub dropout: Option<Dropout>,
    /// `[n, r]`, from the forward op.
    pub xa: Mat<'a, B, T>,
    /// `[n, out]`.
    pub d_out: Mat<'a, B, T>,
    /// `[n, r]`, written: scratch.
    pub d_xa: MatMut<'a, B, T>,
    /// `[r, in]`, added to.
    pub d_a: ViewMut<'a, B, f32>,
    /// `[out, r]`, added to.
    pub d_b: ViewMut<'a, B, f32>,
    /// `[n, in]`, added to; none where nothing below needs it.
    pub d_x: Option<MatMut<'a, B, T>>,
}

impl<B: Storage, T: Float> Op<B> for LoraGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let LoraGrad { x, a, b, xa, d_out, dropout, .. } = *self;
        Shapes { x, a, b, xa, out: ("d_out", d_out), dropout }.verify(check)?;
        check.mat_mut("d_xa", &self.d_xa, xa.shape())?;
        check.len_mut("d_a", &self.d_a, a.len())?;
        check.len_mut("d_b", &self.d_b, b.len())?;
        match &self.d_x {
            Some(d_x) => check.mat_mut("d_x", d_x, x.shape()),
            None => Ok(()),
        }
    }

    fn flops(&self) -> f64 {
        let of_a = 1 + usize::from(self.d_x.is_some());
        factor_flops(self.x.shape()[0], of_a * self.a.len() + 2 * self.b.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_is_neither_none_nor_all_stays_so() {
        let of = |p| Dropout { p, seed: 0, stream: 0 };
        let thresholds = [0.0, 1e-9, 0.05, 0.25, 0.999_999].map(|p| of(p).threshold());
        assert_eq!(thresholds, [0, 1, 3277, 16_384, 65_535]);
        assert_eq!([0.0, 0.25, 0.5].map(|p| of(p).scale()), [1.0, 4.0 / 3.0, 2.0]);
    }
}
