//! The backward pass, written by hand. It stops at the adapters.
//!
//! The rule: adapter gradients `+=`; activation gradients `=`; the residual stream `+=`. No gradient of a frozen
//! weight exists, and nothing below the lowest adapter is differentiated.

use super::{
    activations::{Activations, Gradients, LayerActivations, Tokens},
    attention::Attend,
    context::ForwardContext,
    dropped::DroppedRows,
    qwen3::Qwen3,
    rows::Rows,
    weights::MergedLinear,
    workspace::{AttentionGrads, Extent},
};
use crate::{error::Result, lora::LoraModule};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut,
    ops::{
        AttentionGrad, LoraFactors, LoraInput, LoraLinearGrad, Op, QkNormRopeGrad, RmsNorm, RmsNormGrad, Swiglu,
        SwigluGrad,
    },
};
use std::iter;

/// The matrices of [`ForwardContext::project`] without its input, and their gradients.
pub(super) struct ProjectGrad<'a, B: Backend, T: Float> {
    /// `[n, xa_columns]`, from the forward pass.
    pub xa: Mat<'a, B, T>,
    /// `[n, out]`, with room behind its columns.
    pub d_out: MatMut<'a, B, T>,
    /// `[n, xa_columns]`: scratch.
    pub d_xa: MatMut<'a, B, T>,
    /// `[n, in]`, or none where nothing below is trained.
    pub d_x: Option<MatMut<'a, B, T>>,
    /// `[n, out]`, with DoRA: scratch for the product, made again.
    z: Option<MatMut<'a, B, T>>,
    /// As `d_out`, with DoRA: scratch for its gradient where `d_out` must stay as it is.
    d_z: Option<MatMut<'a, B, T>>,
    /// With DoRA and dropout.
    pub dropped: &'a mut DroppedRows<B, T>,
}

/// The input of a projection.
enum Input<'a, B: Backend, T: Float> {
    /// `[n, in]`
    Kept(Mat<'a, B, T>),
    /// It was not: what it was made by, and, `[n, in]`, scratch for it, unless the op of its gradients makes it by itself.
    Unkept(LoraInput<'a, B, T>, MatMut<'a, B, T>),
}

impl<'a, B: Backend, T: Float> Input<'a, B, T> {
    fn made_by(self) -> LoraInput<'a, B, T> {
        match self {
            Input::Kept(x) => LoraInput::Kept(x),
            Input::Unkept(made_by, _) => made_by,
        }
    }

    /// It itself.
    fn make(&mut self, backend: &B) -> Result<Mat<'_, B, T>> {
        let (made_by, again) = match self {
            Input::Kept(x) => return Ok(*x),
            Input::Unkept(made_by, again) => (made_by, again),
        };
        let out = again.reborrow();
        match made_by {
            LoraInput::Kept(x) => return Ok(*x),
            LoraInput::Swiglu { gate_up } => Swiglu { gate_up: gate_up.mat(), out }.run(backend)?,
            LoraInput::RmsNorm { x, weight, eps, .. } => {
                RmsNorm { x: *x, add: None, weight: *weight, eps: *eps, out }.run(backend)?;
            }
        }
        Ok(again.mat())
    }

    /// From its gradient to that of what it was made of.
    fn through(self, backend: &B, d_out: Mat<'_, B, T>) -> Result<()> {
        match self.made_by() {
            LoraInput::Kept(_) => {}
            LoraInput::Swiglu { gate_up } => SwigluGrad { gate_up, d_out }.run(backend)?,
            LoraInput::RmsNorm { x, weight, eps, d_x } => {
                RmsNormGrad { x, weight, eps, d_out, d_x, accumulate: true }.run(backend)?;
            }
        }
        Ok(())
    }
}

/// Where the gradients of modules' adapters go.
pub(super) fn factors<'l, 'g, B: Backend>(
    modules: impl IntoIterator<Item = &'l LoraModule>,
    d_adapter: &'g mut Buf<B, f32>,
) -> Vec<LoraFactors<'g, B>> {
    let ranges: Vec<_> = modules.into_iter().flat_map(|lora| [lora.a.clone(), lora.b.clone()]).collect();
    let mut windows = d_adapter.view_mut().into_disjoint(&ranges).into_iter();
    iter::from_fn(|| Some(LoraFactors { d_a: windows.next()?, d_b: windows.next()? })).collect()
}

