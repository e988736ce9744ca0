use super::check::{Check, Op};
use crate::{
    buffer::{Storage, View, ViewMut},
    error::Result,
};

/// `out[0] (+)= sum(x)`, in an order that depends only on the length.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, mut out) = (cpu.upload(&[1_f32, 2.0, 3.0])?, cpu.upload(&[10_f32])?);
/// Sum { x: x.view(), out: out.view_mut(), accumulate: true }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [16.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Sum<'a, B: Storage> {
    /// `[n]`.
    pub x: View<'a, B, f32>,
    /// `[1]`.
    pub out: ViewMut<'a, B, f32>,
    /// Adds to `out` instead of overwriting it.
    pub accumulate: bool,
}

impl<B: Storage> Op<B> for Sum<'_, B> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.view("x", &self.x)?;
        check.len_mut("out", &self.out, 1)
    }
}

/// `out[0] = sqrt(sum(x²))`, in an order that depends only on the length; not finite if any element is not.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, mut out) = (cpu.upload(&[3_f32, 4.0])?, cpu.zeros(1)?);
/// Norm { x: x.view(), out: out.view_mut() }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [5.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Norm<'a, B: Storage> {
    /// `[n]`.
    pub x: View<'a, B, f32>,
    /// `[1]`.
    pub out: ViewMut<'a, B, f32>,
}

impl<B: Storage> Op<B> for Norm<'_, B> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.view("x", &self.x)?;
        check.len_mut("out", &self.out, 1)
    }
}
