//! Samples into steps: shuffling, packing without padding, gradient accumulation.

use std::fmt;

use halfbyte::{Count, host};
use rayon::prelude::*;

use crate::batch::{Batch, Sample};
use crate::builder::builder;
use crate::error::{Error, Result};
use crate::options;
pub use crate::settings::choices::PackingStrategy;

mod fit;
mod order;

use fit::{best_fit, first_fit};
pub use order::Share;

/// The most samples of all epochs that are put into micro-batches beforehand.
const MAX_PLANNED: u64 = 1 << 25;

/// How long to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TrainLength {
    /// This many passes over the samples; a fraction ends within a pass.
    Epochs(f64),
    /// This many steps, over as many passes as it takes.
    Steps(u64),
}

builder! {
    /// How samples become steps.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct BatchOptions {
        /// Samples of a micro-batch; with `packing`, its token budget in units of `max_seq_length`.
        pub batch_size: usize,
        /// The longest sample, in tokens.
        pub max_seq_length: usize,
        /// Fill each micro-batch up to `batch_size * max_seq_length` tokens.
        pub packing: bool,
        /// Which micro-batch a sample is packed into.
        pub packing_strategy: PackingStrategy,
        /// Micro-batches of a step; the last step of an epoch has what is left.
        pub gradient_accumulation_steps: usize,
        /// Another order in each epoch; `false` keeps the order of the file.
        pub shuffle: bool,
        /// The seed of the order.
        pub seed: u64,
        /// When to stop.
        pub length: TrainLength,
    }
}

impl BatchOptions {
    /// Micro-batches of so many samples of up to so many tokens, one for each step, in another order in each epoch.
    pub fn new(batch_size: usize, max_seq_length: usize, length: TrainLength) -> Self {
        BatchOptions {
            batch_size,
            max_seq_length,
            packing: false,
            packing_strategy: PackingStrategy::FirstFit,
            gradient_accumulation_steps: 1,
            shuffle: true,
            seed: 0,
            length,
        }
    }
}

/// What one optimiser step sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Its number, counted from 0 over the whole run.
    pub index: u64,
    /// The epoch that it belongs to, counted from 0.
    pub epoch: u64,
    /// Passes over the data once it is done, with the fraction.
    pub epochs_done: f64,
    /// One to `gradient_accumulation_steps` micro-batches.
    pub micro_batches: Vec<Batch>,
    /// Which samples each of them has, counted from 0, in its order.
    pub samples: Vec<Vec<usize>>,
    /// Targets in all micro-batches: the number that the summed loss is divided by.
    pub n_targets: usize,
}

/// A place in the data; with the seed, it says what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Epochs that are over.
    pub epoch: u64,
    /// Steps of the epoch that are done.
    pub step: u64,
}

/// What an epoch comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Steps.
    pub n_steps: u64,
    /// Micro-batches of them.
    pub n_micro_batches: usize,
    /// Samples, and their tokens.
    pub n_samples: usize,
    /// Tokens.
    pub n_tokens: usize,
    /// The share of the micro-batches' room that tokens fill, where samples are packed into it.
    pub fill: Option<f64>,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = Count(usize::try_from(self.n_steps).unwrap_or(usize::MAX), "step");
        let (samples, tokens) = (Count(self.n_samples, "sample"), Count(self.n_tokens, "token"));
        write!(f, "an epoch: {samples}, {tokens}, {steps}")?;
        let Some(fill) = self.fill else { return Ok(()) };
        let batches = self.n_micro_batches;
        write!(f, "; micro-batches: {batches}, filled to {:.1} %", 100.0 * fill)
    }
}

/// Turns samples into steps; the same samples, options and seed always give the same steps.
#[derive(Clone, Debug)]
pub struct Batcher<'a> {
    samples: &'a [Sample],
    shares: Vec<Share>,
    options: BatchOptions,
    total_steps: u64,
}

impl<'a> Batcher<'a> {
    /// Each sample once in an epoch.
    ///
    /// # Errors
    /// When there are no samples, one of them is too long or has no target, or an option makes no sense.
    pub fn new(samples: &'a [Sample], options: BatchOptions) -> Result<Self> {
        Self::mixed(samples, vec![Share { n_samples: samples.len(), weight: 1.0 }], options)
    }

