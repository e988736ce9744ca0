use super::check::{Check, Op};
use crate::{
    buffer::{Mat, MatMut, Storage, View},
    element::Float,
    error::Result,
};

/// `out[i, :] = h / sqrt(mean(h²) + eps) · weight` with `h = x[i, :]`, or, with `add`, `h = x[i, :] + add.0[i, :]`,
/// which is also stored in `add.1` (the residual stream). All matrices are `[n, d]`.
///
/// Zhang and Sennrich, "Root mean square layer normalization" (2019). Statistics are f32.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, weight) = (cpu.upload(&[2_f32, 2.0, -2.0, 2.0])?, cpu.upload(&[1_f32, 2.0, 3.0, 4.0])?);
/// let mut out = cpu.zeros(4)?;
/// RmsNorm { x: x.mat(1, 4), add: None, weight: weight.view(), eps: 0.0, out: out.mat_mut(1, 4) }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [1.0, 2.0, -3.0, 4.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct RmsNorm<'a, B: Storage, T: Float> {
    /// `[n, d]`.
    pub x: Mat<'a, B, T>,
    /// What to add to `x` first, and where to store the sum (rounded to `T` before it is normalised).
    pub add: Option<(Mat<'a, B, T>, MatMut<'a, B, T>)>,
    /// `[d]`.
    pub weight: View<'a, B, f32>,
    /// Added to the mean of squares.
    pub eps: f32,
    /// `[n, d]`.
    pub out: MatMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for RmsNorm<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let shape = self.x.shape();
        verify_shapes(check, &self.x, &self.weight)?;
        if let Some((add, sum)) = &self.add {
            check.mat("add.0", add, shape)?;
            check.mat_mut("add.1", sum, shape)?;
        }
        check.mat_mut("out", &self.out, shape)
    }
}

/// What the check of a norm and of its gradient share.
fn verify_shapes<B: Storage, T: Float>(
    check: &Check<'_, B>,
    x: &Mat<'_, B, T>,
    weight: &View<'_, B, f32>,
) -> Result<()> {
    let [n, d] = x.shape();
    check.mat("x", x, [n, d])?;
    check.value(d > 0, "the row length", 0, "a norm needs at least one element")?;
    check.len("weight", weight, d)
}

/// The gradient of [`RmsNorm`] with respect to its (summed) input; the weight is frozen.
///
/// With `r = 1 / sqrt(mean(x²) + eps)`, `g = d_out · weight`: `d_x (+)= r · (g - x · r² · mean(g · x))`.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, weight) = (cpu.upload(&[2_f32, 2.0, -2.0, 2.0])?, cpu.upload(&[1_f32; 4])?);
/// let (d_out, mut d_x) = (cpu.upload(&[1_f32, 0.0, 0.0, 0.0])?, cpu.zeros(4)?);
/// RmsNormGrad {
///     x: x.mat(1, 4),
///     weight: weight.view(),
///     eps: 0.0,
///     d_out: d_out.mat(1, 4),
///     d_x: d_x.mat_mut(1, 4),
///     accumulate: false,
/// }
/// .run(&cpu)?;
/// assert_eq!(d_x.to_vec(&cpu)?, [0.375, -0.125, 0.125, -0.125]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct RmsNormGrad<'a, B: Storage, T: Float> {
    /// `[n, d]`, what was normalised (the sum, when there was one).
    pub x: Mat<'a, B, T>,
    /// `[d]`.
    pub weight: View<'a, B, f32>,
    /// As in the forward op.
    pub eps: f32,
    /// `[n, d]`.
    pub d_out: Mat<'a, B, T>,
    /// `[n, d]`.
    pub d_x: MatMut<'a, B, T>,
    /// Adds to `d_x` instead of overwriting it.
    pub accumulate: bool,
}

impl<B: Storage, T: Float> Op<B> for RmsNormGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let shape = self.x.shape();
        verify_shapes(check, &self.x, &self.weight)?;
        check.mat("d_out", &self.d_out, shape)?;
        check.mat_mut("d_x", &self.d_x, shape)
    }
}
