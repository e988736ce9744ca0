//! What a forward pass reads besides the weights, and linear layers with their adapters.

use super::weights::{MergedLinear, Norm};
use crate::error::Result;
use crate::lora::DeviceAdapter;
use halfbyte::{
    Backend, Float, Mat, MatMut,
    ops::{Dropout, Lora, Op},
};

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

/// What a forward pass reads besides the weights.
pub struct ForwardContext<'a, B: Backend, T: Float> {
    /// The machine.
    pub backend: &'a B,
    /// The adapter, if there is one.
    pub adapter: Option<&'a DeviceAdapter<B, T>>,
    /// Dropout, while training.
    pub dropout: Option<DropoutSeed>,
}

impl<B: Backend, T: Float> Clone for ForwardContext<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend, T: Float> Copy for ForwardContext<'_, B, T> {}

impl<'a, B: Backend, T: Float> ForwardContext<'a, B, T> {
    /// Without dropout.
    pub fn new(backend: &'a B, adapter: Option<&'a DeviceAdapter<B, T>>) -> Self {
        ForwardContext { backend, adapter, dropout: None }
    }

    /// Columns of the matrix that keeps `x Aᵀ` of a decoder layer.
    pub(super) fn xa_columns(&self) -> usize {
        self.adapter.map_or(0, |adapter| adapter.layout.xa_columns)
    }

    /// The mask of module `index`.
    pub(super) fn dropout(&self, index: usize) -> Option<Dropout> {
        self.dropout.map(|d| d.at(index))
    }

    /// Linear layers with their adapters: `out (+)= x Wᵀ + s (x Aᵀ) Bᵀ`.
    pub(super) fn project(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        x: Mat<'_, B, T>,
        xa: MatMut<'_, B, T>,
        mut out: MatMut<'_, B, T>,
        accumulate: bool,
    ) -> Result<()> {
        linear.forward(self.backend, x, out.reborrow(), accumulate)?;
        self.adapt(layer, linear, x, xa, out)
    }

    /// The same of a normed input: `out = rms_norm(x) Wᵀ + …`.
    pub(super) fn project_normed(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        mut norm: Norm<'_, B, T>,
        xa: MatMut<'_, B, T>,
        mut out: MatMut<'_, B, T>,
    ) -> Result<()> {
        linear.forward_normed(self.backend, norm.reborrow(), out.reborrow(), None)?;
        self.adapt(layer, linear, norm.out.mat(), xa, out)
    }

    /// Whether the adapter has a module for one of these linear layers.
    pub(super) fn adapts(&self, layer: usize, linear: &MergedLinear<B, T>) -> bool {
        let Some(adapter) = self.adapter else { return false };
        linear.modules.iter().any(|(projection, _)| adapter.layout.module(layer, *projection).is_some())
    }

    /// Adds what the adapter makes of `x` to `out`.
    fn adapt(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        x: Mat<'_, B, T>,
        mut xa: MatMut<'_, B, T>,
        mut out: MatMut<'_, B, T>,
    ) -> Result<()> {
        let Some(adapter) = self.adapter else { return Ok(()) };
        for (projection, columns) in &linear.modules {
            let Some(lora) = adapter.layout.module(layer, *projection) else { continue };
            Lora {
                x,
                a: adapter.a(lora),
                b: adapter.b(lora),
                scale: lora.scale,
                dropout: self.dropout(lora.index),
                xa: xa.reborrow().columns(lora.xa.clone()),
                out: out.reborrow().columns(columns.clone()),
            }
            .run(self.backend)?;
        }
        Ok(())
    }
}
