use super::check::{Check, Op, product_flops};
use crate::{
    buffer::{Mat, MatMut, Storage},
    element::Float,
    error::Result,
    quant::Weight4,
};

/// `out (+)= x · Wᵀ` with a 4-bit weight: `x` is `[n, in]`, `W` `[out, in]`, `out` `[n, out]`.
///
/// `W` is decoded to `T` (as [`super::Dequantize`] does) inside the kernel; products are summed in f32.
/// `O` is `T` or f32 (logits).
#[derive(Debug)]
pub struct Linear4<'a, B: Storage, T: Float, O: Float = T> {
    /// `[n, in]`.
    pub x: Mat<'a, B, T>,
    /// `[out, in]`.
    pub weight: Weight4<'a, B>,
    /// `[n, out]`.
    pub out: MatMut<'a, B, O>,
    /// Adds to `out` instead of overwriting it; the product may be rounded to `O` before it is added.
    pub accumulate: bool,
}

impl<B: Storage, T: Float, O: Float> Op<B> for Linear4<'_, B, T, O> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.output_type::<T, O>()?;
        let n = self.x.shape()[0];
        verify_shapes(check, n, &self.weight, ("x", self.x), ("out", self.out.mat()))
    }

    fn flops(&self) -> f64 {
        product_flops([self.x.shape()[0], self.weight.rows, self.weight.cols])
    }
}

/// A weight between `[n, in]` and `[n, out]`: its input and output, or the gradients of these.
fn verify_shapes<B: Storage, X: Float, Y: Float>(
    check: &Check<'_, B>,
    n: usize,
    weight: &Weight4<'_, B>,
    (x_name, x): (&'static str, Mat<'_, B, X>),
    (out_name, out): (&'static str, Mat<'_, B, Y>),
) -> Result<()> {
    weight.verify(check)?;
    check.mat(x_name, &x, [n, weight.cols])?;
    check.mat(out_name, &out, [n, weight.rows])
}

/// The input gradient of [`Linear4`]: `d_x (+)= d_out · W`.
#[derive(Debug)]
pub struct Linear4Grad<'a, B: Storage, T: Float> {
    /// `[n, out]`.
    pub d_out: Mat<'a, B, T>,
    /// `[out, in]`.
    pub weight: Weight4<'a, B>,
    /// `[n, in]`.
    pub d_x: MatMut<'a, B, T>,
    /// Adds to `d_x` instead of overwriting it; the product may be rounded to `T` before it is added.
    pub accumulate: bool,
}

impl<B: Storage, T: Float> Op<B> for Linear4Grad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let n = self.d_out.shape()[0];
        verify_shapes(check, n, &self.weight, ("d_x", self.d_x.mat()), ("d_out", self.d_out))
    }

    fn flops(&self) -> f64 {
        product_flops([self.d_out.shape()[0], self.weight.rows, self.weight.cols])
    }
}
