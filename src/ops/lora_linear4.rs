use super::{
    check::{Check, Op},
    lora::{Dropout, Shapes},
};
use crate::{
    buffer::{Mat, MatMut, Storage, View, ViewMut},
    element::Float,
    error::Result,
    quant::Weight4,
};
use std::ops::Range;

/// An adapter of some outputs of a weight; see [`super::Lora`].
#[derive(Clone)]
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

/// `out (+)= x · Wᵀ`, and for each adapter what [`super::Lora`] adds: [`super::Linear4`] and [`super::Lora`] one after the
/// other, or, for many tokens on CUDA, one product of `[x | xa]` with `[W | scale B]`, where `scale B` is rounded to `T`.
///
/// No two adapters have outputs or columns of `xa` in common. Columns of `xa` between theirs must be zeros.
pub struct LoraLinear4<'a, B: Storage, T: Float> {
    /// `[n, in + room]`: what lies behind the input is scratch. One product takes room for all columns of `xa` from the
    /// first adapter's to the last one's, rounded up to a multiple of 64.
    pub x: MatMut<'a, B, T>,
    /// `[out, in]`.
    pub weight: Weight4<'a, B>,
    /// The adapters.
    pub parts: &'a [LoraPart<'a, B, T>],
    /// `[n, _]`: the adapters' columns are written.
    pub xa: MatMut<'a, B, T>,
    /// `[n, out]`.
    pub out: MatMut<'a, B, T>,
    /// Adds the product to `out` instead of overwriting it.
    pub accumulate: bool,
}

/// The columns of `xa` from the first adapter's to the last one's.
pub(crate) fn span<B: Storage, T: Float>(parts: &[LoraPart<'_, B, T>]) -> Range<usize> {
    let start = parts.iter().map(|part| part.xa.start).min().unwrap_or(0);
    start..parts.iter().map(|part| part.xa.end).max().unwrap_or(start)
}

impl<B: Storage, T: Float> Op<B> for LoraLinear4<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let ([n, cols], inputs) = (self.x.shape(), self.weight.cols);
        self.weight.verify(check)?;
        check.value(cols >= inputs, "the columns of x", cols, "they must be the weight's and more")?;
        check.mat_mut("x", &self.x, [n, cols])?;
        check.mat_mut("xa", &self.xa, [n, self.xa.shape()[1]])?;
        check.mat_mut("out", &self.out, [n, self.weight.rows])?;
        let (x, xa, out) = (self.x.mat().columns(0..inputs), self.xa.mat(), ("out", self.out.mat()));
        self.parts.iter().try_for_each(|part| part.verify(check, x, xa, out))
    }
}

impl<B: Storage, T: Float> LoraPart<'_, B, T> {
    pub(super) fn verify(
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
pub struct LoraFactors<'a, B: Storage> {
    /// `[r, in]`.
    pub d_a: ViewMut<'a, B, f32>,
    /// `[its outputs, r]`.
    pub d_b: ViewMut<'a, B, f32>,
}

/// The gradients of [`LoraLinear4`]: [`super::Linear4Grad`] and [`super::LoraGrad`], or, for many tokens on CUDA and
/// without dropout, `d_x` as one product of `[d_out | d_xa]` with `W` above `A`.
pub struct LoraLinear4Grad<'a, B: Storage, T: Float> {
    /// `[n, in]`, the forward's input.
    pub x: Mat<'a, B, T>,
    /// `[n, _]`, from the forward op.
    pub xa: Mat<'a, B, T>,
    /// `[out, in]`.
    pub weight: Weight4<'a, B>,
    /// As in the forward op.
    pub parts: &'a [LoraPart<'a, B, T>],
    /// As many as `parts`.
    pub factors: Vec<LoraFactors<'a, B>>,
    /// `[n, out + room]`: what lies behind the gradient is scratch, as in the forward op's `x`.
    pub d_out: MatMut<'a, B, T>,
    /// Shaped like `xa`, the adapters' columns are written: scratch. What lies between them must be zeros.
    pub d_xa: MatMut<'a, B, T>,
    /// `[n, in]`, written; none where nothing below needs it.
    pub d_x: Option<MatMut<'a, B, T>>,
}

impl<B: Storage, T: Float> Op<B> for LoraLinear4Grad<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let ([n, cols], Weight4 { rows: outputs, cols: inputs, .. }) = (self.d_out.shape(), self.weight);
        self.weight.verify(check)?;
        check.value(cols >= outputs, "the columns of d_out", cols, "they must be the weight's rows and more")?;
        check.mat_mut("d_out", &self.d_out, [n, cols])?;
        check.mat("x", &self.x, [n, inputs])?;
        check.mat("xa", &self.xa, [n, self.xa.shape()[1]])?;
        check.mat_mut("d_xa", &self.d_xa, self.xa.shape())?;
        let (got, want) = (self.factors.len(), self.parts.len());
        check.value(got == want, "the number of factors", got, "it must be that of the adapters")?;
        let d_out = ("d_out", self.d_out.mat().columns(0..outputs));
        for (part, factors) in self.parts.iter().zip(&self.factors) {
            part.verify(check, self.x, self.xa, d_out)?;
            check.len_mut("d_a", &factors.d_a, part.a.len())?;
            check.len_mut("d_b", &factors.d_b, part.b.len())?;
        }
        self.d_x.as_ref().map_or(Ok(()), |d_x| check.mat_mut("d_x", d_x, [n, inputs]))
    }
}
