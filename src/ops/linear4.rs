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
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*, quant::*};
///
/// let cpu = Cpu::new();
/// // The code 15 of NF4 is 1: each row of the weight is its block's absmax, 64 times.
/// let (codes, absmax) = (cpu.upload(&[0xff_u8; 64])?, cpu.upload(&[0.5_f32, 0.25])?);
/// let (format, block_size, scales) = (Format::Nf4, 64, Scales::Plain(absmax.view()));
/// let weight = Weight4 { format, block_size, rows: 2, cols: 64, codes: codes.view(), scales };
/// let (x, mut out) = (cpu.upload(&[1_f32; 64])?, cpu.zeros::<f32>(2)?);
/// Linear4 { x: x.mat(1, 64), weight, out: out.mat_mut(1, 2), accumulate: false }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [32.0, 16.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
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
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*, quant::*};
///
/// let cpu = Cpu::new();
/// let (codes, absmax) = (cpu.upload(&[0xff_u8; 64])?, cpu.upload(&[0.5_f32, 0.25])?);
/// let (format, block_size, scales) = (Format::Nf4, 64, Scales::Plain(absmax.view()));
/// let weight = Weight4 { format, block_size, rows: 2, cols: 64, codes: codes.view(), scales };
/// let (d_out, mut d_x) = (cpu.upload(&[1_f32, 10.0])?, cpu.zeros::<f32>(64)?);
/// Linear4Grad { d_out: d_out.mat(1, 2), weight, d_x: d_x.mat_mut(1, 64), accumulate: false }.run(&cpu)?;
/// assert_eq!(d_x.to_vec(&cpu)?, [3.0; 64]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
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
