use super::{
    check::{Check, Op},
    lora_linear::{LoraPart, forward_flops},
};
use crate::{
    buffer::{Mat, MatMut, Storage, View},
    element::Float,
    error::Result,
    quant::Weight4,
};

/// `normed = rms_norm(x)`, `out = normed · Wᵀ` with a 4-bit weight and, with `gated`, `gated = swiglu(out)`:
/// [`super::RmsNorm`], [`super::Linear4`] and [`super::Swiglu`] one after the other, in as few kernels as there are for it.
///
/// `x` is `[n, in]`, `W` `[out, in]`.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*, quant::*};
///
/// let cpu = Cpu::new();
/// let (codes, absmax) = (cpu.upload(&[0xff_u8; 64])?, cpu.upload(&[0.5_f32, 0.25])?);
/// let (format, block_size, scales) = (Format::Nf4, 64, Scales::Plain(absmax.view()));
/// let weight = Weight4 { format, block_size, rows: 2, cols: 64, codes: codes.view(), scales };
/// let (x, norm) = (cpu.upload(&[8_f32; 64])?, cpu.upload(&[1_f32; 64])?);
/// let (mut normed, mut out, mut none) = (cpu.zeros::<f32>(64)?, cpu.zeros(2)?, cpu.zeros(0)?);
/// NormLinear4 {
///     x: x.mat(1, 64),
///     norm: norm.view(),
///     eps: 0.0,
///     normed: normed.mat_mut(1, 64),
///     weight,
///     parts: &[],
///     xa: none.mat_mut(1, 0),
///     out: out.mat_mut(1, 2),
///     gated: None,
/// }
/// .run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [32.0, 16.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct NormLinear4<'a, B: Storage, T: Float> {
    /// `[n, in]`.
    pub x: Mat<'a, B, T>,
    /// `[in]`: the norm's weight.
    pub norm: View<'a, B, f32>,
    /// Added to the mean of squares.
    pub eps: f32,
    /// `[n, in]`.
    pub normed: MatMut<'a, B, T>,
    /// `[out, in]`.
    pub weight: Weight4<'a, B>,
    /// Adapters, no two of which have outputs or columns of `xa` in common.
    pub parts: &'a [LoraPart<'a, B, T>],
    /// `[n, _]`: the adapters' columns are written.
    pub xa: MatMut<'a, B, T>,
    /// `[n, out]`. With `gated`, what it holds afterwards is not defined.
    pub out: MatMut<'a, B, T>,
    /// `[n, out / 2]`.
    pub gated: Option<MatMut<'a, B, T>>,
}

impl<B: Storage, T: Float> Op<B> for NormLinear4<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let (n, [rows, cols]) = (self.x.shape()[0], [self.weight.rows, self.weight.cols]);
        self.weight.verify(check)?;
        check.value(cols > 0, "the row length", 0, "a norm needs at least one element")?;
        check.mat("x", &self.x, [n, cols])?;
        check.len("norm", &self.norm, cols)?;
        check.mat_mut("normed", &self.normed, [n, cols])?;
        check.mat_mut("out", &self.out, [n, rows])?;
        check.mat_mut("xa", &self.xa, [n, self.xa.shape()[1]])?;
        let (xa, out) = (self.xa.mat(), ("out", self.out.mat()));
        LoraPart::verify_all(self.parts, check, self.x, xa, out)?;
        let Some(gated) = &self.gated else { return Ok(()) };
        check.value(
            rows.is_multiple_of(2),
            "the weight's rows",
            rows,
            "they must be those of gate and as many of up",
        )?;
        check.mat_mut("gated", gated, [n, rows / 2])
    }

    fn flops(&self) -> f64 {
        forward_flops(self.x.shape()[0], [self.weight.rows, self.weight.cols], self.parts)
    }
}
