use super::{
    check::{Check, Op, product_flops},
    lora::{Dropout, Lora, LoraGrad, Shapes, factor_flops},
};
use crate::{
    buffer::{Mat, MatMut, Storage, View, ViewMut},
    element::Float,
    error::Result,
    frozen::FrozenWeight,
};
use std::ops::Range;

/// Room for columns of `xa` behind an operand comes in so many: rows then begin at 128 bytes, and contractions are whole
/// tiles.
pub const LORA_ROOM: usize = 64;

/// An adapter of some outputs of a weight; see [`Lora`].
#[derive(Debug, Clone)]
pub struct LoraPart<'a, B: Storage, T: Float> {
    /// `A`, `[r, in]`.
    pub a: View<'a, B, T>,
    /// `B`, `[its outputs, r]`.
    pub b: View<'a, B, T>,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub scale: f32,
    /// On the adapter's input.
    pub dropout: Option<Dropout>,
    /// Its columns of `xa`: `r`.
    pub xa: Range<usize>,
    /// Its outputs among those of the weight.
    pub out: Range<usize>,
}

/// `out (+)= x · Wᵀ`, and for each adapter what [`Lora`] adds: [`super::Linear4`] or [`super::Linear`], and [`Lora`], one
/// after the other; on CUDA for one or two tokens in the sums of a product in 4 bits, and for many as one product of
/// `[x | xa]` with `[W | scale B]`, where `scale B` is rounded to `T`. A dense weight needs room for that
/// ([`crate::frozen::DenseBuf`]).
///
/// Columns of `xa` between the adapters', and behind the last to a multiple of 8, must be zeros.
///
/// ```
/// use halfbyte::{Backend, Cpu, FrozenWeight, ops::*, quant::*};
///
/// let cpu = Cpu::new();
/// let (codes, absmax) = (cpu.upload(&[0xff_u8; 64])?, cpu.upload(&[0.5_f32, 0.25])?);
/// let (format, block_size, scales) = (Format::Nf4, 64, Scales::Plain(absmax.view()));
/// let weight = Weight4 { format, block_size, rows: 2, cols: 64, codes: codes.view(), scales };
/// let (a, b) = (cpu.upload(&[1_f32; 64])?, cpu.upload(&[1_f32, -1.0])?);
/// let part = LoraPart { a: a.view(), b: b.view(), scale: 0.25, dropout: None, xa: 0..1, out: 0..2 };
/// let (mut x, mut xa, mut out) = (cpu.upload(&[1_f32; 64])?, cpu.zeros(1)?, cpu.zeros(2)?);
/// LoraLinear {
///     x: x.mat_mut(1, 64),
///     gate_up: None,
///     weight: FrozenWeight::Quantized(weight),
///     parts: &[part],
///     xa: xa.mat_mut(1, 1),
///     out: out.mat_mut(1, 2),
///     accumulate: false,
/// }
/// .run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [32.0 + 16.0, 16.0 - 16.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct LoraLinear<'a, B: Storage, T: Float> {
    /// `[n, in + room]`: what lies behind the input is scratch. One product takes room for all columns of `xa` from the
    /// first adapter's to the last one's, rounded up to a multiple of [`LORA_ROOM`].
    pub x: MatMut<'a, B, T>,
    /// `[n, 2 in]`, gate and up, of which [`super::Swiglu`] makes the input first; none where it is there. On CUDA one kernel
    /// makes it of many tokens and multiplies it with a single `A`.
    pub gate_up: Option<Mat<'a, B, T>>,
    /// `[out, in]`.
    pub weight: FrozenWeight<'a, B, T>,
    /// Adapters, no two of which have outputs or columns of `xa` in common.
    pub parts: &'a [LoraPart<'a, B, T>],
    /// `[n, _]`: the adapters' columns are written.
    pub xa: MatMut<'a, B, T>,
    /// `[n, out]`.
    pub out: MatMut<'a, B, T>,
    /// Adds the product to `out` instead of overwriting it.
    pub accumulate: bool,
}

