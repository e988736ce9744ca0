//! What a forward pass reads besides the weights, and linear layers with their adapters.

use super::{
    dropped::DroppedRows,
    weights::{Adapters, MergedLinear, Norm},
};
use crate::{
    error::Result,
    lora::{DeviceAdapter, LoraModule},
};
use halfbyte::{
    Backend, Float, Mat, MatMut,
    ops::{Dropout, LoraLinear, LoraPart, Noise, Op, Swiglu},
};
use std::ops::Range;

/// Tokens up to which a product is bound by its weight, whatever the device.
const FEW: usize = 16;

/// Dropout of the adapters' inputs in one micro-batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutSeed {
    /// Probability.
    pub p: f32,
    /// The run's seed.
    pub seed: u64,
    /// Number of the micro-batch in the run.
    pub micro_batch: u64,
}

impl DropoutSeed {
    /// The mask of module `index`.
    fn at(&self, index: usize) -> Dropout {
        // 2^16 modules are more than any model has.
        Dropout { p: self.p, seed: self.seed, stream: self.micro_batch << 16 | index as u64 }
    }
}

/// The input of linear layers with the same input.
pub(super) struct Operand<'a, B: Backend, T: Float> {
    /// `[n, in + room]`
    pub x: MatMut<'a, B, T>,
    /// `[n, 2 in]`, of which SwiGLU makes it first; none where it is there.
    pub gate_up: Option<Mat<'a, B, T>>,
}

impl<'a, B: Backend, T: Float> From<MatMut<'a, B, T>> for Operand<'a, B, T> {
    fn from(x: MatMut<'a, B, T>) -> Self {
        Operand { x, gate_up: None }
    }
}

impl<'a, B: Backend, T: Float> Operand<'a, B, T> {
    /// Its `inputs` columns, once they are there.
    fn make(self, backend: &B, inputs: usize) -> Result<MatMut<'a, B, T>> {
        let mut x = self.x.columns(0..inputs);
        if let Some(gate_up) = self.gate_up {
            Swiglu { gate_up, out: x.reborrow() }.run(backend)?;
        }
        Ok(x)
    }
}

/// Noise on the embeddings of one micro-batch (NEFTune; Jain et al. 2023, arXiv:2310.05914): uniform in ±alpha / √(L d) for
/// sequences of up to `L` tokens and a hidden size of `d`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingNoise {
    /// alpha
    pub alpha: f32,
    /// The run's seed.
    pub seed: u64,
    /// Number of the micro-batch in the run.
    pub micro_batch: u64,
}

impl EmbeddingNoise {
    /// Adds it to `x`, `[n, d]`. `longest` is what transformers pads all sequences of a batch to.
    pub(super) fn add<B: Backend, T: Float>(self, backend: &B, x: MatMut<'_, B, T>, longest: usize) -> Result<()> {
        let bound = self.alpha / ((longest * x.shape()[1]) as f32).sqrt();
        // Behind the modules' dropout masks.
        let stream = self.micro_batch << 16 | 0xffff;
        Ok(Noise { x, bound, seed: self.seed, stream }.run(backend)?)
    }
}

/// What the adapters of linear layers work in.
pub(super) struct AdapterRows<'a, B: Backend, T: Float> {
    /// `[n, xa_columns]`
    pub xa: MatMut<'a, B, T>,
    /// With DoRA and dropout.
    pub dropped: &'a mut DroppedRows<B, T>,
}

/// What a forward pass reads besides the weights.
#[derive(Debug)]
pub struct ForwardContext<'a, B: Backend, T: Float> {
    /// The machine.
    pub backend: &'a B,
    /// The adapter, if there is one.
    pub adapter: Option<&'a DeviceAdapter<B, T>>,
    /// Dropout, while training.
    pub dropout: Option<DropoutSeed>,
    /// Noise on the embeddings, while training.
    pub noise: Option<EmbeddingNoise>,
}

impl<B: Backend, T: Float> Clone for ForwardContext<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend, T: Float> Copy for ForwardContext<'_, B, T> {}

impl<'a, B: Backend, T: Float> ForwardContext<'a, B, T> {
    /// Without dropout or noise.
    pub fn new(backend: &'a B, adapter: Option<&'a DeviceAdapter<B, T>>) -> Self {
        ForwardContext { backend, adapter, dropout: None, noise: None }
    }

    /// Columns that operands of products leave for it.
    pub(super) fn room(&self) -> usize {
        self.adapter.map_or(0, |adapter| adapter.layout.room)
    }