impl<B: Backend, T: Float> ForwardContext<'_, B, T> {
    /// The gradient of [`ForwardContext::project`], and of what made its input; `d_adapter` is flat, `[layout.len]`.
    fn project_grad(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        mut input: Input<'_, B, T>,
        mut m: ProjectGrad<'_, B, T>,
        d_adapter: &mut Buf<B, f32>,
    ) -> Result<()> {
        let (backend, parts) = (self.backend, self.parts(layer, linear));
        let mut d_x = m.d_x.take();
        if parts.is_empty() {
            if let Some(d_x) = &mut d_x {
                linear.backward(backend, m.d_out.mat().columns(0..linear.out_features), d_x.reborrow())?;
            }
        } else if let (Some(weight), None) = (linear.whole(), &m.z) {
            let ProjectGrad { xa, d_out, d_xa, .. } = m;
            let (input, factors) = (input.made_by(), self.factors(layer, linear, d_adapter));
            let grad = LoraLinearGrad { input, xa, weight, parts: &parts, factors, d_out, d_xa, d_x };
            return Ok(grad.run(backend)?);
        } else {
            let x = input.make(backend)?;
            let m = ProjectGrad { d_x: d_x.as_mut().map(MatMut::reborrow), ..m };
            self.project_grad_of(layer, linear, x, m, d_adapter)?;
        }
        match d_x {
            Some(d_x) => input.through(backend, d_x.mat()),
            None => Ok(()),
        }
    }

    /// The same of an input that is there, `x`.
    fn project_grad_of(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        x: Mat<'_, B, T>,
        mut m: ProjectGrad<'_, B, T>,
        d_adapter: &mut Buf<B, f32>,
    ) -> Result<()> {
        let (backend, parts) = (self.backend, self.parts(layer, linear));
        if let Some(z) = m.z.take() {
            if let Some(mut d_z) = m.d_z.take() {
                backend.copy(m.d_out.reborrow().into_view().view(), d_z.reborrow().into_view())?;
                m.d_out = d_z;
            }
            if self.dropout.is_some() {
                return self.project_grad_dropped(layer, linear, x, m, z, d_adapter);
            }
            self.dora_grad(layer, linear, x, &mut m, z, d_adapter)?;
        }
        let factors = self.factors(layer, linear, d_adapter);
        if let Some(weight) = linear.whole() {
            let (ProjectGrad { xa, d_out, d_xa, d_x, .. }, input) = (m, LoraInput::Kept(x));
            let grad = LoraLinearGrad { input, xa, weight, parts: &parts, factors, d_out, d_xa, d_x };
            return Ok(grad.run(backend)?);
        }
        let d_out = m.d_out.mat().columns(0..linear.out_features);
        if let Some(d_x) = &mut m.d_x {
            linear.backward(backend, d_out, d_x.reborrow())?;
        }
        for (part, factors) in parts.iter().zip(factors) {
            let d_x = m.d_x.as_mut().map(MatMut::reborrow);
            part.lora_grad([x, m.xa, d_out], &mut m.d_xa, factors, d_x).run(backend)?;
        }
        Ok(())
    }

    /// From the gradient of DoRA's output to that of the product.
    fn dora_grad(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        x: Mat<'_, B, T>,
        m: &mut ProjectGrad<'_, B, T>,
        mut z: MatMut<'_, B, T>,
        d_adapter: &mut Buf<B, f32>,
    ) -> Result<()> {
        linear.forward(self.backend, x, z.reborrow(), false)?;
        for part in self.parts(layer, linear) {
            part.lora(x, &mut m.d_xa, &mut z).run(self.backend)?;
        }
        self.scale_grad(layer, linear, z.mat(), &mut m.d_out, d_adapter)
    }

    /// Where the gradients of the adapters of linear layers go; one for each of [`ForwardContext::parts`].
    fn factors<'g>(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        d_adapter: &'g mut Buf<B, f32>,
    ) -> Vec<LoraFactors<'g, B>> {
        let Some(adapter) = self.adapter else { return Vec::new() };
        let of = |(projection, _): &_| adapter.layout.module(layer, *projection);
        factors(linear.modules.iter().filter_map(of), d_adapter)
    }
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// From the gradient of what leaves the last layer, in `grads`, to the gradients of the adapters, which are added. What
    /// `acts` keep is overwritten.
    ///
    /// # Errors
    /// `acts` keep nothing, or the device refuses.
    pub fn backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        grads: &mut Gradients<B, T>,
    ) -> Result<()> {
        acts.expect_kept()?;
        let Some(layout) = ctx.adapter.map(|adapter| &adapter.layout) else { return Ok(()) };
        let Some(lowest) = layout.lowest_layer() else { return Ok(()) };
        for i in (lowest..self.layers.len()).rev() {
            // The one below comes back from the host while this one is in hand.
            for layer in (lowest..=i).rev().take(2) {
                acts.residual.fetch(ctx.backend, layer, acts.tokens.n)?;
            }
            self.make_again(ctx, acts, i)?;
            self.mlp_backward(ctx, acts, grads, i)?;
            self.attention_backward(ctx, acts, grads, i, i > lowest || layout.trains_embedding())?;
        }
        self.embedding_backward(ctx, acts, grads)
    }

    /// What the backward pass reads of layer `i`, where it is not there any more.
    fn make_again(&self, ctx: ForwardContext<'_, B, T>, acts: &mut Activations<B, T>, i: usize) -> Result<()> {
        if !acts.layers.has(i) {
            self.attention_forward(ctx, acts, i, &mut Attend::Packed)?;
        }
        if acts.gate_up.has(i) { Ok(()) } else { self.gate_up_forward(ctx, acts, i) }
    }

    fn mlp_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        g: &mut Gradients<B, T>,
        i: usize,
    ) -> Result<()> {
        let (layer, n, extent) = (&self.layers[i], acts.tokens.n, self.extent(ctx, acts));
        let Activations { residual, gate_up, xa, normed, gated, dropped, workspace, .. } = acts;
        let (xa, middle, gate_up) = (xa.at(i).rows(n), residual.at(2 * i + 1).rows(n), gate_up.at_mut(i));
        let mut d_gated = workspace.mlp(&extent);

        let made_by = LoraInput::Swiglu { gate_up: gate_up.rows_mut(n) };
        let input = Input::Unkept(made_by, gated.rows_mut(n));
        let (d_x, d_out) = (Some(d_gated.reborrow()), g.residual.wide_mut(n));
        let (z, d_z) = g.dora.as_mut().map(|memory| (normed.rows_mut(n), memory.mat_mut(n, d_out.shape()[1]))).unzip();
        let down = ProjectGrad { xa, d_out, d_xa: g.xa.rows_mut(n), d_x, z, d_z, dropped };
        ctx.project_grad(i, &layer.down, input, down, &mut g.adapter)?;

        let made_by = self.norm_input(middle, &layer.mlp_norm, g.residual.rows_mut(n));
        let (input, d_x) = (Input::Unkept(made_by, normed.rows_mut(n)), Some(g.normed.rows_mut(n)));
        let z = g.dora.as_mut().map(|memory| memory.mat_mut(n, layer.gate_up.out_features));
        let d_out = gate_up.wide_mut(n);
        let d_gate_up = ProjectGrad { xa, d_out, d_xa: g.xa.rows_mut(n), d_x, z, d_z: None, dropped };
        ctx.project_grad(i, &layer.gate_up, input, d_gate_up, &mut g.adapter)
    }

    fn attention_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        g: &mut Gradients<B, T>,
        i: usize,
        trained_below: bool,
    ) -> Result<()> {
        let (layer, n, extent) = (&self.layers[i], acts.tokens.n, self.extent(ctx, acts));
        let Activations { tokens, residual, layers, xa, normed, dropped, workspace, .. } = acts;
        let (a, xa, before) = (layers.at(i), xa.at(i).rows(n), residual.at(2 * i).rows(n));
        let mut d = workspace.attention(&extent);

        let input = Input::Kept(a.attention.rows(n));
        let (d_x, d_out) = (Some(d.attention.reborrow()), g.residual.wide_mut(n));
        let (z, d_z) = g.dora.as_mut().map(|memory| (normed.rows_mut(n), memory.mat_mut(n, d_out.shape()[1]))).unzip();
        let o = ProjectGrad { xa, d_out, d_xa: g.xa.rows_mut(n), d_x, z, d_z, dropped };
        ctx.project_grad(i, &layer.o, input, o, &mut g.adapter)?;
        self.attend_backward(ctx, tokens, a, &mut d, &mut g.delta)?;
        self.rotate_backward(ctx, tokens, a, &mut d, i)?;

        let d_x = trained_below.then(|| g.normed.rows_mut(n));
        let made_by = self.norm_input(before, &layer.attention_norm, g.residual.rows_mut(n));
        let mut normed = Input::Unkept(made_by, normed.rows_mut(n));
        let input = if trained_below { normed } else { Input::Kept(normed.make(ctx.backend)?) };
        let z = g.dora.as_mut().map(|memory| memory.mat_mut(n, layer.qkv.out_features));
        let qkv = ProjectGrad { xa, d_out: d.qkv, d_xa: g.xa.rows_mut(n), d_x, z, d_z: None, dropped };
        ctx.project_grad(i, &layer.qkv, input, qkv, &mut g.adapter)
    }

    /// `rms_norm(x)`, whose gradient is added to `d_x`.
    fn norm_input<'a>(&self, x: Mat<'a, B, T>, weight: &'a Buf<B, f32>, d_x: MatMut<'a, B, T>) -> LoraInput<'a, B, T> {
        LoraInput::RmsNorm { x, weight: weight.view(), eps: self.config.rms_norm_eps, d_x }
    }

    /// What lies in the workspace for the tokens in hand.
    fn extent(&self, ctx: ForwardContext<'_, B, T>, acts: &Activations<B, T>) -> Extent<'_> {
        Extent { config: &self.config, n: acts.tokens.n, room: ctx.room() }
    }

    /// Through attention: from `d.attention` to `d.q`, `d.k` and the values of `d.qkv`.
    fn attend_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        tokens: &Tokens<B>,
        a: &LayerActivations<B, T>,
        d: &mut AttentionGrads<'_, B, T>,
        delta: &mut Rows<B, f32>,
    ) -> Result<()> {
        let (n, values) = (tokens.n, self.config.v_columns());
        AttentionGrad {
            q: a.q.rows(n),
            k: a.k.rows(n),
            v: a.qkv.rows(n).columns(values.clone()),
            heads: self.config.heads(),
            cu_seqlens: tokens.cu_seqlens(),
            max_len: tokens.max_len,
            scale: self.config.attention_scale(),
            out: a.attention.rows(n),
            lse: a.lse.flat(n),
            d_out: d.attention.mat(),
            delta: delta.flat_mut(n),
            d_q: d.q.reborrow(),
            d_k: d.k.reborrow(),
            d_v: d.qkv.reborrow().columns(values),
        }
        .run(ctx.backend)?;
        Ok(())
    }

    /// Through rotation and head norms: from `d.q` and `d.k` to the queries and keys of `d.qkv`.
    fn rotate_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        tokens: &Tokens<B>,
        a: &LayerActivations<B, T>,
        d: &mut AttentionGrads<'_, B, T>,
        i: usize,
    ) -> Result<()> {
        let (layer, n) = (&self.layers[i], tokens.n);
        QkNormRopeGrad {
            qkv: a.qkv.rows(n),
            heads: self.config.heads(),
            q_weight: layer.q_norm.view(),
            k_weight: layer.k_norm.view(),
            eps: self.config.rms_norm_eps,
            positions: tokens.positions(),
            cos: self.rope.cos.view(),
            sin: self.rope.sin.view(),
            d_q: d.q.mat(),
            d_k: d.k.mat(),
            d_qk: d.qkv.reborrow().columns(0..self.config.v_columns().start),
        }
        .run(ctx.backend)?;
        Ok(())
    }
}