    /// Some samples more often than others; `shares` are of all of them, in their order.
    ///
    /// # Errors
    /// Those of [`Batcher::new`]; the shares come to no sample, or to more than memory has room for.
    pub fn mixed(samples: &'a [Sample], shares: Vec<Share>, options: BatchOptions) -> Result<Self> {
        check_options(&options)?;
        check_samples(samples, options.max_seq_length)?;
        check_shares(&shares, samples.len())?;
        let mut batcher = Self { samples, shares, options, total_steps: 0 };
        batcher.total_steps = batcher.count_steps()?;
        Ok(batcher)
    }

    /// The number of steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// What the first epoch comes to; others may differ a little, where they are packed or have other samples.
    pub fn first_epoch(&self) -> Epoch {
        let plan = self.plan(0);
        let n_tokens = plan.iter().flatten().map(|&i| self.samples[i].ids.len()).sum();
        let room = plan.len() * self.options.batch_size * self.options.max_seq_length;
        Epoch {
            n_steps: self.steps_of(&plan),
            n_micro_batches: plan.len(),
            n_samples: self.per_epoch(),
            n_tokens,
            fill: self.options.packing.then_some(n_tokens as f64 / room as f64),
        }
    }

    /// Where a run is after `done` steps.
    pub fn position(&self, done: u64) -> Position {
        let steps = self.steps(done);
        Position { epoch: steps.epoch, step: done.saturating_sub(steps.epoch_start) }
    }

    /// The steps from number `start` on: 0 for a new run, the number of finished steps for a resumed one.
    pub fn steps(&self, start: u64) -> Steps<'_> {
        let mut steps = Steps { batcher: self, next: start, epoch: 0, epoch_start: 0, plan: self.plan(0) };
        while start < self.total_steps && start >= steps.epoch_end() {
            steps.next_epoch();
        }
        steps
    }

    /// The micro-batches of an epoch, each a list of sample indices.
    fn plan(&self, epoch: u64) -> Vec<Vec<usize>> {
        let options = &self.options;
        let order = order::order(&self.shares, epoch, options.seed, options.shuffle);
        if options.packing {
            let lengths: Vec<_> = order.iter().map(|&i| self.samples[i].ids.len()).collect();
            let pack = match options.packing_strategy {
                PackingStrategy::FirstFit => first_fit,
                PackingStrategy::BestFit => best_fit,
            };
            let bins = pack(&lengths, options.batch_size * options.max_seq_length);
            bins.into_iter().map(|bin| bin.into_iter().map(|at| order[at]).collect()).collect()
        } else {
            order.chunks(options.batch_size).map(<[_]>::to_vec).collect()
        }
    }

    fn steps_of(&self, plan: &[Vec<usize>]) -> u64 {
        plan.len().div_ceil(self.options.gradient_accumulation_steps) as u64
    }

    fn count_steps(&self) -> Result<u64> {
        let epochs = match self.options.length {
            TrainLength::Steps(steps) => return Ok(steps),
            TrainLength::Epochs(epochs) => epochs,
        };
        let steps_in = |epoch| self.steps_of(&self.plan(epoch));
        let whole = epochs.trunc() as u64;
        // Only other samples, or another order of them, can be packed into another number of micro-batches.
        let ordered = !self.options.shuffle || self.options.packing_strategy == PackingStrategy::BestFit;
        let alike = ordered && self.shares.iter().all(Share::is_whole);
        let steps = if self.options.packing && !alike {
            self.check_planning(whole)?;
            (0..whole).into_par_iter().map(steps_in).sum()
        } else {
            whole * steps_in(0)
        };
        // A hair less, so that the rounding of 2.2 does not become a step.
        let rest = steps_in(whole) as f64 * epochs.fract() - 1e-6;
        let steps = steps + rest.ceil().max(0.0) as u64;
        if steps == 0 {
            let got = format!("{epochs}, which is no step with {}", Count(self.per_epoch(), "sample"));
            return Err(Error::setting(options::EPOCHS.name, got, "there must be at least 1 step; raise it"));
        }
        Ok(steps)
    }

    /// Refuses more epochs than can be planned in a few seconds: their steps must be known for the learning rate.
    fn check_planning(&self, epochs: u64) -> Result<()> {
        let most = MAX_PLANNED / self.per_epoch() as u64;
        // One epoch is planned in any case.
        if epochs <= most.max(1) {
            return Ok(());
        }
        let got = format!("{epochs} with packing, where the steps of each must be counted");
        let want = format!(
            "it may be at most {} with {}; give --max-steps instead",
            most.max(1),
            Count(self.per_epoch(), "sample")
        );
        Err(Error::setting(options::EPOCHS.name, got, want))
    }

    /// Samples of an epoch.
    pub fn per_epoch(&self) -> usize {
        self.shares.iter().map(Share::per_epoch).sum()
    }

    fn micro_batch(&self, samples: &[usize]) -> Batch {
        Batch::new(samples.iter().map(|&i| &self.samples[i]))
    }
}

