use super::check::{Check, Op};
use crate::{
    buffer::{Storage, ViewMut},
    element::Float,
    error::Result,
    quant::Weight4,
};

/// Decodes a 4-bit weight: `out[i] = CODE[codes[i]] · absmax[i / block_size]`, multiplied in f32 and rounded once to `T`.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*, quant::*};
///
/// let cpu = Cpu::new();
/// let (codes, absmax, mut out) = (cpu.upload(&[0x07_u8, 0x7f])?, cpu.upload(&[2_f32])?, cpu.zeros::<f32>(4)?);
/// let (format, block_size, scales) = (Format::Nf4, 64, Scales::Plain(absmax.view()));
/// let weight = Weight4 { format, block_size, rows: 2, cols: 2, codes: codes.view(), scales };
/// Dequantize { weight, out: out.view_mut() }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [-2.0, 0.0, 0.0, 2.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
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