impl<B: Storage, T: Float> Op<B> for LoraLinear<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let ([n, cols], [outputs, inputs]) = (self.x.shape(), self.weight.shape());
        self.weight.verify(check)?;
        check.value(cols >= inputs, "the columns of x", cols, "they must be the weight's and more")?;
        check.mat_mut("x", &self.x, [n, cols])?;
        if let Some(gate_up) = &self.gate_up {
            check.mat("gate_up", gate_up, [n, 2 * inputs])?;
        }
        check.mat_mut("xa", &self.xa, [n, self.xa.shape()[1]])?;
        check.mat_mut("out", &self.out, [n, outputs])?;
        let (x, xa, out) = (self.x.mat().columns(0..inputs), self.xa.mat(), ("out", self.out.mat()));
        LoraPart::verify_all(self.parts, check, x, xa, out)
    }

    fn flops(&self) -> f64 {
        forward_flops(self.x.shape()[0], self.weight.shape(), self.parts)
    }
}

/// Of the product and of its adapters.
pub(super) fn forward_flops<B: Storage, T: Float>(
    n: usize,
    [outputs, inputs]: [usize; 2],
    parts: &[LoraPart<'_, B, T>],
) -> f64 {
    let adapters = parts.iter().map(|part| part.a.len() + part.b.len()).sum();
    product_flops([n, outputs, inputs]) + factor_flops(n, adapters)
}

impl<'a, B: Storage, T: Float> LoraPart<'a, B, T> {
    /// The adapter alone, for all of `xa` and all outputs.
    pub fn lora<'s>(
        &'s self,
        x: Mat<'s, B, T>,
        xa: &'s mut MatMut<'_, B, T>,
        out: &'s mut MatMut<'_, B, T>,
    ) -> Lora<'s, B, T> {
        let LoraPart { a, b, scale, dropout, .. } = *self;
        let (xa, out) = (xa.reborrow().columns(self.xa.clone()), out.reborrow().columns(self.out.clone()));
        Lora { x, a, b, scale, dropout, xa, out }
    }

    /// Its gradients alone, for all of `xa`, `d_xa` and `d_out`.
    pub fn lora_grad<'s>(
        &'s self,
        [x, xa, d_out]: [Mat<'s, B, T>; 3],
        d_xa: &'s mut MatMut<'_, B, T>,
        LoraFactors { d_a, d_b }: LoraFactors<'s, B>,
        d_x: Option<MatMut<'s, B, T>>,
    ) -> LoraGrad<'s, B, T> {
        let LoraPart { a, b, scale, dropout, .. } = *self;
        let (xa, d_out) = (xa.columns(self.xa.clone()), d_out.columns(self.out.clone()));
        let d_xa = d_xa.reborrow().columns(self.xa.clone());
        LoraGrad { x, a, b, scale, dropout, xa, d_out, d_xa, d_a, d_b, d_x }
    }

    /// The columns of `xa` from the first adapter's to the last one's.
    pub(crate) fn span(parts: &[Self]) -> Range<usize> {
        let start = parts.iter().map(|part| part.xa.start).min().unwrap_or(0);
        start..parts.iter().map(|part| part.xa.end).max().unwrap_or(start)
    }

    pub(super) fn verify_all(
        parts: &[Self],
        check: &Check<'_, B>,
        x: Mat<'_, B, T>,
        xa: Mat<'_, B, T>,
        out: (&'static str, Mat<'_, B, T>),
    ) -> Result<()> {
        parts.iter().try_for_each(|part| part.verify(check, x, xa, out))?;
        let apart = |a: &Range<usize>, b: &Range<usize>| a.end <= b.start || b.end <= a.start;
        for (i, part) in parts.iter().enumerate() {
            for other in &parts[..i] {
                let got = format!("{:?} and {:?}", other.xa, part.xa);
                check.value(apart(&other.xa, &part.xa), "columns of xa", got, "adapters must not share any")?;
                let got = format!("{:?} and {:?}", other.out, part.out);
                check.value(apart(&other.out, &part.out), "outputs", got, "adapters must not share any")?;
            }
        }
        Ok(())
    }

    fn verify(
        &self,
        check: &Check<'_, B>,
        x: Mat<'_, B, T>,
        xa: Mat<'_, B, T>,
        (name, out): (&'static str, Mat<'_, B, T>),
    ) -> Result<()> {
        let LoraPart { a, b, dropout, .. } = *self;
        let within = |range: &Range<usize>, end: usize| range.start <= range.end && range.end <= end;
        let (columns, outputs) = (xa.shape()[1], out.shape()[1]);
        check.value(within(&self.xa, columns), "columns of xa", format!("{:?}", self.xa), "they must be some of it")?;
        check.value(within(&self.out, outputs), "outputs", format!("{:?}", self.out), "they must be the weight's")?;
        let (xa, out) = (xa.columns(self.xa.clone()), out.columns(self.out.clone()));
        Shapes { x, a, b, xa, out: (name, out), dropout }.verify(check)
    }
}

