use super::check::{Check, Op};
use crate::{
    buffer::{Storage, View, ViewMut},
    element::Float,
    error::Result,
};

/// `out[i] = x[i]`, rounded to `T`.
///
/// ```
/// use halfbyte::{Backend, Cpu, half::bf16, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, mut out) = (cpu.upload(&[1_f32, 0.1])?, cpu.zeros::<bf16>(2)?);
/// Cast { x: x.view(), out: out.view_mut() }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [1.0, 0.1].map(bf16::from_f32));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Cast<'a, B: Storage, S: Float, T: Float> {
    /// `[n]`.
    pub x: View<'a, B, S>,
    /// `[n]`.
    pub out: ViewMut<'a, B, T>,
}

impl<B: Storage, S: Float, T: Float> Op<B> for Cast<'_, B, S, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.view("x", &self.x)?;
        check.len_mut("out", &self.out, self.x.len())
    }
}
