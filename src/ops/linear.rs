use super::{Check, Op};
use crate::{Backend, Float, Mat, MatMut, Result, View};

/// `out (+)= x · weightᵀ` with a dense weight: `x` is `[n, in]`, `weight` `[out, in]`, `out` `[n, out]`.
///
/// Products are summed in f32. `O` is `T` or f32 (logits).
pub struct Linear<'a, B: Backend, T: Float, O: Float = T> {
    /// `[n, in]`.
    pub x: Mat<'a, B, T>,
    /// `[out, in]`, row-major without gaps.
    pub weight: View<'a, B, T>,
    /// `[n, out]`.
    pub out: MatMut<'a, B, O>,
    /// Adds to `out` instead of overwriting it; the product may be rounded to `O` before it is added.
    pub accumulate: bool,
}

impl<B: Backend, T: Float, O: Float> Op<B> for Linear<'_, B, T, O> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let ([n, k], [n_out, out]) = (self.x.shape(), self.out.shape());
        check.output_type::<T, O>()?;
        check.mat("x", &self.x, [n_out, k])?;
        check.mat_mut("out", &self.out, [n, out])?;
        check.len("weight", &self.weight, out * k)
    }
}

impl<B: Backend> Check<'_, B> {
    /// Kernels store their compute type or f32.
    pub(super) fn output_type<T: Float, O: Float>(&self) -> Result<()> {
        let ok = O::DTYPE == T::DTYPE || O::DTYPE == crate::DType::F32;
        self.value(ok, "the output type", O::DTYPE.suffix(), "it must be the input type or f32")
    }
}

/// The input gradient of [`Linear`]: `d_x (+)= d_out · weight`.
pub struct LinearGrad<'a, B: Backend, T: Float> {
    /// `[n, out]`.
    pub d_out: Mat<'a, B, T>,
    /// `[out, in]`, row-major without gaps.
    pub weight: View<'a, B, T>,
    /// `[n, in]`.
    pub d_x: MatMut<'a, B, T>,
    /// Adds to `d_x` instead of overwriting it; the product may be rounded to `T` before it is added.
    pub accumulate: bool,
}

impl<B: Backend, T: Float> Op<B> for LinearGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let ([n, out], [n_x, k]) = (self.d_out.shape(), self.d_x.shape());
        check.mat("d_out", &self.d_out, [n_x, out])?;
        check.mat_mut("d_x", &self.d_x, [n, k])?;
        check.len("weight", &self.weight, out * k)
    }
}
