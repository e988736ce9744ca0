//! Learning-rate schedules, as transformers' `get_scheduler` computes them.

use crate::error::{Error, Result};
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

/// How the learning rate falls, for the kinds of schedule that can be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fall {
    /// Where it ends; 0 where nothing is said, and 1e-7 for [`ScheduleKind::Polynomial`], as in transformers.
    pub min_lr: Option<f64>,
    /// The share of all steps, rounded up, in which [`ScheduleKind::WarmupStableDecay`] falls.
    pub decay_ratio: f64,
    /// The power of [`ScheduleKind::Polynomial`].
    pub power: f64,
}

impl Default for Fall {
    fn default() -> Self {
        Fall { min_lr: None, decay_ratio: 0.1, power: 1.0 }
    }
}

/// A learning rate for each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    peak: f64,
    warmup_steps: u64,
    total_steps: u64,
    fall: Fall,
}

impl Schedule {
    /// A schedule that reaches `peak` after the warm-up and ends at `total_steps`.
    ///
    /// # Errors
    /// When `peak` is negative or not finite, or a warm-up ratio is outside `[0, 1]`.
    pub fn new(kind: ScheduleKind, peak: f64, warmup: Warmup, total_steps: u64) -> Result<Self> {
        options::LEARNING_RATE.check(peak)?;
        Ok(Self { kind, peak, warmup_steps: warmup.steps(total_steps)?, total_steps, fall: Fall::default() })
    }

    /// The same, but for how it falls.
    ///
    /// # Errors
    /// A number is out of range, the end is above the peak, or [`ScheduleKind::CosineWithMinLr`] is not told its end.
    pub fn falling(self, fall: Fall) -> Result<Self> {
        options::DECAY_RATIO.check(fall.decay_ratio)?;
        options::LR_POWER.check(fall.power)?;
        match fall.min_lr {
            None if self.kind == ScheduleKind::CosineWithMinLr => {
                Err(Error::setting("min_lr", "none", "the schedule cosine_with_min_lr must be told it"))
            }
            Some(min) if !(0.0..=self.peak).contains(&min) => {
                let want = format!("it must be from 0 to the learning rate, {}", self.peak);
                Err(Error::setting("min_lr", min, want))
            }
            _ => Ok(Self { fall, ..self }),
        }
    }

    /// The learning rate of optimiser step `step`, counted from 0.
    ///
    /// With a warm-up the first step's is 0, as in transformers, whose schedulers count finished steps; but for
    /// [`ScheduleKind::WarmupStableDecay`], which rises from where it ends.
    pub fn lr(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    /// Where it ends, as a share of the peak.
    fn least(&self) -> f64 {
        let default = if self.kind == ScheduleKind::Polynomial { self.peak.min(1e-7) } else { 0.0 };
        if self.peak == 0.0 { 0.0 } else { self.fall.min_lr.unwrap_or(default) / self.peak }
    }

    fn factor(&self, step: u64) -> f64 {
        let least = self.least();
        let above_least = |factor: f64| factor * (1.0 - least) + least;
        if step < self.warmup_steps {
            let rise = step as f64 / self.warmup_steps as f64;
            return if self.kind == ScheduleKind::WarmupStableDecay { above_least(rise) } else { rise };
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / decay_steps).min(1.0);
        match self.kind {
            ScheduleKind::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps,
            ScheduleKind::Cosine => half_cosine(progress),
            ScheduleKind::CosineWithMinLr => above_least(half_cosine(progress)),
            ScheduleKind::WarmupStableDecay => {
                self.last_fall(step).map_or(1.0, |fallen| above_least(half_cosine(fallen)))
            }
            ScheduleKind::Polynomial => above_least((1.0 - progress).powf(self.fall.power)),
            ScheduleKind::Constant => 1.0,
        }
    }

    /// How much of the fall at the end is done, from 0 to 1, once it has begun.
    fn last_fall(&self, step: u64) -> Option<f64> {
        let steps = (self.total_steps as f64 * self.fall.decay_ratio).ceil() as u64;
        let since = step.checked_sub(self.total_steps - steps)?;
        Some((since as f64 / steps.max(1) as f64).min(1.0))
    }
}

/// From 1 to 0.
fn half_cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}