/// The steps of a run, in order; made by [`Batcher::steps`].
#[derive(Clone, Debug)]
pub struct Steps<'a> {
    batcher: &'a Batcher<'a>,
    next: u64,
    epoch: u64,
    /// The number of the epoch's first step.
    epoch_start: u64,
    /// The epoch's micro-batches.
    plan: Vec<Vec<usize>>,
}

impl Steps<'_> {
    fn epoch_end(&self) -> u64 {
        self.epoch_start + self.batcher.steps_of(&self.plan)
    }

    fn next_epoch(&mut self) {
        self.epoch_start = self.epoch_end();
        self.epoch += 1;
        self.plan = self.batcher.plan(self.epoch);
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.next >= self.batcher.total_steps {
            return None;
        }
        if self.next == self.epoch_end() {
            self.next_epoch();
        }
        let accumulation = self.batcher.options.gradient_accumulation_steps;
        let first = (self.next - self.epoch_start) as usize * accumulation;
        let last = (first + accumulation).min(self.plan.len());
        let samples = self.plan[first..last].to_vec();
        let micro_batches: Vec<_> = samples.iter().map(|m| self.batcher.micro_batch(m)).collect();
        let n_targets = micro_batches.iter().map(Batch::n_targets).sum();
        let (index, epoch) = (self.next, self.epoch);
        self.next += 1;
        let share = (self.next - self.epoch_start) as f64 / (self.epoch_end() - self.epoch_start) as f64;
        Some(Step { index, epoch, epochs_done: epoch as f64 + share, micro_batches, samples, n_targets })
    }
}

fn check_options(options: &BatchOptions) -> Result<()> {
    options::BATCH_SIZE.check(options.batch_size)?;
    options::MAX_SEQ_LENGTH.check(options.max_seq_length)?;
    options::ACCUMULATION.check(options.gradient_accumulation_steps)?;
    match options.length {
        TrainLength::Epochs(epochs) => options::EPOCHS.check(epochs)?,
        TrainLength::Steps(steps) => options::MAX_STEPS.check(steps)?,
    }
    // Offsets into a micro-batch are u32 on the device, and i32 in places.
    match options.batch_size.checked_mul(options.max_seq_length) {
        Some(tokens) if tokens <= i32::MAX as usize => Ok(()),
        _ => Err(Error::setting(
            "batch size x max sequence length",
            format!("{} x {}", options.batch_size, options.max_seq_length),
            "a micro-batch may hold at most 2147483647 tokens",
        )),
    }
}

fn check_shares(shares: &[Share], n_samples: usize) -> Result<()> {
    let of_all: usize = shares.iter().map(|share| share.n_samples).sum();
    if of_all != n_samples {
        return Err(Error::setting("samples of all shares", of_all, format!("there are {n_samples}")));
    }
    shares.iter().try_for_each(|share| options::DATA_WEIGHT.check(share.weight))?;
    let per_epoch = shares.iter().map(Share::per_epoch).fold(0, usize::saturating_add);
    if per_epoch == 0 {
        return Err(Error::setting(
            "samples of an epoch",
            0,
            "there must be at least 1; raise the weights of the data",
        ));
    }
    // Keys and places while they are sorted.
    Ok(host::check(per_epoch.saturating_mul(64))?)
}

fn check_samples(samples: &[Sample], max_seq_length: usize) -> Result<()> {
    if samples.is_empty() {
        return Err(Error::setting("samples", 0, "there must be at least 1 to train on"));
    }
    for (index, sample) in samples.iter().enumerate() {
        let len = sample.ids.len();
        if len > max_seq_length {
            let want = format!("the longest allowed sequence has {max_seq_length}");
            return Err(Error::setting("tokens of a sample", format!("{len} (sample {index})"), want));
        }
        if sample.n_targets() == 0 {
            return Err(Error::setting(
                "targets of a sample",
                format!("0 (sample {index})"),
                "it must have at least 1",
            ));
        }
    }
    Ok(())
}
