//! Linear weights in a backend's memory: dense or 4-bit, the layers that share an input merged by rows.

use crate::config::Projection;
use crate::error::Result;
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut,
    ops::{Linear, Linear4, Linear4Grad, LinearGrad, Op},
    quant::{Format, ScaleBufs, Weight4},
};
use std::ops::Range;

/// A 4-bit weight `[rows, cols]` in bitsandbytes' layout.
pub struct QuantizedWeight<B: Backend> {
    pub(super) format: Format,
    pub(super) block_size: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// `[rows * cols / 2]`
    pub(super) codes: Buf<B, u8>,
    pub(super) scales: ScaleBufs<B>,
}

impl<B: Backend> QuantizedWeight<B> {
    /// The weight as ops take it.
    pub fn view(&self) -> Weight4<'_, B> {
        let QuantizedWeight { format, block_size, rows, cols, .. } = *self;
        Weight4 { format, block_size, rows, cols, codes: self.codes.view(), scales: self.scales.view() }
    }
}

/// A linear weight `[out, in]`.
pub enum Weight<B: Backend, T: Float> {
    /// In the compute type.
    Dense(Buf<B, T>),
    /// In 4 bits.
    Quantized(QuantizedWeight<B>),
}

impl<B: Backend, T: Float> Weight<B, T> {
    /// `out (+)= x Wᵀ`
    pub(super) fn forward<O: Float>(
        &self,
        backend: &B,
        x: Mat<'_, B, T>,
        out: MatMut<'_, B, O>,
        accumulate: bool,
    ) -> Result<()> {
        match self {
            Weight::Dense(weight) => Linear { x, weight: weight.view(), out, accumulate }.run(backend)?,
            Weight::Quantized(weight) => Linear4 { x, weight: weight.view(), out, accumulate }.run(backend)?,
        }
        Ok(())
    }

    /// `d_x (+)= d_out W`
    pub(super) fn backward(
        &self,
        backend: &B,
        d_out: Mat<'_, B, T>,
        d_x: MatMut<'_, B, T>,
        accumulate: bool,
    ) -> Result<()> {
        match self {
            Weight::Dense(weight) => LinearGrad { d_out, weight: weight.view(), d_x, accumulate }.run(backend)?,
            Weight::Quantized(weight) => Linear4Grad { d_out, weight: weight.view(), d_x, accumulate }.run(backend)?,
        }
        Ok(())
    }
}

/// Linear layers with one input, their outputs side by side.
///
/// Merged layers that are held alike share one weight; where they cannot (mixed checkpoints, scales that
/// do not line up), there are several parts.
pub struct MergedLinear<B: Backend, T: Float> {
    /// Weights and the columns of the output that they make.
    pub(super) parts: Vec<(Weight<B, T>, Range<usize>)>,
    /// The layers and the columns of the output that they make.
    pub(super) modules: Vec<(Projection, Range<usize>)>,
    pub(super) out_features: usize,
}

impl<B: Backend, T: Float> MergedLinear<B, T> {
    /// `out (+)= x Wᵀ`: x `[n, in]`, out `[n, out_features]`.
    pub(super) fn forward(
        &self,
        backend: &B,
        x: Mat<'_, B, T>,
        mut out: MatMut<'_, B, T>,
        accumulate: bool,
    ) -> Result<()> {
        for (weight, columns) in &self.parts {
            weight.forward(backend, x, out.reborrow().columns(columns.clone()), accumulate)?;
        }
        Ok(())
    }

    /// `d_x = d_out W`: d_out `[n, out_features]`, d_x `[n, in]`.
    pub(super) fn backward(&self, backend: &B, d_out: Mat<'_, B, T>, mut d_x: MatMut<'_, B, T>) -> Result<()> {
        for (i, (weight, columns)) in self.parts.iter().enumerate() {
            weight.backward(backend, d_out.columns(columns.clone()), d_x.reborrow(), i > 0)?;
        }
        Ok(())
    }
}