/// Gradients of an adapter's factors, which are added to.
#[derive(Debug)]
pub struct LoraFactors<'a, B: Storage> {
    /// `[r, in]`.
    pub d_a: ViewMut<'a, B, f32>,
    /// `[its outputs, r]`.
    pub d_b: ViewMut<'a, B, f32>,
}

/// The input of a product with adapters, which the gradients of `A` are taken from.
///
/// What is cheap to make is not kept: what it was made of is, and its gradient is made along, in which the input itself is
/// made again for less than by an op of its own.
#[derive(Debug)]
pub enum LoraInput<'a, B: Storage, T: Float> {
    /// `[n, in]`: it was kept.
    Kept(Mat<'a, B, T>),
    /// It was made by [`super::Swiglu`].
    Swiglu {
        /// `[n, 2 in]`: gate, then up; then their gradients.
        gate_up: MatMut<'a, B, T>,
    },
    /// It was made by [`super::RmsNorm`].
    RmsNorm {
        /// `[n, in]`, what was normalised.
        x: Mat<'a, B, T>,
        /// `[in]`.
        weight: View<'a, B, f32>,
        /// As in the forward op.
        eps: f32,
        /// `[n, in]`: its gradient is added to this.
        d_x: MatMut<'a, B, T>,
    },
}

impl<B: Storage, T: Float> LoraInput<'_, B, T> {
    /// Where the input is, or is made again: in `d_x`.
    pub(crate) fn place<'s>(&'s self, d_x: Option<&'s MatMut<'_, B, T>>) -> Option<Mat<'s, B, T>> {
        match self {
            LoraInput::Kept(x) => Some(*x),
            _ => d_x.map(MatMut::mat),
        }
    }

    fn verify(&self, check: &Check<'_, B>, [n, inputs]: [usize; 2]) -> Result<()> {
        match self {
            LoraInput::Kept(x) => check.mat("x", x, [n, inputs]),
            LoraInput::Swiglu { gate_up } => check.mat_mut("gate_up", gate_up, [n, 2 * inputs]),
            LoraInput::RmsNorm { x, weight, d_x, .. } => {
                check.mat("input.x", x, [n, inputs])?;
                check.len("input.weight", weight, inputs)?;
                check.mat_mut("input.d_x", d_x, [n, inputs])
            }
        }
    }
}

