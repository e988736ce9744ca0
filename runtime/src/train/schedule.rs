//! Learning-rate schedules, as transformers' `get_scheduler` computes them.

use crate::error::Result;
use crate::options;
pub use crate::settings::choices::ScheduleKind;

/// How long the learning rate rises linearly from zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// This many steps.
    Steps(u64),
    /// This share of all steps, in `[0, 1]`, rounded up.
    Ratio(f64),
}

impl Warmup {
    /// The number of warm-up steps among `total` steps.
    fn steps(self, total: u64) -> Result<u64> {
        match self {
            Self::Steps(steps) => Ok(steps),
            Self::Ratio(ratio) => {
                options::WARMUP_RATIO.check(ratio)?;
                Ok((total as f64 * ratio).ceil() as u64)
            }
        }
    }
}

/// A learning rate for each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    peak: f64,
    warmup_steps: u64,
    total_steps: u64,
}

impl Schedule {
    /// A schedule that reaches `peak` after the warm-up and ends at `total_steps`.
    ///
    /// # Errors
    /// When `peak` is negative or not finite, or a warm-up ratio is outside `[0, 1]`.
    pub fn new(kind: ScheduleKind, peak: f64, warmup: Warmup, total_steps: u64) -> Result<Self> {
        options::LEARNING_RATE.check(peak)?;
        Ok(Self { kind, peak, warmup_steps: warmup.steps(total_steps)?, total_steps })
    }

    /// The learning rate of optimiser step `step`, counted from 0.
    ///
    /// With a warm-up the first step's is 0, as in transformers, whose schedulers count finished steps.
    pub fn lr(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.kind {
            ScheduleKind::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps,
            ScheduleKind::Cosine => {
                let progress = ((step - self.warmup_steps) as f64 / decay_steps).min(1.0);
                0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            ScheduleKind::Constant => 1.0,
        }
    }
}
