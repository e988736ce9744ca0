//! DoRA (Liu et al. 2024, arXiv:2402.09353): a layer whose weight is `magnitude / |W + s B A| · (W + s B A)`, row by row.
//! As in PEFT, the norm is a constant to the gradient, and dropout is of the whole weight's input.

use super::{
    check::{Check, Op},
    lora::Dropout,
};
use crate::{
    buffer::{Mat, MatMut, Storage, View, ViewMut},
    element::Float,
    error::Result,
};

/// `out[i] = sum(x[i, :]²)`.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, mut out) = (cpu.upload(&[1_f32, 2.0, 3.0, 4.0])?, cpu.zeros(2)?);
/// RowSquares { x: x.mat(2, 2), out: out.view_mut() }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [5.0, 25.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct RowSquares<'a, B: Storage, T: Float> {
    /// `[n, d]`.
    pub x: Mat<'a, B, T>,
    /// `[n]`.
    pub out: ViewMut<'a, B, f32>,
}

impl<B: Storage, T: Float> Op<B> for RowSquares<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let [n, d] = self.x.shape();
        check.mat("x", &self.x, [n, d])?;
        check.len_mut("out", &self.out, n)
    }
}

/// `norms[o] = |W[o, :] + scale · B[o, :] A|`, of what is small beside `W [out, in]` and its square: the root of
/// `squares[o] + 2 scale · B[o, :] · products[:, o] + scale² · B[o, :] gram B[o, :]ᵀ`, or 0 of what is below.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// // W = [3 0], A = [0 1], B = [4]: the row of W + B A is [3 4].
/// let (squares, products, gram, b) = (cpu.upload(&[9_f32])?, cpu.zeros(1)?, cpu.upload(&[1_f32])?, cpu.upload(&[4_f32])?);
/// let mut norms = cpu.zeros(1)?;
/// DoraNorms {
///     squares: squares.view(),
///     products: products.mat(1, 1),
///     gram: gram.view(),
///     b: b.view(),
///     scale: 1.0,
///     norms: norms.view_mut(),
/// }
/// .run(&cpu)?;
/// assert_eq!(norms.to_vec(&cpu)?, [5.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct DoraNorms<'a, B: Storage, T: Float> {
    /// `[out]`: of the rows of `W`.
    pub squares: View<'a, B, f32>,
    /// `A Wᵀ`, `[r, out]`.
    pub products: Mat<'a, B, f32>,
    /// `A Aᵀ`, `[r, r]`.
    pub gram: View<'a, B, f32>,
    /// `B`, `[out, r]`.
    pub b: View<'a, B, T>,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub scale: f32,
    /// `[out]`.
    pub norms: ViewMut<'a, B, f32>,
}

impl<B: Storage, T: Float> Op<B> for DoraNorms<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let [r, out] = self.products.shape();
        check.mat("products", &self.products, [r, out])?;
        check.len("squares", &self.squares, out)?;
        check.len("gram", &self.gram, r * r)?;
        check.len("b", &self.b, out * r)?;
        check.len_mut("norms", &self.norms, out)
    }
}

/// `z[:, o] *= magnitude[o] / norms[o]`, or, where there is a `sum`, `sum[:, o] += magnitude[o] / norms[o] · z[:, o]`, which
/// leaves `z` as it is. An output whose norm is 0 is multiplied by 0.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (mut z, magnitude, norms) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[3_f32, 1.0])?, cpu.upload(&[1_f32, 2.0])?);
/// Dora { z: z.mat_mut(1, 2), magnitude: magnitude.view(), norms: norms.view(), sum: None }.run(&cpu)?;
/// assert_eq!(z.to_vec(&cpu)?, [3.0, 1.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Dora<'a, B: Storage, T: Float> {
    /// `[n, out]`: `x Wᵀ + s (x Aᵀ) Bᵀ`.
    pub z: MatMut<'a, B, T>,
    /// `[out]`.
    pub magnitude: View<'a, B, f32>,
    /// `[out]`, from [`DoraNorms`].
    pub norms: View<'a, B, f32>,
    /// `[n, out]`, added to.
    pub sum: Option<MatMut<'a, B, T>>,
}

impl<B: Storage, T: Float> Op<B> for Dora<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        verify_shapes(check, &self.z.mat(), &self.magnitude, &self.norms)?;
        self.sum.as_ref().map_or(Ok(()), |sum| check.mat_mut("sum", sum, self.z.shape()))
    }
}