/// The gradients of [`LoraLinear`], and of what made its input where that was not kept: [`super::Linear4Grad`]
/// or [`super::LinearGrad`], [`LoraGrad`], and [`super::SwigluGrad`] or [`super::RmsNormGrad`]. For many tokens on CUDA and without dropout, `d_x` is
/// one product of `[d_out | d_xa]` with `W` above `A`.
///
/// ```
/// use halfbyte::{Backend, Cpu, FrozenWeight, ops::*, quant::*};
///
/// let cpu = Cpu::new();
/// let (codes, absmax) = (cpu.upload(&[0xff_u8; 64])?, cpu.upload(&[0.5_f32, 0.25])?);
/// let (format, block_size, scales) = (Format::Nf4, 64, Scales::Plain(absmax.view()));
/// let weight = Weight4 { format, block_size, rows: 2, cols: 64, codes: codes.view(), scales };
/// let (a, b) = (cpu.upload(&[1_f32; 64])?, cpu.upload(&[1_f32, -1.0])?);
/// let part = LoraPart { a: a.view(), b: b.view(), scale: 0.25, dropout: None, xa: 0..1, out: 0..2 };
/// let (x, xa, mut d_out) = (cpu.upload(&[1_f32; 64])?, cpu.upload(&[64_f32])?, cpu.upload(&[4_f32, 0.0])?);
/// let (mut d_a, mut d_b, mut d_xa, mut d_x) = (cpu.zeros(64)?, cpu.zeros(2)?, cpu.zeros(1)?, cpu.zeros(64)?);
/// LoraLinearGrad {
///     input: LoraInput::Kept(x.mat(1, 64)),
///     xa: xa.mat(1, 1),
///     weight: FrozenWeight::Quantized(weight),
///     parts: &[part],
///     factors: vec![LoraFactors { d_a: d_a.view_mut(), d_b: d_b.view_mut() }],
///     d_out: d_out.mat_mut(1, 2),
///     d_xa: d_xa.mat_mut(1, 1),
///     d_x: Some(d_x.mat_mut(1, 64)),
/// }
/// .run(&cpu)?;
/// assert_eq!((d_a.to_vec(&cpu)?, d_b.to_vec(&cpu)?), (vec![1.0; 64], vec![64.0, 0.0]));
/// assert_eq!(d_x.to_vec(&cpu)?, [2.0 + 1.0; 64]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct LoraLinearGrad<'a, B: Storage, T: Float> {
    /// The forward's input.
    pub input: LoraInput<'a, B, T>,
    /// `[n, _]`, from the forward op.
    pub xa: Mat<'a, B, T>,
    /// `[out, in]`.
    pub weight: FrozenWeight<'a, B, T>,
    /// As in the forward op.
    pub parts: &'a [LoraPart<'a, B, T>],
    /// As many as `parts`.
    pub factors: Vec<LoraFactors<'a, B>>,
    /// `[n, out + room]`: what lies behind the gradient is scratch, as in the forward op's `x`.
    pub d_out: MatMut<'a, B, T>,
    /// Shaped like `xa`, the adapters' columns are written: scratch. What lies between them must be zeros.
    pub d_xa: MatMut<'a, B, T>,
    /// `[n, in]`, written; none where nothing below needs it. Scratch where the input was not kept.
    pub d_x: Option<MatMut<'a, B, T>>,
}

impl<B: Storage, T: Float> Op<B> for LoraLinearGrad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let ([n, cols], [outputs, inputs]) = (self.d_out.shape(), self.weight.shape());
        self.weight.verify(check)?;
        check.value(cols >= outputs, "the columns of d_out", cols, "they must be the weight's rows and more")?;
        check.mat_mut("d_out", &self.d_out, [n, cols])?;
        self.input.verify(check, [n, inputs])?;
        check.mat("xa", &self.xa, [n, self.xa.shape()[1]])?;
        check.mat_mut("d_xa", &self.d_xa, self.xa.shape())?;
        let (got, want) = (self.factors.len(), self.parts.len());
        check.value(got == want, "the number of factors", got, "it must be that of the adapters")?;
        let d_out = ("d_out", self.d_out.mat().columns(0..outputs));
        if let Some(d_x) = &self.d_x {
            check.mat_mut("d_x", d_x, [n, inputs])?;
        }
        let Some(x) = self.input.place(self.d_x.as_ref()) else {
            return check.value(false, "d_x", "none", "an input that was not kept is made again in its place");
        };
        LoraPart::verify_all(self.parts, check, x, self.xa, d_out)?;
        for (part, factors) in self.parts.iter().zip(&self.factors) {
            check.len_mut("d_a", &factors.d_a, part.a.len())?;
            check.len_mut("d_b", &factors.d_b, part.b.len())?;
        }
        Ok(())
    }

    fn flops(&self) -> f64 {
        let (n, of_x) = (self.d_out.shape()[0], usize::from(self.d_x.is_some()));
        let [outputs, inputs] = self.weight.shape();
        let adapters = self.parts.iter().map(|part| (1 + of_x) * part.a.len() + 2 * part.b.len()).sum();
        product_flops([of_x * n, outputs, inputs]) + factor_flops(n, adapters)
    }
}
