use super::check::{Check, Op};
use crate::{
    buffer::{Storage, View, ViewMut},
    element::Float,
    error::Result,
    quant::{Format, GROUP, Group, n_blocks},
};

/// Rounds `x` to 4 bits in blocks, bit for bit as bitsandbytes' `quantize_4bit` does.
///
/// The last block may be short; an odd last byte is padded with the code of 0.0. A block of zeros gets the code of 0.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*, quant::*};
///
/// let cpu = Cpu::new();
/// let x = cpu.upload(&[-2_f32, 0.0, 1.0, 2.0].repeat(16))?;
/// let (mut codes, mut absmax) = (cpu.zeros(32)?, cpu.zeros(1)?);
/// let (codes_out, absmax_out) = (codes.view_mut(), absmax.view_mut());
/// Quantize { x: x.view(), format: Format::Nf4, block_size: 64, codes: codes_out, absmax: absmax_out }.run(&cpu)?;
/// assert_eq!(absmax.to_vec(&cpu)?, [2.0]);
/// assert_eq!(codes.to_vec(&cpu)?, [0x07, 0xcf].repeat(16));
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Quantize<'a, B: Storage, T: Float> {
    /// `[len]`: a weight, row by row.
    pub x: View<'a, B, T>,
    /// Which codes.
    pub format: Format,
    /// One of [`crate::quant::BLOCK_SIZES`].
    pub block_size: usize,
    /// `[len / 2]`, rounded up; element `2j` in the high half of byte `j`.
    pub codes: ViewMut<'a, B, u8>,
    /// `[len / block_size]`, rounded up: the largest magnitude of each block.
    pub absmax: ViewMut<'a, B, f32>,
}

impl<B: Storage, T: Float> Op<B> for Quantize<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.view("x", &self.x)?;
        check.block_size(self.block_size)?;
        check.len_mut("codes", &self.codes, self.x.len().div_ceil(2))?;
        check.len_mut("absmax", &self.absmax, n_blocks(self.x.len(), self.block_size))
    }
}

/// Double quantisation: rounds absmax values to 8 bits in groups of [`GROUP`], bit for bit as bitsandbytes does.
///
/// `offset = mean(absmax)`; each group keeps the largest magnitude of `absmax - offset`, each value the index of
/// the entry of the signed dynamic map ([`crate::quant::DYNAMIC_MAP`]) nearest to its share of that, the share rounded
/// first to a grid of 65536 points, as bitsandbytes does.
/// The mean is summed in the order of PyTorch's CPU kernel on one thread, on every backend.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*, quant::*};
///
/// let cpu = Cpu::new();
/// let absmax = cpu.upload(&[1_f32, 3.0])?;
/// let (mut codes, mut groups) = (cpu.zeros(2)?, cpu.zeros(1)?);
/// NestAbsmax { absmax: absmax.view(), codes: codes.view_mut(), groups: groups.view_mut() }.run(&cpu)?;
/// assert_eq!(codes.to_vec(&cpu)?, [0, 255]);
/// assert_eq!(groups.to_vec(&cpu)?, [Group { absmax: 1.0, offset: 2.0 }]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct NestAbsmax<'a, B: Storage> {
    /// `[n]`.
    pub absmax: View<'a, B, f32>,
    /// `[n]`.
    pub codes: ViewMut<'a, B, u8>,
    /// `[n / 256]`, rounded up.
    pub groups: ViewMut<'a, B, Group>,
}

impl<B: Storage> Op<B> for NestAbsmax<'_, B> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.view("absmax", &self.absmax)?;
        check.dims(&[self.absmax.len()])?;
        check.len_mut("codes", &self.codes, self.absmax.len())?;
        check.len_mut("groups", &self.groups, self.absmax.len().div_ceil(GROUP))
    }
}