/// What the check of the op and of its gradient share.
fn verify_shapes<B: Storage, T: Float>(
    check: &Check<'_, B>,
    z: &Mat<'_, B, T>,
    magnitude: &View<'_, B, f32>,
    norms: &View<'_, B, f32>,
) -> Result<()> {
    let [n, out] = z.shape();
    check.mat("z", z, [n, out])?;
    check.len("magnitude", magnitude, out)?;
    check.len("norms", norms, out)
}

/// The gradients of [`Dora`]: `d_magnitude[o] += sum(d_out[:, o] · z[:, o]) / norms[o]`, and that of `z`,
/// `magnitude[o] / norms[o] · d_out[:, o]`, in the place of `d_out`.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (z, magnitude, norms) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[3_f32, 1.0])?, cpu.upload(&[1_f32, 2.0])?);
/// let (mut d_out, mut d_magnitude) = (cpu.upload(&[1_f32, 1.0])?, cpu.zeros(2)?);
/// DoraGrad {
///     z: z.mat(1, 2),
///     magnitude: magnitude.view(),
///     norms: norms.view(),
///     d_out: d_out.mat_mut(1, 2),
///     d_magnitude: d_magnitude.view_mut(),
/// }
/// .run(&cpu)?;
/// assert_eq!((d_out.to_vec(&cpu)?, d_magnitude.to_vec(&cpu)?), (vec![3.0, 0.5], vec![1.0, 1.0]));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct DoraGrad<'a, B: Storage, T: Float> {
    /// `[n, out]`, as it was before the forward op.
    pub z: Mat<'a, B, T>,
    /// `[out]`.
    pub magnitude: View<'a, B, f32>,
    /// `[out]`.
    pub norms: View<'a, B, f32>,
    /// `[n, out]`; then the gradient of `z`.
    pub d_out: MatMut<'a, B, T>,
    /// `[out]`, added to.
    pub d_magnitude: ViewMut<'a, B, f32>,
}

impl<B: Storage, T: Float> Op<B> for DoraGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        verify_shapes(check, &self.z, &self.magnitude, &self.norms)?;
        check.mat_mut("d_out", &self.d_out, self.z.shape())?;
        check.len_mut("d_magnitude", &self.d_magnitude, self.magnitude.len())
    }
}

/// `out (+)= drop(x)`, or what that leaves, `x - drop(x)`; both are their own gradients, since each element is multiplied by a number
/// that does not depend on it.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, mut out) = (cpu.upload(&[3_f32; 64])?, cpu.zeros(64)?);
/// let dropout = Dropout { p: 0.5, seed: 7, stream: 0 };
/// Dropped { x: x.mat(1, 64), dropout, rest: false, out: out.mat_mut(1, 64), accumulate: false }.run(&cpu)?;
/// assert!(out.to_vec(&cpu)?.iter().all(|x| [0.0, 6.0].contains(x)));
/// Dropped { x: x.mat(1, 64), dropout, rest: true, out: out.mat_mut(1, 64), accumulate: true }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [3.0; 64]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Dropped<'a, B: Storage, T: Float> {
    /// `[n, d]`.
    pub x: Mat<'a, B, T>,
    /// What is dropped.
    pub dropout: Dropout,
    /// Gives what `drop(x)` leaves of `x`.
    pub rest: bool,
    /// `[n, d]`.
    pub out: MatMut<'a, B, T>,
    /// Adds to `out` instead of overwriting it.
    pub accumulate: bool,
}

impl<B: Storage, T: Float> Dropped<'_, B, T> {
    /// What elements that are dropped, and that are kept, are multiplied by.
    pub(crate) fn factors(&self) -> [f32; 2] {
        let scale = self.dropout.scale();
        if self.rest { [1.0, 1.0 - scale] } else { [0.0, scale] }
    }
}

impl<B: Storage, T: Float> Op<B> for Dropped<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.mat("x", &self.x, self.x.shape())?;
        check.mat_mut("out", &self.out, self.x.shape())?;
        self.dropout.verify(check)
    }
}

/// What an output is multiplied by.
pub(crate) fn factor(magnitude: f32, norm: f32) -> f32 {
    if norm > 0.0 { magnitude / norm } else { 0.0 }
}
