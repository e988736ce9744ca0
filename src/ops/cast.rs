use super::check::{Check, Op};
use crate::{
    buffer::{Storage, View, ViewMut},
    element::Float,
    error::Result,
};

/// `out[i] = x[i]`, rounded to `T`.
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
