//! DoRA with dropout. As in PEFT, a layer is `W (x - drop(x)) + magnitude / norm · (W + s B A) drop(x)` while it is trained,
//! and each module drops others of its inputs: so none are merged into one product, and each of them is made twice.

use super::{
    backward::{ProjectGrad, factors},
    context::{AdapterRows, ForwardContext},
    rows::zeros,
    weights::{MergedLinear, RowsOfWeight},
};
use crate::{
    config::Projection,
    error::{Error, Result},
    lora::LoraModule,
};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut, View,
    ops::{Dora, DoraGrad, Dropout, Dropped, LoraPart, Op},
};

/// Two matrices `[n, dropped_columns]`: a module's input with dropout, and what comes of it or its gradient.
pub(super) struct DroppedRows<B: Backend, T: Float>([Buf<B, T>; 2]);

impl<B: Backend, T: Float> DroppedRows<B, T> {
    /// Empty where `ctx` has no need for them.
    pub fn new(ctx: ForwardContext<'_, B, T>, capacity: usize, trains: bool) -> Result<Self> {
        let columns = ctx.adapter.filter(|_| trains).map_or(0, |adapter| adapter.layout.dropped_columns());
        let rows = || zeros(ctx.backend, &[capacity, columns]);
        Ok(DroppedRows([rows()?, rows()?]))
    }

    pub fn bytes(&self) -> usize {
        self.0.iter().map(|rows| rows.len() * size_of::<T>()).sum()
    }

    /// `[n, columns]` of each.
    fn pair(&mut self, n: usize, columns: [usize; 2]) -> Result<[MatMut<'_, B, T>; 2]> {
        if self.0.iter().zip(columns).any(|(rows, columns)| rows.len() < n * columns) {
            let want = "these activations were made for a DoRA adapter without dropout";
            return Err(Error::setting("dropout", "on", want));
        }
        let [first, second] = &mut self.0;
        Ok([first.mat_mut(n, columns[0]), second.mat_mut(n, columns[1])])
    }
}

/// A module of DoRA with dropout.
struct Module<'a, B: Backend, T: Float> {
    lora: &'a LoraModule,
    /// Of its own outputs, for an input that was dropped already.
    part: LoraPart<'a, B, T>,
    dropout: Dropout,
    /// Magnitudes and norms.
    scales: [View<'a, B, f32>; 2],
}

impl<B: Backend, T: Float> Module<'_, B, T> {
    /// `out (+)= drop(x)`, or the rest of `x`.
    fn drop(
        &self,
        backend: &B,
        x: Mat<'_, B, T>,
        rest: bool,
        out: &mut MatMut<'_, B, T>,
        accumulate: bool,
    ) -> Result<()> {
        Ok(Dropped { x, dropout: self.dropout, rest, out: out.reborrow(), accumulate }.run(backend)?)
    }

    /// `input = drop(x)`, and `z = (W + s B A) input`.
    fn product(
        &self,
        backend: &B,
        weight: &RowsOfWeight<'_, B, T>,
        x: Mat<'_, B, T>,
        input: &mut MatMut<'_, B, T>,
        xa: &mut MatMut<'_, B, T>,
        z: &mut MatMut<'_, B, T>,
    ) -> Result<()> {
        self.drop(backend, x, false, input, false)?;
        weight.forward(backend, input.mat(), z.reborrow(), false)?;
        Ok(self.part.lora(input.mat(), xa, z).run(backend)?)
    }
}

impl<B: Backend, T: Float> ForwardContext<'_, B, T> {
    /// One that is adapted.
    fn dropping(&self, layer: usize, projection: Projection) -> Option<Module<'_, B, T>> {
        let adapter = self.adapter?;
        let lora = adapter.layout.module(layer, projection)?;
        let part = LoraPart { dropout: None, ..self.part(adapter, lora, 0..lora.out_features) };
        let scales = adapter.dora.as_ref()?.of(&adapter.layout, lora);
        Some(Module { lora, part, dropout: self.dropout(lora.index)?, scales })
    }

    /// What [`ForwardContext::project`] does with DoRA and dropout.
    pub(super) fn project_dropped(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        x: Mat<'_, B, T>,
        AdapterRows { mut xa, dropped }: AdapterRows<'_, B, T>,
        mut out: MatMut<'_, B, T>,
        accumulate: bool,
    ) -> Result<()> {
        let ([n, inputs], backend) = (x.shape(), self.backend);
        for (projection, columns, weight) in linear.each() {
            let mut out = out.reborrow().columns(columns);
            let Some(module) = self.dropping(layer, projection) else {
                weight.forward(backend, x, out, accumulate)?;
                continue;
            };
            let [mut input, mut z] = dropped.pair(n, [inputs, out.shape()[1]])?;
            module.drop(backend, x, true, &mut input, false)?;
            weight.forward(backend, input.mat(), out.reborrow(), accumulate)?;
            module.product(backend, &weight, x, &mut input, &mut xa, &mut z)?;
            let [magnitude, norms] = module.scales;
            Dora { z, magnitude, norms, sum: Some(out) }.run(backend)?;
        }
        Ok(())
    }

    /// The gradient of [`ForwardContext::project_dropped`]; `z`, `[n, out]`, is for the product, made again.
    pub(super) fn project_grad_dropped(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        x: Mat<'_, B, T>,
        m: ProjectGrad<'_, B, T>,
        mut z: MatMut<'_, B, T>,
        d_adapter: &mut Buf<B, f32>,
    ) -> Result<()> {
        let ProjectGrad { xa, mut d_out, mut d_xa, mut d_x, dropped, .. } = m;
        let ([n, inputs], backend) = (x.shape(), self.backend);
        for (i, (projection, columns, weight)) in linear.each().enumerate() {
            let mut d_out = d_out.reborrow().columns(columns.clone());
            let Some(module) = self.dropping(layer, projection) else {
                if let Some(d_x) = &mut d_x {
                    weight.backward(backend, d_out.mat(), d_x.reborrow(), i > 0)?;
                }
                continue;
            };
            let [mut input, mut d_part] = dropped.pair(n, [inputs, inputs])?;
            if let Some(d_x) = &mut d_x {
                weight.backward(backend, d_out.mat(), d_part.reborrow(), false)?;
                module.drop(backend, d_part.mat(), true, d_x, i > 0)?;
            }
            let mut z = z.reborrow().columns(columns);
            module.product(backend, &weight, x, &mut input, &mut d_xa, &mut z)?;
            let ([magnitude, norms], d_magnitude) = (module.scales, d_adapter.at_mut(module.lora.magnitude.clone()));
            DoraGrad { z: z.mat(), magnitude, norms, d_out: d_out.reborrow(), d_magnitude }.run(backend)?;
            if d_x.is_some() {
                weight.backward(backend, d_out.mat(), d_part.reborrow(), false)?;
            }
            for factors in factors([module.lora], d_adapter) {
                let d_part = d_x.is_some().then(|| d_part.reborrow());
                module.part.lora_grad([input.mat(), xa, d_out.mat()], &mut d_xa, factors, d_part).run(backend)?;
            }
            if let Some(d_x) = &mut d_x {
                module.drop(backend, d_part.mat(), false, d_x, true)?;
            }
        }
        Ok(())
    }
}
