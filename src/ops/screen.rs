//! The largest outputs of a dense weight, of which most need not be computed: what the weight is in 8 bits says which.
//!
//! With `w` a row, `s q` the same in 8 bits, `x` a vector and `t y` the same in whole numbers, the output that [`Linear`]
//! computes is within `|x| |w - s q| + |x - t y| |s q|` of `s t (q · y)`, by Cauchy and Schwarz, and what f32 sums miss:
//! no more than `cols 2⁻²³ |x| |w|`, in whatever order. `q · y` is exact. So what is below another output by more than that
//! is not the largest, and what is below k others is not among the k largest.
//!
//! [`Linear`]: super::Linear

use super::check::{Check, Op};
use crate::{
    buffer::{Mat, MatMut, Storage, View, ViewMut},
    element::Float,
    error::Result,
};

/// Rounding of f32 sums, for each term: what they miss of the sum of all magnitudes.
pub(crate) const SUM_ERROR: f32 = 1.0 / (1 << 23) as f32;
/// Vectors whose norms multiply to less have no sum on the way that f32 cannot hold.
pub(crate) const SUMS_FIT: f32 = 1e38;

/// A dense weight in 8 bits, for [`LinearMax`]. Of each row `w`:
/// - `scale = max |w| / 127`, and `code[i]` the whole number next to `w[i] / scale`, ties to even; 0 where `scale` is 0;
/// - `error = |w - scale · code| + cols 2⁻²³ |w|`;
/// - `norm = |scale · code|`.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let weight = cpu.upload(&[12.7_f32, 0.1, 0.0, -2.54])?;
/// let (mut codes, mut bounds) = (cpu.zeros::<i8>(4)?, cpu.zeros(6)?);
/// Screen { weight: weight.mat(2, 2), codes: codes.view_mut(), bounds: bounds.mat_mut(3, 2) }.run(&cpu)?;
/// assert_eq!(codes.to_vec(&cpu)?, [127, 1, 0, -127]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct Screen<'a, B: Storage, T: Float> {
    /// `[rows, cols]`.
    pub weight: Mat<'a, B, T>,
    /// `rows cols`, in the backend's order: row by row, or what [`cpu::screen_codes`](crate::cpu::screen_codes) puts so.
    pub codes: ViewMut<'a, B, i8>,
    /// `[3, rows]`: `scale`, `error`, `norm`.
    pub bounds: MatMut<'a, B, f32>,
}

impl<B: Storage, T: Float> Op<B> for Screen<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let [rows, cols] = self.weight.shape();
        check.mat("weight", &self.weight, [rows, cols])?;
        check.len_mut("codes", &self.codes, rows * cols)?;
        check.mat_mut("bounds", &self.bounds, [3, rows])
    }
}

/// `out = x · weightᵀ` where an output may be among the `k` largest of its row, or less than the last of them by no more than a
/// millionth, to the bit what [`Linear`] gives; elsewhere that or minus infinity. It reads `codes`, and of `weight` the rows that
/// may be needed: for large `k` (above 256 on CUDA) all of them. For more vectors than [`Backend::most_screened`] says it is
/// [`Linear`].
///
/// [`Backend::most_screened`]: crate::backend::Backend::most_screened
/// [`Linear`]: super::Linear
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, weight) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[3_f32, 4.0, 50.0, 60.0])?);
/// let (mut codes, mut bounds) = (cpu.zeros::<i8>(4)?, cpu.zeros(6)?);
/// Screen { weight: weight.mat(2, 2), codes: codes.view_mut(), bounds: bounds.mat_mut(3, 2) }.run(&cpu)?;
/// let (codes, bounds, mut out) = (codes.view(), bounds.mat(3, 2), cpu.zeros(2)?);
/// LinearMax { x: x.mat(1, 2), weight: weight.mat(2, 2), codes, bounds, k: 1, out: out.mat_mut(1, 2) }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [f32::NEG_INFINITY, 170.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct LinearMax<'a, B: Storage, T: Float> {
    /// `[n, in]`.
    pub x: Mat<'a, B, T>,
    /// `[out, in]`.
    pub weight: Mat<'a, B, T>,
    /// `out in`: what [`Screen`] made of `weight`, or of one that begins with its rows.
    pub codes: View<'a, B, i8>,
    /// `[3, out]`: likewise.
    pub bounds: Mat<'a, B, f32>,
    /// How many of each row's largest outputs are looked for, 1 or more.
    pub k: usize,
    /// `[n, out]`.
    pub out: MatMut<'a, B, f32>,
}

impl<B: Storage, T: Float> Op<B> for LinearMax<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let ([_, cols], [_, rows]) = (self.x.shape(), self.out.shape());
        check.product(("x", self.x), ("out", self.out.mat()), self.weight)?;
        check.len("codes", &self.codes, rows * cols)?;
        check.mat("bounds", &self.bounds, [3, rows])?;
        check.value(self.k > 0, "k", self.k, "it must be 1 or more")
    }
}

/// What is less than the k-th largest output by no more than this share counts as it: so that outputs that a temperature
/// divides are the same numbers for whoever chooses among them, those included that are equal then.
pub(crate) const MARGIN: f32 = 1e-6;

/// What a vector of so many elements is rounded to, from `-levels` to `levels`: as fine as 16 bits are and 32-bit sums of
/// products with codes allow.
pub(crate) fn levels(cols: usize) -> f32 {
    (i32::MAX as usize / (127 * cols.max(1))).min(i16::MAX as usize) as f32
}
