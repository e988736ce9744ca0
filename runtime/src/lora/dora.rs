//! What DoRA needs on a device beside the adapter: magnitudes, and norms of the adapted weights with what they come from.

use super::layout::{Layout, LoraModule};
use crate::{
    config::{Projection, Qwen3Config},
    error::Result,
};
use halfbyte::{Backend, Buf, View, elements};
use std::ops::Range;

/// Vectors of `[layout.magnitudes.len()]`, in f32: in a type of 16 bits a magnitude would be off by more than training
/// moves it.
pub(crate) struct DoraBuffers<B: Backend> {
    /// Copied from the master weights.
    pub magnitudes: Buf<B, f32>,
    /// Of the frozen weights' rows.
    pub squares: Buf<B, f32>,
    /// Of the rows with what the adapter adds.
    pub norms: Buf<B, f32>,
    /// `A Wᵀ` of the module in hand, `[r, out]`.
    pub products: Buf<B, f32>,
    /// `A Aᵀ` of the module in hand, `[r, r]`.
    pub gram: Buf<B, f32>,
}

/// Elements of [`DoraBuffers`].
fn lengths(layout: &Layout) -> Result<[usize; 5]> {
    let largest = |size: fn(&LoraModule) -> usize| layout.modules.iter().map(size).max().unwrap_or(0);
    let n = layout.magnitudes.len();
    let gram = largest(|lora| lora.rank);
    Ok([n, n, n, largest(|lora| lora.rank * lora.out_features), elements::<f32>(&[gram, gram])?])
}

impl<B: Backend> DoraBuffers<B> {
    /// With the magnitudes of `flat`.
    pub fn new(backend: &B, layout: &Layout, flat: &[f32]) -> Result<Self> {
        let [_, squares, norms, products, gram] = lengths(layout)?;
        Ok(DoraBuffers {
            magnitudes: backend.upload(&flat[layout.magnitudes.clone()])?,
            squares: backend.zeros(squares)?,
            norms: backend.zeros(norms)?,
            products: backend.zeros(products)?,
            gram: backend.zeros(gram)?,
        })
    }

    /// The magnitudes and the norms of a module, `[out]` each.
    pub fn of(&self, layout: &Layout, lora: &LoraModule) -> [View<'_, B, f32>; 2] {
        let at = layout.among_magnitudes(lora);
        [self.magnitudes.at(at.clone()), self.norms.at(at)]
    }
}

impl Layout {
    /// Whether it is one of DoRA.
    pub(crate) fn is_dora(&self) -> bool {
        !self.magnitudes.is_empty()
    }

    /// Where a module's outputs lie among [`Layout::magnitudes`].
    pub(crate) fn among_magnitudes(&self, lora: &LoraModule) -> Range<usize> {
        lora.magnitude.start - self.magnitudes.start..lora.magnitude.end - self.magnitudes.start
    }

    /// Bytes of [`DoraBuffers`].
    pub(crate) fn dora_bytes(&self) -> Result<usize> {
        let all = if self.is_dora() { lengths(self)?.iter().sum() } else { 0 };
        Ok(all * size_of::<f32>())
    }

    /// Columns of the widest product with a DoRA adapter in it, which the backward pass makes again.
    pub(crate) fn dora_columns(&self, config: &Qwen3Config) -> usize {
        let wide = |projection| match projection {
            Projection::Q | Projection::K | Projection::V => config.q_size() + 2 * config.kv_size(),
            Projection::Gate | Projection::Up => 2 * config.intermediate_size,
            Projection::O | Projection::Down => config.hidden_size,
        };
        let adapted = |projection: &Projection| self.modules.iter().any(|lora| lora.module.is(*projection));
        let all = Projection::ALL.into_iter().filter(|projection| self.is_dora() && adapted(projection));
        all.map(wide).max().unwrap_or(0)
    }

    /// Columns of the widest input or output of a module of DoRA with dropout, whose products are its own.
    pub(crate) fn dropped_columns(&self) -> usize {
        let wide = self.modules.iter().filter(|_| self.drops).map(|lora| lora.in_features.max(lora.out_features));
        wide.max().unwrap_or(0)
    }
}
