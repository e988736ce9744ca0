//! AdamW over an adapter: what it keeps, and a step of it.

mod moments;

use crate::{
    builder::builder,
    config::Module,
    error::{Error, Result},
    lora::Layout,
    settings::Optim,
};
use halfbyte::{
    Backend, Buf, Float,
    ops::{AdamW, AdamW8bit, AdamWStep, Clip, Op},
};
pub use moments::HostMoments;
use moments::Moments;
use std::ops::Range;

builder! {
    /// How the optimiser moves; the defaults are those of transformers' `TrainingArguments`.
    ///
    /// Weights decay all alike: no tensor of an adapter is a bias or of a norm, which transformers leaves out.
    #[derive(Debug, Clone, Copy, PartialEq)]
    pub struct OptimizerOptions {
        /// How moments are kept.
        pub optim: Optim,
        /// The learning rate of `B` and of magnitudes over that of all else (LoRA+, Hayou et al. 2024, arXiv:2402.12354).
        pub lora_plus: f64,
        /// Decoupled weight decay.
        pub weight_decay: f32,
        /// Decay of the moments.
        pub betas: [f64; 2],
        /// Added to the root of the second moment.
        pub eps: f64,
        /// Gradients are scaled down to this norm; 0 turns it off.
        pub max_grad_norm: f32,
    }
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        OptimizerOptions {
            optim: Optim::AdamW,
            lora_plus: 1.0,
            weight_decay: 0.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            max_grad_norm: 1.0,
        }
    }
}

/// Neighbours in the flat buffer that one op moves.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    range: Range<usize>,
    /// Of the learning rate.
    factor: f64,
    in_8_bits: bool,
}

impl OptimizerOptions {
    /// Refuses rates that an adapter of these modules cannot have.
    pub(in crate::train) fn expect_for(&self, mut modules: impl Iterator<Item = Module>) -> Result<()> {
        if self.lora_plus != 1.0 && modules.any(|module| module == Module::Embedding) {
            let want = "PEFT gives an embedding's matrices a learning rate of their own with LoRA+, and here they have none: \
                        leave embed_tokens out of target_modules, or leave it at 1";
            return Err(Error::setting("loraplus_lr_ratio", self.lora_plus, want));
        }
        Ok(())
    }

    /// As few parts as there can be.
    fn parts(&self, layout: &Layout) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for group in layout.groups.iter().filter(|group| !group.range.is_empty()) {
            let factor = if group.kind.role.is_fast() { self.lora_plus } else { 1.0 };
            let in_8_bits = self.optim.in_8_bits() && group.kind.large;
            match parts.last_mut() {
                Some(last) if (last.factor, last.in_8_bits) == (factor, in_8_bits) => last.range.end = group.range.end,
                _ => parts.push(Part { range: group.range.clone(), factor, in_8_bits }),
            }
        }
        parts
    }
}

/// The adapter's master weights, `[layout.len]`, and what moves them.
pub(super) struct Optimizer<B: Backend> {
    pub weights: Buf<B, f32>,
    pub moments: Moments<B>,
    options: OptimizerOptions,
    parts: Vec<Part>,
    /// `[2]`: the summed loss of a step, and the norm of its gradient.
    pub outcome: Buf<B, f32>,
    /// `[1]`: not 0 once one of them was not finite.
    halted: Buf<B, u32>,
    /// `outcome` of the step before the last, and of the last, in turn, in the host's memory.
    pub outcomes: [Buf<B, f32>; 2],
    /// Steps taken.
    pub steps: u32,
}

impl<B: Backend> Optimizer<B> {
    pub fn new(backend: &B, layout: &Layout, weights: &[f32], options: OptimizerOptions) -> Result<Self> {
        Ok(Optimizer {
            weights: backend.upload(weights)?,
            moments: Moments::new(backend, options.optim, layout)?,
            options,
            parts: options.parts(layout),
            outcome: backend.zeros(2)?,
            halted: backend.zeros(1)?,
            outcomes: [backend.zeros_on_host(2)?, backend.zeros_on_host(2)?],
            steps: 0,
        })
    }

    /// A step, which does nothing where loss or norm are not finite. `grads` are those of the loss times `loss_scale`;
    /// `compute` becomes the weights in the compute type.
    pub fn step<T: Float>(
        &mut self,
        backend: &B,
        lr: f64,
        loss_scale: f32,
        grads: &Buf<B, f32>,
        compute: &mut Buf<B, T>,
    ) -> Result<()> {
        self.steps += 1;
        let OptimizerOptions { weight_decay, betas, eps, max_grad_norm: max_norm, .. } = self.options;
        for Part { range, factor, in_8_bits } in self.parts.iter().cloned() {
            let (norm, loss) = (self.outcome.at(1..2), self.outcome.at(0..1));
            let clip = Clip { norm, loss, max_norm, loss_scale, halted: self.halted.view_mut() };
            let weight_decay = f64::from(weight_decay);
            let step = AdamWStep { lr: lr * factor, betas, eps, weight_decay, count: self.steps };
            let (weights, grads) = (self.weights.at_mut(range.clone()), grads.at(range.clone()));
            let compute = compute.at_mut(range.clone());
            if in_8_bits {
                let [m, v] = self.moments.narrow(range);
                AdamW8bit { weights, grads, m, v, compute, step, clip }.run(backend)?;
            } else {
                let [m, v] = self.moments.wide(range);
                AdamW { weights, grads, m, v, compute, step, clip }.run(backend)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Projection, lora::Target};

    /// `A` is large, `B` is not, and the other way round.
    fn layout() -> Layout {
        let target = |(layer, shape)| Target { module: Module::Layer(layer, Projection::Q), shape, r: 4, scaling: 1.0 };
        Layout::new([[100, 1024], [1030, 64]].into_iter().enumerate().map(target), None).unwrap()
    }

    fn parts(optim: Optim, lora_plus: f64) -> Vec<(Range<usize>, f64, bool)> {
        let parts = OptimizerOptions { optim, lora_plus, ..OptimizerOptions::default() }.parts(&layout());
        parts.into_iter().map(|part| (part.range, part.factor, part.in_8_bits)).collect()
    }

    #[test]
    fn parts_are_as_few_as_there_can_be() {
        let layout = layout();
        let [first, second] = [&layout.modules[0], &layout.modules[1]];
        let starts = [first.a.start, second.b.start, first.b.start, second.a.start];
        assert_eq!((starts, layout.len), ([0, 4096, 4096 + 4352, 4096 + 4352 + 512], 4096 + 4352 + 512 + 256));
        let [_, b, small, small_a] = starts;
        assert_eq!(parts(Optim::AdamW, 1.0), [(0..layout.len, 1.0, false)]);
        let plus = [(0..b, 1.0, false), (b..small_a, 16.0, false), (small_a..layout.len, 1.0, false)];
        assert_eq!(parts(Optim::PagedAdamW, 16.0), plus);
        assert_eq!(parts(Optim::AdamW8bit, 1.0), [(0..small, 1.0, true), (small..layout.len, 1.0, false)]);
        assert_eq!(parts(Optim::PagedAdamW8bit, 16.0).len(), 4);
    }
}
