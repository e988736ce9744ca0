//! The backward pass, written by hand. It stops at the adapters.
//!
//! The rule: adapter gradients `+=`; activation gradients `=`; the residual stream `+=`. No gradient of a frozen
//! weight exists, and nothing below the lowest adapter is differentiated.

use super::{Activations, ForwardContext, Gradients, Layer, Qwen3, weights::MergedLinear};
use crate::{Result, lora::LoraModule};
use halfbyte::{
    Backend, Buf, Float, Mat, MatMut,
    ops::{AttentionGrad, LoraGrad, Op, QkNormRopeGrad, RmsNorm, RmsNormGrad, Swiglu, SwigluGrad},
};

/// The gradients of an adapter: `[layout.len]`, laid out like it.
pub struct AdapterGradients<B: Backend> {
    /// All of them.
    pub flat: Buf<B, f32>,
}

impl<B: Backend> AdapterGradients<B> {
    /// Zeros for an adapter of `len` numbers.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(backend: &B, len: usize) -> Result<Self> {
        Ok(AdapterGradients { flat: backend.zeros(len)? })
    }
}

/// Matrices of one call of [`ForwardContext::project_back`].
struct Back<'a, B: Backend, T: Float> {
    /// `[n, in]`: the projection's input.
    x: Mat<'a, B, T>,
    /// `[n, xa_columns]`, from the forward pass.
    xa: Mat<'a, B, T>,
    /// `[n, out]`
    d_out: Mat<'a, B, T>,
    /// `[n, xa_columns]`: scratch.
    d_xa: MatMut<'a, B, T>,
    /// `[n, in]`, or none where nothing below is trained.
    d_x: Option<MatMut<'a, B, T>>,
}

