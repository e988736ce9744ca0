//! Training an adapter: one optimiser step after another.

mod state;

pub use super::optimizer::{HostMoments, OptimizerOptions};
use super::{
    loss_scale::LossScale,
    optimizer::Optimizer,
    packing::{BatchOptions, Step},
    schedule::Schedule,
};
use crate::{
    batch::{Batch, Sample, batches},
    builder::builder,
    error::{Error, Result},
    lora::{Adapter, DeviceAdapter, Layout, LoraConfig, OfWhole, SMALLER},
    model::{Activations, DropoutSeed, EmbeddingNoise, ForwardContext, Gradients, Keep, Kept, LossBuffers, Qwen3},
    options,
};
use halfbyte::{
    Backend, Count, DType, Float,
    ops::{Norm, Op},
};
pub use state::{Counters, TrainerState};
use tracing::trace;

builder! {
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
}

impl TrainerOptions {
    /// All kept, and the optimiser's defaults, with seed 0.
    pub fn new(capacity: usize, schedule: Schedule) -> Self {
        TrainerOptions {
            capacity,
            kept: Keep::Everything.into(),
            schedule,
            optimizer: OptimizerOptions::default(),
            seed: 0,
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// Which step, counted from 0.
    pub step: u64,
    /// Finished passes over the data, with the fraction.
    pub epochs_done: f64,
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

/// A step that was queued.
struct Queued {
    index: u64,
    epochs_done: f64,
    lr: f64,
    n_tokens: usize,
    n_targets: usize,
    loss_scale: f32,
    /// Which of the outcomes is its.
    outcome: usize,
}

/// Trains an adapter on a frozen model. All memory is allocated at the start.
pub struct Trainer<'m, B: Backend, T: Float> {
    backend: &'m B,
    model: &'m Qwen3<B, T>,
    config: LoraConfig,
    adapter: DeviceAdapter<B, T>,
    /// What [`Trainer::adapter`] gives: taken at the start, so that saving cannot fail for memory.
    copy: Adapter,
    /// The same for a base from which PiSSA took nothing.
    whole: Option<OfWhole>,
    optimizer: Optimizer<B>,
    acts: Activations<B, T>,
    grads: Gradients<B, T>,
    loss: LossBuffers<B, T>,
    loss_scale: LossScale,
    options: TrainerOptions,
    /// Of the noise on embeddings, where there is to be some.
    noise: Option<f32>,
    micro_batches: u64,
    /// The last step, where nobody has asked yet what it did.
    queued: Option<Queued>,
    /// Of each micro-batch of the last step, where somebody wants to know.
    target_losses: Option<Vec<Vec<f32>>>,
}

/// The most tokens that one micro-batch can have: never more than there are, where an epoch has no sample more than `times`.
pub fn micro_batch_capacity(samples: &[Sample], times: usize, options: &BatchOptions) -> usize {
    let lengths = || samples.iter().map(|sample| sample.ids.len());
    let longest = if options.packing { options.max_seq_length } else { lengths().max().unwrap_or(0) };
    options.batch_size.saturating_mul(longest).min(lengths().sum::<usize>().saturating_mul(times))
}

/// How to do with less memory for activations of which so much is kept.
pub(super) fn shorter(kept: Kept) -> &'static str {
    if [Keep::Residual, Keep::Host].map(Kept::from).contains(&kept) {
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
        options::LORAPLUS_LR_RATIO.check(trainer.optimizer.lora_plus)?;
        options::MAX_GRAD_NORM.check(trainer.optimizer.max_grad_norm)?;
        trainer.optimizer.expect_for(adapter.layers.iter().map(|layer| layer.target.module))?;
        let config = adapter.config.clone();
        let what = || format!("an adapter with r = {} and its optimizer", config.r);
        let trained =
            Self::trained(backend, model, adapter, trainer.optimizer).map_err(Error::memory_for(what, SMALLER))?;
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
            whole: None,
            optimizer,
            acts,
            grads,
            loss,
            loss_scale,
            options: trainer,
            noise: None,
            micro_batches: 0,
            queued: None,
            target_losses: None,
        })
    }

    /// The memory of what is trained.
    fn trained(
        backend: &B,
        model: &Qwen3<B, T>,
        adapter: &Adapter,
        options: OptimizerOptions,
    ) -> Result<Trained<B, T>> {
        let (layout, flat) = Layout::of(adapter)?;
        let copy = layout.to_adapter(&adapter.config, &model.config, &flat)?;
        let optimizer = Optimizer::new(backend, &layout, &flat, options)?;
        Ok((model.adapt_flat(backend, layout, &flat)?, copy, optimizer))
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

    /// Trains on one step's micro-batches, and waits for what comes of it.
    ///
    /// The summed loss of all of them is divided by the number of their targets, so that accumulation equals one
    /// large batch.
    ///
    /// # Errors
    /// The loss or the gradient is not finite (in f16 such a step is left out and the loss scale halved, until it
    /// is 1), or the device refuses.
    pub fn step(&mut self, step: &Step) -> Result<StepReport> {
        let queued = self.queue(step)?;
        self.report(&queued)
    }

    /// The same, but says what the step before did, of which nobody was told yet: this one is queued before that one is
    /// waited for, so that the device always has something to do. A step that is not finite changes nothing, nor do those
    /// after it, and is an error one step later. f16, whose next loss scale a step decides, waits.
    ///
    /// # Errors
    /// Those of [`Trainer::step`].
    pub fn step_ahead(&mut self, step: &Step) -> Result<Option<StepReport>> {
        if T::DTYPE == DType::F16 {
            return self.step(step).map(Some);
        }
        let queued = self.queue(step)?;
        let before = self.queued.replace(queued);
        before.map(|before| self.report(&before)).transpose()
    }

    /// What the last step did, if nobody was told yet; waits.
    ///
    /// # Errors
    /// Those of [`Trainer::step`].
    pub fn finish(&mut self) -> Result<Option<StepReport>> {
        let last = self.queued.take();
        last.map(|last| self.report(&last)).transpose()
    }

    /// Queues a step; in f16 without the optimiser's part.
    fn queue(&mut self, step: &Step) -> Result<Queued> {
        let (backend, scale) = (self.backend, self.loss_scale.scale);
        self.target_losses.iter_mut().for_each(Vec::clear);
        backend.clear(self.grads.adapter.view_mut())?;
        self.loss.clear(backend)?;
        for batch in &step.micro_batches {
            self.accumulate(batch, scale / step.n_targets as f32)?;
        }
        let outcome = &mut self.optimizer.outcome;
        backend.copy(self.loss.total(), outcome.at_mut(0..1))?;
        Norm { x: self.grads.adapter.view(), out: outcome.at_mut(1..2) }.run(backend)?;
        let lr = self.options.schedule.lr(step.index);
        let place = (step.index % 2) as usize;
        if T::DTYPE != DType::F16 {
            self.update(lr)?;
        }
        let Optimizer { outcome, outcomes, .. } = &mut self.optimizer;
        backend.copy_aside(outcome.view(), outcomes[place].view_mut())?;
        Ok(Queued {
            index: step.index,
            epochs_done: step.epochs_done,
            lr,
            n_tokens: step.micro_batches.iter().map(Batch::n_tokens).sum(),
            n_targets: step.n_targets,
            loss_scale: scale,
            outcome: place,
        })
    }

    /// What a queued step did; waits for it.
    fn report(&mut self, queued: &Queued) -> Result<StepReport> {
        let outcome = self.backend.collect(self.optimizer.outcomes[queued.outcome].view())?;
        let (loss, norm) = (f64::from(outcome[0]) / queued.n_targets as f64, outcome[1]);
        let finite = norm.is_finite() && loss.is_finite();
        if !finite {
            self.overflow(queued.index, loss)?;
        } else if T::DTYPE == DType::F16 {
            self.update(queued.lr)?;
            self.loss_scale.succeeded(T::DTYPE);
        }
        Ok(StepReport {
            step: queued.index,
            epochs_done: queued.epochs_done,
            loss,
            grad_norm: f64::from(norm / queued.loss_scale),
            lr: queued.lr,
            n_tokens: queued.n_tokens,
            loss_scale: queued.loss_scale,
            skipped: !finite,
        })
    }

    fn accumulate(&mut self, batch: &Batch, grad_scale: f32) -> Result<()> {
        let p = self.config.dropout;
        let seed = DropoutSeed { p, seed: self.options.seed, micro_batch: self.micro_batches };
        self.micro_batches += 1;
        trace!(number = self.micro_batches, tokens = batch.n_tokens(), targets = batch.n_targets(), "micro-batch");
        let dropout = (p != 0.0).then_some(seed);
        let DropoutSeed { seed, micro_batch, .. } = seed;
        let noise = self.noise.map(|alpha| EmbeddingNoise { alpha, seed, micro_batch });
        let ctx = ForwardContext { backend: self.backend, adapter: Some(&self.adapter), dropout, noise };
        let (acts, grads) = (&mut self.acts, &mut self.grads);
        self.model.forward(ctx, acts, batch)?;
        self.model.loss_backward(ctx, batch, acts, &mut self.loss, grads, grad_scale)?;
        if let Some(losses) = &mut self.target_losses {
            losses.push(self.backend.download(self.loss.of_targets(batch.n_targets()))?);
        }
        self.model.backward(ctx, acts, grads)
    }

    /// The optimiser's part of a step, which does nothing where loss or norm are not finite.
    fn update(&mut self, lr: f64) -> Result<()> {
        let (grads, compute) = (&self.grads.adapter, &mut self.adapter.compute);
        self.optimizer.step(self.backend, lr, self.loss_scale.scale, grads, compute)?;
        self.model.follow(self.backend, &mut self.adapter, &self.optimizer.weights)
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

    /// The gradients of the last step, as tensors of an adapter; waits. For inspection.
    ///
    /// # Errors
    /// The device refuses.
    pub fn gradients(&self) -> Result<Adapter> {
        let flat = self.grads.adapter.to_vec(self.backend)?;
        self.adapter.layout.to_adapter(&self.config, &self.model.config, &flat)
    }

    /// Adds noise to the embeddings of every micro-batch from now on ([`EmbeddingNoise`]); 0 adds none.
    ///
    /// # Errors
    /// `alpha` is out of range.
    pub fn add_noise(&mut self, alpha: f32) -> Result<()> {
        options::NEFTUNE_ALPHA.check(alpha)?;
        self.noise = (alpha != 0.0).then_some(alpha);
        Ok(())
    }

    /// Reads the loss of every target from now on, which makes a step wait for each of its micro-batches.
    pub fn keep_target_losses(&mut self) {
        self.target_losses = Some(Vec::new());
    }

    /// The losses of all targets of each micro-batch of the last step, in nats, if they are kept.
    pub fn target_losses(&self) -> Option<&[Vec<f32>]> {
        self.target_losses.as_deref()
    }

    /// What it computes on.
    pub fn device(&self) -> String {
        self.backend.name()
    }

    /// Numbers that are trained.
    pub fn n_trainable(&self) -> usize {
        self.adapter.layout.n_trainable()
    }
}
