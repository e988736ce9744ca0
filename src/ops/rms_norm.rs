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
