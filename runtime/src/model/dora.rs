//! DoRA: a layer's outputs times `magnitude / norm`, where the norms are those of the rows of `W + s B A`.
//!
//! Norms change with each step of the optimiser. Of a frozen `W` that takes two small products:
//! `|w + s b A|² = |w|² + 2 s b · (A w) + s² b (A Aᵀ) bᵀ` for each row `w` of `W` and `b` of `B`.

use super::{
    context::ForwardContext,
    qwen3::Qwen3,
    weights::{MergedLinear, RowsOfWeight},
};
use crate::{
    config::Module,
    error::Result,
    lora::{Adapter, DeviceAdapter, DoraBuffers, LoraModule},
};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut, host,
    ops::{Dora, DoraGrad, DoraNorms, Linear, Op},
};

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Takes over the numbers that an adapter's master weights `flat` have now and `adapter.compute` has already: rows of
    /// tables, and DoRA's magnitudes and norms.
    pub(crate) fn follow(&self, backend: &B, adapter: &mut DeviceAdapter<B, T>, flat: &Buf<B, f32>) -> Result<()> {
        adapter.patch(backend)?;
        if let Some(dora) = &mut adapter.dora {
            backend.copy(flat.at(adapter.layout.magnitudes.clone()), dora.magnitudes.view_mut())?;
        }
        self.update_norms(backend, adapter)
    }

    /// Gives a new DoRA adapter its magnitudes, which are the norms of the rows of the weights as they are held with what
    /// it adds: it changes nothing yet. Any other adapter stays as it is.
    ///
    /// # Errors
    /// The device or the host has too little memory.
    pub fn measure(&self, backend: &B, adapter: &mut Adapter) -> Result<()> {
        let new = |layer: &crate::lora::LoraWeights| layer.magnitude.is_empty();
        if !adapter.config.use_dora || !adapter.layers.iter().all(new) {
            return Ok(());
        }
        for layer in &mut adapter.layers {
            layer.magnitude = host::zeros(layer.target.shape[0])?;
        }
        let device = self.adapt(backend, adapter)?;
        let Some(dora) = &device.dora else { return Ok(()) };
        for (lora, layer) in device.layout.modules.iter().zip(&mut adapter.layers) {
            let [_, norms] = dora.of(&device.layout, lora);
            layer.magnitude = backend.download(norms)?;
        }
        Ok(())
    }

    /// The squares of the rows of all adapted weights, which are frozen, and their norms as they are now.
    pub(crate) fn begin_norms(&self, backend: &B, adapter: &mut DeviceAdapter<B, T>) -> Result<()> {
        let DeviceAdapter { layout, dora: Some(dora), .. } = adapter else { return Ok(()) };
        for lora in &layout.modules {
            let Some(weight) = self.weight_of(lora) else { continue };
            weight.squares(backend, dora.squares.at_mut(layout.among_magnitudes(lora)))?;
        }
        self.update_norms(backend, adapter)
    }

    fn update_norms(&self, backend: &B, adapter: &mut DeviceAdapter<B, T>) -> Result<()> {
        let DeviceAdapter { layout, compute, dora: Some(dora), .. } = adapter else { return Ok(()) };
        let DoraBuffers { squares, norms, products, gram, .. } = dora;
        for lora in &layout.modules {
            let Some(weight) = self.weight_of(lora) else { continue };
            let LoraModule { in_features, out_features, rank, scale, .. } = *lora;
            let (a, at) = (compute.at(lora.a.clone()), layout.among_magnitudes(lora));
            let x = Mat::new(a, rank, in_features);
            weight.forward(backend, x, products.mat_mut(rank, out_features), false)?;
            Linear { x, weight: x, out: gram.mat_mut(rank, rank), accumulate: false, settled: false }.run(backend)?;
            let (squares, b) = (squares.at(at.clone()), compute.at(lora.b.clone()));
            let (products, gram, norms) = (products.mat(rank, out_features), gram.at(0..rank * rank), norms.at_mut(at));
            DoraNorms { squares, products, gram, b, scale, norms }.run(backend)?;
        }
        Ok(())
    }

    /// The frozen weight of an adapted module.
    fn weight_of(&self, lora: &LoraModule) -> Option<RowsOfWeight<'_, B, T>> {
        let Module::Layer(layer, projection) = lora.module else { return None };
        self.layers[layer].linears().into_iter().find_map(|linear| linear.weight_of(projection))
    }
}

impl<B: Backend, T: Float> ForwardContext<'_, B, T> {
    /// Whether the adapter of these layers, if any, is one of DoRA.
    pub(super) fn is_dora(&self) -> bool {
        self.adapter.is_some_and(|adapter| adapter.dora.is_some())
    }

    /// Multiplies what comes of adapted layers by `magnitude / norm`, in place or into the sum to which it is added.
    pub(super) fn scale(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        mut z: MatMut<'_, B, T>,
        mut sum: Option<MatMut<'_, B, T>>,
    ) -> Result<()> {
        let Some((adapter, dora)) = self.adapter.and_then(|adapter| Some((adapter, adapter.dora.as_ref()?))) else {
            return Ok(());
        };
        for (projection, columns) in &linear.modules {
            let Some(lora) = adapter.layout.module(layer, *projection) else { continue };
            let [magnitude, norms] = dora.of(&adapter.layout, lora);
            let sum = sum.as_mut().map(|sum| sum.reborrow().columns(columns.clone()));
            Dora { z: z.reborrow().columns(columns.clone()), magnitude, norms, sum }.run(self.backend)?;
        }
        Ok(())
    }

    /// The gradient of [`ForwardContext::scale`], in the place of `d_out`; that of the magnitudes is added to `d_adapter`.
    pub(super) fn scale_grad(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        z: Mat<'_, B, T>,
        d_out: &mut MatMut<'_, B, T>,
        d_adapter: &mut Buf<B, f32>,
    ) -> Result<()> {
        let Some((adapter, dora)) = self.adapter.and_then(|adapter| Some((adapter, adapter.dora.as_ref()?))) else {
            return Ok(());
        };
        for (projection, columns) in &linear.modules {
            let Some(lora) = adapter.layout.module(layer, *projection) else { continue };
            let [magnitude, norms] = dora.of(&adapter.layout, lora);
            let (z, d_out) = (z.columns(columns.clone()), d_out.reborrow().columns(columns.clone()));
            let d_magnitude = d_adapter.at_mut(lora.magnitude.clone());
            DoraGrad { z, magnitude, norms, d_out, d_magnitude }.run(self.backend)?;
        }
        Ok(())
    }
}
