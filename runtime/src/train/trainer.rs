//! Training an adapter: one optimiser step after another.

use super::{
    packing::{BatchOptions, Step},
    schedule::Schedule,
};
use crate::{
    Error, Result,
    batch::{Batch, Sample, batches},
    lora::{Adapter, DeviceAdapter, Layout, LoraConfig},
    model::{Activations, AdapterGradients, DropoutSeed, ForwardContext, Gradients, LossBuffers, Qwen3},
};
use halfbyte::{
    Backend, Buf, DType, Float,
    ops::{AdamW, Norm, Op},
};

/// How the optimiser moves; the defaults are those of transformers' `TrainingArguments`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerOptions {
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Decay of the moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Gradients are scaled down to this norm; 0 turns it off.
    pub max_grad_norm: f32,
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        OptimizerOptions { weight_decay: 0.0, betas: [0.9, 0.999], eps: 1e-8, max_grad_norm: 1.0 }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Mean loss of the step's targets, in nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens that went through the model.
    pub n_tokens: usize,
    /// What the loss was multiplied by (f16 only; 1 otherwise).
    pub loss_scale: f32,
    /// The gradient overflowed f16, and the step was left out.
    pub skipped: bool,
}

/// The loss scale of f16 training, as PyTorch's `GradScaler` moves it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct LossScale {
    scale: f32,
    good_steps: u32,
}

impl LossScale {
    /// Steps without an overflow after which the scale doubles.
    const GROWTH_INTERVAL: u32 = 2000;

    fn new(dtype: DType) -> Self {
        LossScale { scale: if dtype == DType::F16 { 65536.0 } else { 1.0 }, good_steps: 0 }
    }

    fn overflowed(&mut self) {
        *self = LossScale { scale: self.scale / 2.0, good_steps: 0 };
    }

    fn succeeded(&mut self, dtype: DType) {
        self.good_steps += 1;
        if dtype == DType::F16 && self.good_steps == Self::GROWTH_INTERVAL {
            *self = LossScale { scale: self.scale * 2.0, good_steps: 0 };
        }
    }
}

/// The adapter's master weights and the optimiser's moments, each `[layout.len]`.
struct Optimizer<B: Backend> {
    weights: Buf<B, f32>,
    m: Buf<B, f32>,
    v: Buf<B, f32>,
    /// `[1]`
    norm: Buf<B, f32>,
    /// Steps taken.
    steps: u32,
}

/// Trains an adapter on a frozen model. All memory is allocated at the start.
pub struct Trainer<'m, B: Backend, T: Float> {
    backend: &'m B,
    model: &'m Qwen3<B, T>,
    config: LoraConfig,
    adapter: DeviceAdapter<B, T>,
    grads: AdapterGradients<B>,
    optimizer: Optimizer<B>,
    acts: Activations<B, T>,
    act_grads: Gradients<B, T>,
    loss: LossBuffers<B, T>,
    loss_scale: LossScale,
    options: OptimizerOptions,
    schedule: Schedule,
    seed: u64,
    micro_batches: u64,
}

/// The most tokens that one micro-batch can have.
pub fn micro_batch_capacity(samples: &[Sample], options: &BatchOptions) -> usize {
    let longest = samples.iter().map(|sample| sample.ids.len()).max().unwrap_or(0);
    options.batch_size * if options.packing { options.max_seq_length } else { longest }
}

impl<'m, B: Backend, T: Float> Trainer<'m, B, T> {
    /// Memory to train `adapter` on micro-batches of up to `capacity` tokens.
    ///
    /// # Errors
    /// The adapter has a target that cannot be trained, or the device has too little memory.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a run is made of, named at the call")]
    pub fn new(
        backend: &'m B,
        model: &'m Qwen3<B, T>,
        adapter: &Adapter,
        capacity: usize,
        gradient_checkpointing: bool,
        schedule: Schedule,
        options: OptimizerOptions,
        seed: u64,
    ) -> Result<Self> {
        let (layout, flat) = Layout::of(adapter)?;
        let (len, xa_columns) = (layout.len, layout.xa_columns);
        Ok(Trainer {
            backend,
            model,
            config: adapter.config.clone(),
            adapter: DeviceAdapter::new(backend, layout, &flat)?,
            grads: AdapterGradients::new(backend, len)?,
            optimizer: Optimizer {
                weights: backend.upload(&flat)?,
                m: backend.zeros(len)?,
                v: backend.zeros(len)?,
                norm: backend.zeros(1)?,
                steps: 0,
            },
            acts: Activations::new(backend, model, capacity, xa_columns, gradient_checkpointing)?,
            act_grads: Gradients::new(backend, model, capacity, xa_columns)?,
            loss: LossBuffers::new(backend, model, capacity)?,
            loss_scale: LossScale::new(T::DTYPE),
            options,
            schedule,
            seed,
            micro_batches: 0,
        })
    }

