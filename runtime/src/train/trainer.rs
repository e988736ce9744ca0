//! Training an adapter: one optimiser step after another.

use super::{
    packing::{BatchOptions, Step},
    schedule::Schedule,
};
use crate::{
    batch::{Batch, Sample, batches},
    error::{Error, Result},
    lora::{Adapter, DeviceAdapter, Layout, LoraConfig, SMALLER},
    model::{Activations, DropoutSeed, ForwardContext, Gradients, Keep, Kept, LossBuffers, Qwen3},
    options,
};
use halfbyte::{
    Backend, Buf, Count, DType, Float,
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

/// How a trainer runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainerOptions {
    /// The most tokens of a micro-batch, or of a sample to evaluate.
    pub capacity: usize,
    /// What each layer keeps for the backward pass: the less, the less memory and the more time.
    pub kept: Kept,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// How the optimiser moves.
    pub optimizer: OptimizerOptions,
    /// Of the dropout masks.
    pub seed: u64,
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

impl<B: Backend> Optimizer<B> {
    fn new(backend: &B, weights: &[f32]) -> Result<Self> {
        let zeros = || backend.zeros(weights.len());
        Ok(Optimizer { weights: backend.upload(weights)?, m: zeros()?, v: zeros()?, norm: backend.zeros(1)?, steps: 0 })
    }
}

/// Trains an adapter on a frozen model. All memory is allocated at the start.
pub struct Trainer<'m, B: Backend, T: Float> {
    backend: &'m B,
    model: &'m Qwen3<B, T>,
    config: LoraConfig,
    adapter: DeviceAdapter<B, T>,
    /// What [`Trainer::adapter`] gives: taken at the start, so that saving cannot fail for memory.
    copy: Adapter,
    optimizer: Optimizer<B>,
    acts: Activations<B, T>,
    grads: Gradients<B, T>,
    loss: LossBuffers<B, T>,
    loss_scale: LossScale,
    options: TrainerOptions,
    micro_batches: u64,
}

/// The most tokens that one micro-batch can have: never more than there are.
pub fn micro_batch_capacity(samples: &[Sample], options: &BatchOptions) -> usize {
    let lengths = || samples.iter().map(|sample| sample.ids.len());
    let longest = if options.packing { options.max_seq_length } else { lengths().max().unwrap_or(0) };
    options.batch_size.saturating_mul(longest).min(lengths().sum())
}

/// How to do with less memory for activations of which so much is kept.
pub(super) fn shorter(kept: Kept) -> &'static str {
    if kept == Keep::Host.into() {
        "lower --batch-size or --max-seq-length"
    } else {
        "lower --batch-size or --max-seq-length, or use --gradient-checkpointing"
    }
}

/// An adapter on the device and on the host, and what moves it.
type Trained<B, T> = (DeviceAdapter<B, T>, Adapter, Optimizer<B>);

/// What an evaluation works with.
type Evaluation<'t, B, T> = (ForwardContext<'t, B, T>, &'t mut Activations<B, T>, &'t mut LossBuffers<B, T>);

/// What one micro-batch after the other goes through.
type Buffers<B, T> = (Activations<B, T>, Gradients<B, T>, LossBuffers<B, T>);

impl<'m, B: Backend, T: Float> Trainer<'m, B, T> {
    /// Memory to train `adapter` on micro-batches of up to `trainer.capacity` tokens.
    ///
    /// # Errors
    /// An option is out of range, the adapter has a target that cannot be trained, or the device has too little memory.
    pub fn new(backend: &'m B, model: &'m Qwen3<B, T>, adapter: &Adapter, trainer: TrainerOptions) -> Result<Self> {
        options::WEIGHT_DECAY.check(trainer.optimizer.weight_decay)?;
        options::MAX_GRAD_NORM.check(trainer.optimizer.max_grad_norm)?;
        let config = adapter.config.clone();
        let what = || format!("an adapter with r = {} and its optimizer", config.r);
        let trained = Self::trained(backend, model, adapter).map_err(Error::memory_for(what, SMALLER))?;
        let (adapter, copy, optimizer) = trained;
        let ctx = ForwardContext::new(backend, Some(&adapter));
        let what = || format!("micro-batches of up to {}", Count(trainer.capacity, "token"));
        let buffers = Self::buffers(ctx, model, &trainer).map_err(Error::memory_for(what, shorter(trainer.kept)))?;
        let (acts, grads, loss) = buffers;
        let loss_scale = LossScale::new(T::DTYPE);
        Ok(Trainer {
            backend,
            model,
            config,
            adapter,
            copy,
            optimizer,
            acts,
            grads,
            loss,
            loss_scale,
            options: trainer,
            micro_batches: 0,
        })
    }

