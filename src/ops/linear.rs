use super::check::{Check, Op, product_flops};
use crate::{
    buffer::{Mat, MatMut, Storage, View},
    element::{DType, Float},
    error::Result,
};

/// `out (+)= x · weightᵀ` with a dense weight: `x` is `[n, in]`, `weight` `[out, in]`, `out` `[n, out]`.
///
/// Products are summed in f32. `O` is `T` or f32 (logits).
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, weight) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[3_f32, 4.0, 5.0, 6.0])?);
/// let mut out = cpu.zeros::<f32>(2)?;
/// let (x, weight) = (x.mat(1, 2), weight.view());
/// Linear { x, weight, out: out.mat_mut(1, 2), accumulate: false, settled: false }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [11.0, 17.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Linear<'a, B: Storage, T: Float, O: Float = T> {
    /// `[n, in]`.
    pub x: Mat<'a, B, T>,
    /// `[out, in]`, row-major without gaps.
    pub weight: View<'a, B, T>,
    /// `[n, out]`.
    pub out: MatMut<'a, B, O>,
    /// Adds to `out` instead of overwriting it; the product may be rounded to `O` before it is added.
    pub accumulate: bool,
    /// The weight was there before the backend was last waited for, or before the [`crate::backend::Backend::replay`] that this
    /// is part of, and is not written again. A GPU then reads it while ops before this one still run; the result is the same.
    pub settled: bool,
}

impl<B: Storage, T: Float, O: Float> Op<B> for Linear<'_, B, T, O> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.output_type::<T, O>()?;
        check.dense(("x", self.x), ("out", self.out.mat()), ("weight", self.weight))
    }

    fn flops(&self) -> f64 {
        product_flops([self.out.shape()[0], self.x.shape()[1], self.out.shape()[1]])
    }
}

impl<B: Storage> Check<'_, B> {
    /// A weight, or its gradient, between two matrices of as many rows: its inputs are the columns of one of them, its
    /// outputs those of the other.
    pub(super) fn dense<X: Float, Y: Float, W: Float>(
        &self,
        (name, x): (&'static str, Mat<'_, B, X>),
        (other_name, other): (&'static str, Mat<'_, B, Y>),
        (weight_name, weight): (&'static str, View<'_, B, W>),
    ) -> Result<()> {
        let ([n, cols], [other_n, other_cols]) = (x.shape(), other.shape());
        self.mat(name, &x, [other_n, cols])?;
        self.mat(other_name, &other, [n, other_cols])?;
        self.len(weight_name, &weight, cols * other_cols)
    }

    /// Kernels store their compute type or f32.
    pub(super) fn output_type<T: Float, O: Float>(&self) -> Result<()> {
        let ok = O::DTYPE == T::DTYPE || O::DTYPE == DType::F32;
        self.value(ok, "the output type", O::DTYPE.suffix(), "it must be the input type or f32")
    }
}

/// The input gradient of [`Linear`]: `d_x (+)= d_out · weight`.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (d_out, weight) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[3_f32, 4.0, 5.0, 6.0])?);
/// let mut d_x = cpu.zeros(2)?;
/// LinearGrad { d_out: d_out.mat(1, 2), weight: weight.view(), d_x: d_x.mat_mut(1, 2), accumulate: false }.run(&cpu)?;
/// assert_eq!(d_x.to_vec(&cpu)?, [13.0, 16.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct LinearGrad<'a, B: Storage, T: Float> {
    /// `[n, out]`.
    pub d_out: Mat<'a, B, T>,
    /// `[out, in]`, row-major without gaps.
    pub weight: View<'a, B, T>,
    /// `[n, in]`.
    pub d_x: MatMut<'a, B, T>,
    /// Adds to `d_x` instead of overwriting it; the product may be rounded to `T` before it is added.
    pub accumulate: bool,
}

impl<B: Storage, T: Float> Op<B> for LinearGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.dense(("d_out", self.d_out), ("d_x", self.d_x.mat()), ("weight", self.weight))
    }

    fn flops(&self) -> f64 {
        product_flops([self.d_x.shape()[0], self.d_x.shape()[1], self.d_out.shape()[1]])
    }
}
