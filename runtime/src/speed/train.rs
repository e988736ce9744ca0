use super::{profile::profile, random_ids};
use crate::{
    batch::{Batch, Sample},
    config::Qwen3Config,
    error::{Error, Result},
    lora::Adapter,
    model::{Kept, Qwen3},
    options,
    train::{
        packing::Step,
        schedule::{Schedule, ScheduleKind, Warmup},
        trainer::{OptimizerOptions, StepReport, Trainer, TrainerOptions},
    },
};
use halfbyte::{Backend, Float, OpTime, host};
use std::time::Instant;

/// Steps before the clock runs.
const WARM_UP: usize = 3;

/// High enough to move an adapter, low enough to do so for as many steps as somebody has time for.
const LEARNING_RATE: f64 = 1e-4;

/// What is trained on: sequences of one length, of which every token but the first is a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// Sequences of a step.
    pub batch: usize,
    /// Tokens of each.
    pub length: usize,
    /// What each layer keeps for the backward pass.
    pub kept: Kept,
    /// Steps while the clock runs.
    pub steps: usize,
    /// Times the ops of one step more.
    pub profile: bool,
}

/// How fast that went.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TrainSpeed {
    /// Tokens of one step.
    pub n_tokens: usize,
    /// Seconds of a step, optimiser included: the median.
    pub step_s: f64,
    /// The tokens of a step by its seconds.
    pub tokens_per_s: f64,
    /// Loss of the last step, in nats.
    pub loss: f64,
    /// The most bytes that buffers took, weights and scratch memory included.
    pub peak_bytes: usize,
    /// What the ops of a step take one by one, if that was asked for.
    pub ops: Vec<OpTime>,
}

impl Training {
    /// Refuses what no model of this shape can do.
    ///
    /// # Errors
    /// A number is out of range, or sequences are longer than the model has positions.
    pub fn check(&self, config: &Qwen3Config) -> Result<()> {
        options::BATCH_SIZE.check(self.batch)?;
        options::TRAINED_LENGTH.check(self.length)?;
        options::MAX_STEPS.check(self.steps)?;
        if self.length > config.positions() {
            let want = format!("the model has {} positions; lower --length", config.positions());
            return Err(Error::setting(options::TRAINED_LENGTH.name, self.length, want));
        }
        Ok(())
    }

    fn trainer(&self) -> Result<TrainerOptions> {
        let steps = (WARM_UP + self.steps + usize::from(self.profile)) as u64;
        Ok(TrainerOptions {
            capacity: self.batch * self.length,
            kept: self.kept,
            schedule: Schedule::new(ScheduleKind::Constant, LEARNING_RATE, Warmup::Steps(0), steps)?,
            optimizer: OptimizerOptions::default(),
            seed: 0,
        })
    }

    /// The one micro-batch that every step sees.
    fn batch(&self, vocab: usize) -> Result<Batch> {
        let sample = |text| -> Result<_> {
            let (ids, mask) = (random_ids(self.length, vocab, text)?, std::iter::repeat_n(true, self.length));
            Ok(Sample { ids, mask: host::collect(self.length, mask)? })
        };
        Ok(Batch::new(&(0..self.batch).map(sample).collect::<Result<Vec<_>>>()?))
    }
}

/// Measures how fast an adapter is trained, with AdamW.
///
/// # Errors
/// As for [`Training::check`]; the device has too little memory ([`Error::memory`]), or refuses; training diverges.
pub fn train<B: Backend, T: Float>(
    backend: &B,
    model: &Qwen3<B, T>,
    adapter: &Adapter,
    training: Training,
) -> Result<TrainSpeed> {
    training.check(&model.config)?;
    backend.restart_peak();
    let mut trainer = Trainer::new(backend, model, adapter, training.trainer()?)?;
    let batch = training.batch(model.config.vocab_size)?;
    let n_targets = batch.n_targets();
    let mut step = Step { micro_batches: vec![batch], n_targets, ..Step::default() };
    let mut seconds = host::room(training.steps + 1)?;
    let (mut n_tokens, mut loss, mut told) = (0, 0.0, 0);
    let mut began = Instant::now();
    let mut tell = |report: Option<StepReport>| {
        let Some(report) = report else { return };
        if told >= WARM_UP {
            seconds.push(began.elapsed().as_secs_f64());
        }
        (began, told) = (Instant::now(), told + 1);
        (n_tokens, loss) = (report.n_tokens, report.loss);
    };
    let behind = backend.runs_behind();
    // The last of a backend that runs behind is not timed: its report waits for nothing that is queued after it.
    for index in 0..WARM_UP + training.steps + usize::from(behind) {
        step.index = index as u64;
        // Reports of a backend that is done when it returns would come a step late.
        tell(if behind { trainer.step_ahead(&step)? } else { Some(trainer.step(&step)?) });
    }
    trainer.finish()?;
    let step_s = median(&mut seconds);
    let (tokens_per_s, peak_bytes) = (n_tokens as f64 / step_s, backend.memory().peak);
    let ops = match training.profile {
        true => profile(backend, || trainer.step(&step).map(drop))?,
        false => Vec::new(),
    };
    Ok(TrainSpeed { n_tokens, step_s, tokens_per_s, loss, peak_bytes, ops })
}

/// Of an even number of values, the mean of the two in the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    (values[middle] + values[(values.len() - 1) / 2]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn half_the_values_lie_on_either_side_of_the_median() {
        assert_eq!(median(&mut [3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(&mut [4.0, 1.0, 9.0, 2.0]), 3.0);
        assert_eq!(median(&mut [5.0]), 5.0);
    }
}
