use super::check::{Check, Op};
use crate::{
    buffer::{Storage, ViewMut},
    element::Float,
    error::Result,
    quant::Weight4,
};

/// Decodes a 4-bit weight: `out[i] = CODE[codes[i]] · absmax[i / block_size]`, multiplied in f32 and rounded once to `T`.
#[derive(Debug)]
pub struct Dequantize<'a, B: Storage, T: Float> {
    /// `[rows, cols]`.
    pub weight: Weight4<'a, B>,
    /// `[rows * cols]`.
    pub out: ViewMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for Dequantize<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        self.weight.verify(check)?;
        check.len_mut("out", &self.out, self.weight.rows * self.weight.cols)
    }
}