    /// What a forward pass without dropout reads.
    pub fn context(&self) -> ForwardContext<'_, B, T> {
        ForwardContext { backend: self.backend, adapter: Some(&self.adapter), dropout: None }
    }

    /// Columns that activations of this trainer's adapter need; see [`Layout::xa_columns`].
    pub fn xa_columns(&self) -> usize {
        self.adapter.layout.xa_columns
    }

    /// Trains on one step's micro-batches.
    ///
    /// The summed loss of all of them is divided by the number of their targets, so that accumulation equals one
    /// large batch.
    ///
    /// # Errors
    /// The loss or the gradient is not finite (in f16 such a step is left out and the loss scale halved, until it
    /// is 1), or the device refuses.
    pub fn step(&mut self, step: &Step) -> Result<StepReport> {
        self.backend.clear(self.grads.flat.view_mut())?;
        self.loss.clear(self.backend)?;
        let scale = self.loss_scale.scale;
        for batch in &step.micro_batches {
            self.accumulate(batch, scale / step.n_targets as f32)?;
        }
        Norm { x: self.grads.flat.view(), out: self.optimizer.norm.view_mut() }.run(self.backend)?;
        let loss = f64::from(self.loss.total(self.backend)?) / step.n_targets as f64;
        let norm = self.optimizer.norm.to_vec(self.backend)?[0];
        let lr = self.schedule.lr(step.index);
        let mut report = StepReport {
            loss,
            grad_norm: f64::from(norm / scale),
            lr,
            n_tokens: step.micro_batches.iter().map(Batch::n_tokens).sum(),
            loss_scale: scale,
            skipped: false,
        };
        if norm.is_finite() && loss.is_finite() {
            self.update(norm, scale, lr as f32)?;
            self.loss_scale.succeeded(T::DTYPE);
        } else {
            report.skipped = true;
            self.overflow(step.index, loss)?;
        }
        Ok(report)
    }

    fn accumulate(&mut self, batch: &Batch, grad_scale: f32) -> Result<()> {
        let p = self.config.dropout;
        let seed = DropoutSeed { p, seed: self.seed, micro_batch: self.micro_batches };
        self.micro_batches += 1;
        let dropout = (p != 0.0).then_some(seed);
        let ctx = ForwardContext { backend: self.backend, adapter: Some(&self.adapter), dropout };
        self.model.forward(ctx, &mut self.acts, batch)?;
        let (acts, grads) = (&mut self.acts, &mut self.act_grads);
        self.model.loss_backward(ctx, batch, acts, &mut self.loss, grads, &mut self.grads, grad_scale)?;
        self.model.backward(ctx, acts, grads, &mut self.grads)
    }

    fn update(&mut self, norm: f32, scale: f32, lr: f32) -> Result<()> {
        let OptimizerOptions { weight_decay, betas, eps, max_grad_norm } = self.options;
        let clip = if max_grad_norm > 0.0 { (max_grad_norm / (norm / scale + 1e-6)).min(1.0) } else { 1.0 };
        let optimizer = &mut self.optimizer;
        optimizer.steps += 1;
        AdamW {
            weights: optimizer.weights.view_mut(),
            grads: self.grads.flat.view(),
            m: optimizer.m.view_mut(),
            v: optimizer.v.view_mut(),
            compute: self.adapter.compute.view_mut(),
            lr,
            betas,
            eps,
            weight_decay,
            step: optimizer.steps,
            grad_scale: clip / scale,
        }
        .run(self.backend)?;
        Ok(())
    }

    fn overflow(&mut self, step: u64, loss: f64) -> Result<()> {
        if T::DTYPE == DType::F16 && self.loss_scale.scale > 1.0 {
            self.loss_scale.overflowed();
            return Ok(());
        }
        Err(Error::Diverged { step, loss })
    }

    /// Mean loss of the targets of `samples`, in nats; NaN where there are none.
    ///
    /// # Errors
    /// A sample is longer than the trainer's capacity, or the device refuses.
    pub fn evaluate(&mut self, samples: &[Sample]) -> Result<f64> {
        let ctx = ForwardContext { backend: self.backend, adapter: Some(&self.adapter), dropout: None };
        let (mut sum, mut n) = (0.0, 0);
        for batch in batches(samples, self.acts.capacity)? {
            let losses = self.model.target_losses(ctx, &mut self.acts, &batch)?;
            sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            n += losses.len();
        }
        Ok(sum / n as f64)
    }

    /// The adapter as it is now; waits.
    ///
    /// # Errors
    /// The device refuses.
    pub fn adapter(&self) -> Result<Adapter> {
        let flat = self.optimizer.weights.to_vec(self.backend)?;
        Ok(self.adapter.layout.to_adapter(&self.config, &self.model.config, &flat))
    }

    /// The gradients of the last step, as tensors of an adapter; waits. For inspection.
    ///
    /// # Errors
    /// The device refuses.
    pub fn gradients(&self) -> Result<Adapter> {
        let flat = self.grads.flat.to_vec(self.backend)?;
        Ok(self.adapter.layout.to_adapter(&self.config, &self.model.config, &flat))
    }

    /// Numbers that are trained.
    pub fn n_trainable(&self) -> usize {
        self.adapter.layout.n_trainable()
    }
}
