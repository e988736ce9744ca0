use super::check::{Check, Op};
use crate::{
    buffer::{Storage, View, ViewMut},
    error::Result,
};

/// `out[0] (+)= sum(x)`, in an order that depends only on the length.
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