    /// Columns of the matrix that keeps `x Aᵀ` of a decoder layer.
    pub(super) fn xa_columns(&self) -> usize {
        self.adapter.map_or(0, |adapter| adapter.layout.xa_columns)
    }

    /// The mask of module `index`.
    pub(super) fn dropout(&self, index: usize) -> Option<Dropout> {
        self.dropout.map(|d| d.at(index))
    }

    /// Linear layers with their adapters: `out = x Wᵀ + s (x Aᵀ) Bᵀ`, and with DoRA
    /// `magnitude / norm` times that, but with dropout as in `dropped.rs`. Where there is memory for what is added, `[n, out]`,
    /// it is added to `out`.
    pub(super) fn project(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        input: Operand<'_, B, T>,
        rows: AdapterRows<'_, B, T>,
        mut out: MatMut<'_, B, T>,
        added: Option<MatMut<'_, B, T>>,
    ) -> Result<()> {
        let dora = self.is_dora() && self.adapts(layer, linear);
        if dora && self.dropout.is_some() {
            let x = input.make(self.backend, linear.in_features)?;
            return self.project_dropped(layer, linear, x.mat(), rows, out, added.is_some());
        }
        let xa = rows.xa;
        match added {
            Some(mut z) if dora => {
                self.product(layer, linear, input, xa, z.reborrow(), false)?;
                self.scale(layer, linear, z, Some(out))
            }
            added => {
                self.product(layer, linear, input, xa, out.reborrow(), added.is_some())?;
                self.scale(layer, linear, out, None)
            }
        }
    }

    /// Whether one of the layers has an adapter.
    fn adapts(&self, layer: usize, linear: &MergedLinear<B, T>) -> bool {
        !self.parts(layer, linear).is_empty()
    }

    /// `out (+)= x Wᵀ + s (x Aᵀ) Bᵀ`.
    pub(super) fn product(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        input: Operand<'_, B, T>,
        xa: MatMut<'_, B, T>,
        mut out: MatMut<'_, B, T>,
        accumulate: bool,
    ) -> Result<()> {
        let (backend, parts) = (self.backend, self.parts(layer, linear));
        if let (Some(weight), false) = (linear.whole(), parts.is_empty()) {
            let Operand { x, gate_up } = input;
            return Ok(LoraLinear { x, gate_up, weight, parts: &parts, xa, out, accumulate }.run(backend)?);
        }
        let x = input.make(backend, linear.in_features)?;
        linear.forward(backend, x.mat(), out.reborrow(), accumulate)?;
        Adapters { parts: &parts, xa }.add(backend, x.mat(), out)
    }

    /// The same of a normed input: `out = rms_norm(x) Wᵀ + …`, and `gated = swiglu(out)`, which may leave nothing in `out`.
    /// For few tokens all that is around the product is part of it; for many the adapters are.
    pub(super) fn project_normed(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        mut norm: Norm<'_, B, T>,
        rows: AdapterRows<'_, B, T>,
        mut out: MatMut<'_, B, T>,
        gated: Option<MatMut<'_, B, T>>,
    ) -> Result<()> {
        let (n, backend, parts) = (norm.x.shape()[0], self.backend, self.parts(layer, linear));
        if parts.is_empty() || n <= FEW && !self.is_dora() {
            return linear.forward_normed(backend, norm, Adapters { parts: &parts, xa: rows.xa }, out, gated);
        }
        norm.run(backend)?;
        self.project(layer, linear, norm.out.into(), rows, out.reborrow(), None)?;
        match gated {
            Some(gated) => Ok(Swiglu { gate_up: out.mat(), out: gated }.run(backend)?),
            None => Ok(()),
        }
    }

    /// The adapters of linear layers.
    pub(super) fn parts(&self, layer: usize, linear: &MergedLinear<B, T>) -> Vec<LoraPart<'_, B, T>> {
        let Some(adapter) = self.adapter else { return Vec::new() };
        let part = |(projection, columns): &(_, Range<usize>)| {
            let lora = adapter.layout.module(layer, *projection)?;
            Some(self.part(adapter, lora, columns.clone()))
        };
        linear.modules.iter().filter_map(part).collect()
    }

    /// The adapter of one of them, which has the outputs `out`.
    pub(super) fn part<'s>(
        &self,
        adapter: &'s DeviceAdapter<B, T>,
        lora: &LoraModule,
        out: Range<usize>,
    ) -> LoraPart<'s, B, T> {
        let (a, b, dropout) = (adapter.a(lora), adapter.b(lora), self.dropout(lora.index));
        LoraPart { a, b, scale: lora.scale, dropout, xa: lora.xa.clone(), out }
    }
}
