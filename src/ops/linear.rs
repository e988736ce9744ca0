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
/// let (x, weight) = (x.mat(1, 2), weight.mat(2, 2));
/// Linear { x, weight, out: out.mat_mut(1, 2), accumulate: false, settled: false }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [11.0, 17.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Linear<'a, B: Storage, T: Float, O: Float = T> {
    /// `[n, in]`.
    pub x: Mat<'a, B, T>,
    /// `[out, in]`.
    pub weight: Mat<'a, B, T>,
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
        check.product(("x", self.x), ("out", self.out.mat()), self.weight)
    }

    fn flops(&self) -> f64 {
        product_flops([self.out.shape()[0], self.x.shape()[1], self.out.shape()[1]])
    }
}

/// A matrix and its name.
type Named<'a, B, T> = (&'static str, Mat<'a, B, T>);

impl<B: Storage> Check<'_, B> {
    /// A weight `[outputs, inputs]` between `[n, inputs]` and `[n, outputs]`.
    pub(super) fn product<X: Float, Y: Float, W: Float>(
        &self,
        x: Named<'_, B, X>,
        out: Named<'_, B, Y>,
        weight: Mat<'_, B, W>,
    ) -> Result<()> {
        let shape = self.sides(x, out)?;
        self.mat("weight", &weight, shape)
    }

    /// The same of a weight without gaps, or of its gradient.
    pub(super) fn dense<X: Float, Y: Float, W: Float>(
        &self,
        x: Named<'_, B, X>,
        out: Named<'_, B, Y>,
        (name, weight): (&'static str, View<'_, B, W>),
    ) -> Result<()> {
        let [outputs, inputs] = self.sides(x, out)?;
        self.len(name, &weight, outputs * inputs)
    }

    /// Outputs and inputs, of as many rows.
    fn sides<X: Float, Y: Float>(
        &self,
        (name, x): Named<'_, B, X>,
        (out_name, out): Named<'_, B, Y>,
    ) -> Result<[usize; 2]> {
        let ([n, inputs], [out_n, outputs]) = (x.shape(), out.shape());
        self.mat(name, &x, [out_n, inputs])?;
        self.mat(out_name, &out, [n, outputs])?;
        Ok([outputs, inputs])
    }

    /// Kernels store their compute type or f32.
    pub(super) fn output_type<T: Float, O: Float>(&self) -> Result<()> {
        let ok = O::DTYPE == T::DTYPE || O::DTYPE == DType::F32;
        if ok { Ok(()) } else { self.other_output(O::DTYPE) }
    }

    /// Refuses an output of another type.
    pub(crate) fn other_output(&self, output: DType) -> Result<()> {
        self.value(false, "the output type", output.suffix(), "it must be the input type or f32")
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
/// LinearGrad { d_out: d_out.mat(1, 2), weight: weight.mat(2, 2), d_x: d_x.mat_mut(1, 2), accumulate: false }.run(&cpu)?;
/// assert_eq!(d_x.to_vec(&cpu)?, [13.0, 16.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct LinearGrad<'a, B: Storage, T: Float> {
    /// `[n, out]`.
    pub d_out: Mat<'a, B, T>,
    /// `[out, in]`.
    pub weight: Mat<'a, B, T>,
    /// `[n, in]`.
    pub d_x: MatMut<'a, B, T>,
    /// Adds to `d_x` instead of overwriting it; the product may be rounded to `T` before it is added.
    pub accumulate: bool,
}

impl<B: Storage, T: Float> Op<B> for LinearGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.product(("d_x", self.d_x.mat()), ("d_out", self.d_out), self.weight)
    }

    fn flops(&self) -> f64 {
        product_flops([self.d_x.shape()[0], self.d_x.shape()[1], self.d_out.shape()[1]])
    }
}