impl<B: Backend, T: Float> ForwardContext<'_, B, T> {
    /// The gradient of [`ForwardContext::project`].
    fn project_back(
        &self,
        layer: usize,
        linear: &MergedLinear<B, T>,
        mut m: Back<'_, B, T>,
        grads: &mut AdapterGradients<B>,
    ) -> Result<()> {
        if let Some(d_x) = &mut m.d_x {
            linear.backward(self.backend, m.d_out, d_x.reborrow())?;
        }
        let Some(adapter) = self.adapter else { return Ok(()) };
        for (projection, columns) in &linear.modules {
            let Some(lora) = adapter.layout.module(layer, *projection) else { continue };
            let LoraModule { a, b, .. } = lora;
            // `A` lies before `B`.
            let (d_a, d_b) = grads.flat.at_mut(a.start..b.end).split(b.start - a.start);
            LoraGrad {
                x: m.x,
                a: adapter.a(lora),
                b: adapter.b(lora),
                scale: lora.scale,
                dropout: self.dropout(lora.index),
                xa: m.xa.columns(lora.xa.clone()),
                d_out: m.d_out.columns(columns.clone()),
                d_xa: m.d_xa.reborrow().columns(lora.xa.clone()),
                d_a: d_a.into_at(0..a.len()),
                d_b,
                d_x: m.d_x.as_mut().map(MatMut::reborrow),
            }
            .run(self.backend)?;
        }
        Ok(())
    }
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// From the gradient of what leaves the last layer, in `grads`, to the gradients of the adapters.
    ///
    /// # Errors
    /// The device refuses.
    pub fn backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        grads: &mut Gradients<B, T>,
        adapter_grads: &mut AdapterGradients<B>,
    ) -> Result<()> {
        let Some(lowest) = ctx.adapter.and_then(|a| a.layout.lowest_layer()) else { return Ok(()) };
        let last = self.layers.len() - 1;
        for i in (lowest..=last).rev() {
            // The activations of the last layer are still there.
            if acts.recomputes() && i < last {
                self.layer_forward(ctx, acts, i)?;
            }
            self.mlp_backward(ctx, acts, grads, adapter_grads, i)?;
            self.attention_backward(ctx, acts, grads, adapter_grads, i, i > lowest)?;
        }
        Ok(())
    }

    fn mlp_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        grads: &mut Gradients<B, T>,
        adapter_grads: &mut AdapterGradients<B>,
        i: usize,
    ) -> Result<()> {
        let (n, backend, config) = (acts.n, ctx.backend, &self.config);
        let (hidden, inter, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let layer = &self.layers[i];
        let slot = acts.slot(i);
        let a = &acts.layers[slot];
        let xa = a.xa.mat(n, a.xa.len() / acts.capacity);
        let gate_up = a.gate_up.mat(n, 2 * inter);
        let middle = a.middle.mat(n, hidden);

        Swiglu { gate_up, out: acts.gated.mat_mut(n, inter) }.run(backend)?;
        let down = Back {
            x: acts.gated.mat(n, inter),
            xa,
            d_out: grads.residual.mat(n, hidden),
            d_xa: grads.xa.mat_mut(n, xa.shape()[1]),
            d_x: Some(grads.gated.mat_mut(n, inter)),
        };
        ctx.project_back(i, &layer.down, down, adapter_grads)?;

        let d_gate_up = grads.gate_up.mat_mut(n, 2 * inter);
        SwigluGrad { gate_up, d_out: grads.gated.mat(n, inter), d_gate_up }.run(backend)?;
        let normed = acts.normed.mat_mut(n, hidden);
        RmsNorm { x: middle, add: None, weight: layer.mlp_norm.view(), eps, out: normed }.run(backend)?;
        let gate_up = Back {
            x: acts.normed.mat(n, hidden),
            xa,
            d_out: grads.gate_up.mat(n, 2 * inter),
            d_xa: grads.xa.mat_mut(n, xa.shape()[1]),
            d_x: Some(grads.normed.mat_mut(n, hidden)),
        };
        ctx.project_back(i, &layer.gate_up, gate_up, adapter_grads)?;
        self.norm_backward(backend, middle, &layer.mlp_norm, grads)
    }

    fn attention_backward(
        &self,
        ctx: ForwardContext<'_, B, T>,
        acts: &mut Activations<B, T>,
        grads: &mut Gradients<B, T>,
        adapter_grads: &mut AdapterGradients<B>,
        i: usize,
        trained_below: bool,
    ) -> Result<()> {
        let (n, backend, config) = (acts.n, ctx.backend, &self.config);
        let (hidden, eps, q, kv) = (config.hidden_size, config.rms_norm_eps, config.q_size(), config.kv_size());
        let layer = &self.layers[i];
        let slot = acts.slot(i);
        let a = &acts.layers[slot];
        let xa = a.xa.mat(n, a.xa.len() / acts.capacity);

        let o = Back {
            x: a.attention.mat(n, q),
            xa,
            d_out: grads.residual.mat(n, hidden),
            d_xa: grads.xa.mat_mut(n, xa.shape()[1]),
            d_x: Some(grads.attention.mat_mut(n, q)),
        };
        ctx.project_back(i, &layer.o, o, adapter_grads)?;
        self.scores_backward(backend, layer, acts, grads, slot)?;

        let x = acts.residual[i].mat(n, hidden);
        let normed = acts.normed.mat_mut(n, hidden);
        RmsNorm { x, add: None, weight: layer.attention_norm.view(), eps, out: normed }.run(backend)?;
        let qkv = Back {
            x: acts.normed.mat(n, hidden),
            xa,
            d_out: grads.qkv.mat(n, q + 2 * kv),
            d_xa: grads.xa.mat_mut(n, xa.shape()[1]),
            d_x: trained_below.then(|| grads.normed.mat_mut(n, hidden)),
        };
        ctx.project_back(i, &layer.qkv, qkv, adapter_grads)?;
        if trained_below {
            self.norm_backward(backend, x, &layer.attention_norm, grads)?;
        }
        Ok(())
    }

    /// Through attention, rotation and head norms: from `grads.attention` to `grads.qkv`.
    fn scores_backward(
        &self,
        backend: &B,
        layer: &Layer<B, T>,
        acts: &Activations<B, T>,
        grads: &mut Gradients<B, T>,
        slot: usize,
    ) -> Result<()> {
        let (n, config, a) = (acts.n, &self.config, &acts.layers[slot]);
        let (q, kv) = (config.q_size(), config.kv_size());
        let qkv = a.qkv.mat(n, q + 2 * kv);
        AttentionGrad {
            q: a.q.mat(n, q),
            k: a.k.mat(n, kv),
            v: qkv.columns(q + kv..q + 2 * kv),
            heads: config.heads(),
            cu_seqlens: acts.cu_seqlens.at(0..acts.n_seqs + 1),
            max_len: acts.max_len,
            scale: config.attention_scale(),
            out: a.attention.mat(n, q),
            lse: a.lse.at(0..config.n_heads * n),
            d_out: grads.attention.mat(n, q),
            delta: grads.delta.at_mut(0..config.n_heads * n),
            d_q: grads.q.mat_mut(n, q),
            d_k: grads.k.mat_mut(n, kv),
            d_v: grads.qkv.mat_mut(n, q + 2 * kv).columns(q + kv..q + 2 * kv),
        }
        .run(backend)?;
        QkNormRopeGrad {
            qkv,
            heads: config.heads(),
            q_weight: layer.q_norm.view(),
            k_weight: layer.k_norm.view(),
            eps: config.rms_norm_eps,
            positions: acts.positions.at(0..n),
            cos: self.rope.cos.view(),
            sin: self.rope.sin.view(),
            d_q: grads.q.mat(n, q),
            d_k: grads.k.mat(n, kv),
            d_qk: grads.qkv.mat_mut(n, q + 2 * kv).columns(0..q + kv),
        }
        .run(backend)?;
        Ok(())
    }

    /// Through a norm, from `grads.normed` into the residual stream's gradient.
    fn norm_backward(
        &self,
        backend: &B,
        x: Mat<'_, B, T>,
        weight: &Buf<B, f32>,
        grads: &mut Gradients<B, T>,
    ) -> Result<()> {
        let [n, hidden] = x.shape();
        let (d_out, d_x) = (grads.normed.mat(n, hidden), grads.residual.mat_mut(n, hidden));
        let eps = self.config.rms_norm_eps;
        RmsNormGrad { x, weight: weight.view(), eps, d_out, d_x, accumulate: true }.run(backend)?;
        Ok(())
    }
}
