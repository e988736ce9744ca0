use super::check::{Check, Op, product_flops};
use crate::{
    buffer::{Mat, Storage, ViewMut},
    element::Float,
    error::Result,
};

/// The weight gradient of [`super::Linear`], for a dense layer that is trained: `d_weight += d_outᵀ · x`, in f32.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, d_out) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[1_f32, 10.0])?);
/// let mut d_weight = cpu.zeros(4)?;
/// WeightGrad { x: x.mat(1, 2), d_out: d_out.mat(1, 2), d_weight: d_weight.view_mut() }.run(&cpu)?;
/// assert_eq!(d_weight.to_vec(&cpu)?, [1.0, 2.0, 10.0, 20.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct WeightGrad<'a, B: Storage, T: Float> {
    /// `[n, in]`.
    pub x: Mat<'a, B, T>,
    /// `[n, out]`.
    pub d_out: Mat<'a, B, T>,
    /// `[out, in]`.
    pub d_weight: ViewMut<'a, B, f32>,
}

impl<B: Storage, T: Float> Op<B> for WeightGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.dense(("x", self.x), ("d_out", self.d_out), ("d_weight", self.d_weight.view()))
    }

    fn flops(&self) -> f64 {
        product_flops([self.x.shape()[0], self.x.shape()[1], self.d_out.shape()[1]])
    }
}