    /// The memory of what is trained.
    fn trained(backend: &B, model: &Qwen3<B, T>, adapter: &Adapter) -> Result<Trained<B, T>> {
        let (layout, flat) = Layout::of(adapter)?;
        let copy = layout.to_adapter(&adapter.config, &model.config, &flat)?;
        Ok((model.adapt_flat(backend, layout, &flat)?, copy, Optimizer::new(backend, &flat)?))
    }

    /// The memory of a micro-batch.
    fn buffers(ctx: ForwardContext<'_, B, T>, model: &Qwen3<B, T>, options: &TrainerOptions) -> Result<Buffers<B, T>> {
        let acts = Activations::new(ctx, model, options.capacity, options.kept)?;
        let grads = Gradients::new(ctx, model, options.capacity)?;
        Ok((acts, grads, LossBuffers::beside(ctx.backend, options.capacity)?))
    }

    /// What a forward pass without dropout reads.
    pub fn context(&self) -> ForwardContext<'_, B, T> {
        ForwardContext::new(self.backend, Some(&self.adapter))
    }

    /// The same, and the trainer's own memory for it: evaluation takes none beside training's.
    pub(super) fn evaluation(&mut self) -> Evaluation<'_, B, T> {
        let Trainer { backend, adapter, acts, loss, .. } = self;
        (ForwardContext::new(*backend, Some(adapter)), acts, loss)
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
        self.backend.clear(self.grads.adapter.view_mut())?;
        self.loss.clear(self.backend)?;
        let scale = self.loss_scale.scale;
        for batch in &step.micro_batches {
            self.accumulate(batch, scale / step.n_targets as f32)?;
        }
        Norm { x: self.grads.adapter.view(), out: self.optimizer.norm.view_mut() }.run(self.backend)?;
        let loss = f64::from(self.loss.total(self.backend)?) / step.n_targets as f64;
        let norm = self.optimizer.norm.to_vec(self.backend)?[0];
        let lr = self.options.schedule.lr(step.index);
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
        let seed = DropoutSeed { p, seed: self.options.seed, micro_batch: self.micro_batches };
        self.micro_batches += 1;
        let dropout = (p != 0.0).then_some(seed);
        let ctx = ForwardContext { backend: self.backend, adapter: Some(&self.adapter), dropout };
        let (acts, grads) = (&mut self.acts, &mut self.grads);
        self.model.forward(ctx, acts, batch)?;
        self.model.loss_backward(ctx, batch, acts, &mut self.loss, grads, grad_scale)?;
        self.model.backward(ctx, acts, grads)
    }

    fn update(&mut self, norm: f32, scale: f32, lr: f32) -> Result<()> {
        let OptimizerOptions { weight_decay, betas, eps, max_grad_norm } = self.options.optimizer;
        let clip = if max_grad_norm > 0.0 { (max_grad_norm / (norm / scale + 1e-6)).min(1.0) } else { 1.0 };
        let optimizer = &mut self.optimizer;
        optimizer.steps += 1;
        AdamW {
            weights: optimizer.weights.view_mut(),
            grads: self.grads.adapter.view(),
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
        self.adapter.patch(self.backend)
    }

    fn overflow(&mut self, step: u64, loss: f64) -> Result<()> {
        if T::DTYPE == DType::F16 && self.loss_scale.scale > 1.0 {
            self.loss_scale.overflowed();
            return Ok(());
        }
        Err(Error::Diverged { step, loss })
    }

    /// Mean loss of the targets of `samples`, in nats; NaN where there are none. Takes no memory beyond the trainer's.
    ///
    /// # Errors
    /// A sample is longer than the trainer's capacity, or the device refuses.
    pub fn evaluate(&mut self, samples: &[Sample]) -> Result<f64> {
        let (model, (ctx, acts, loss)) = (self.model, self.evaluation());
        let (mut sum, mut n) = (0.0, 0);
        for batch in batches(samples, acts.capacity)? {
            let losses = model.target_losses(ctx, acts, loss, &batch)?;
            sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            n += losses.len();
        }
        Ok(sum / n as f64)
    }

    /// The adapter as it is now, in memory that was taken at the start; waits.
    ///
    /// # Errors
    /// The device refuses.
    pub fn adapter(&mut self) -> Result<&Adapter> {
        self.adapter.layout.fetch(self.backend, &self.optimizer.weights, &mut self.copy)?;
        Ok(&self.copy)
    }

    /// The gradients of the last step, as tensors of an adapter; waits. For inspection.
    ///
    /// # Errors
    /// The device refuses.
    pub fn gradients(&self) -> Result<Adapter> {
        let flat = self.grads.adapter.to_vec(self.backend)?;
        self.adapter.layout.to_adapter(&self.config, &self.model.config, &flat)
    }

    /// Numbers that are trained.
    pub fn n_trainable(&self) -> usize {
        self.adapter.layout.n_trainable()
    }
}
