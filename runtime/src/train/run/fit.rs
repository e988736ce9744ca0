//! The largest micro-batches that memory has room for.

use super::{need::Extent, plan::Plan, prepared::Prepared};
use crate::{
    device::{self, Job},
    error::Result,
    settings::{Section, TrainSettings},
    train::{checkpoint::Saved, packing::BatchOptions, trainer::micro_batch_capacity},
};
use halfbyte::{Backend, Float, host};

/// Asks the device how much is free.
struct Free;

impl Job for Free {
    type Output = Option<usize>;

    fn run<B: Backend, T: Float>(self, backend: B) -> Result<Option<usize>> {
        Ok(backend.free_memory())
    }
}

/// The settings, with the micro-batches that a run had which goes on.
///
/// # Errors
/// The checkpoint is of a run that had none of that kind.
pub(super) fn as_begun(settings: &TrainSettings, saved: Option<&Saved>) -> Result<TrainSettings> {
    let mut settings = settings.clone();
    if let Some(saved) = saved.filter(|_| settings.auto_batch_size) {
        for name in ["batch_size", "gradient_accumulation_steps"] {
            saved
                .setting(name)
                .map_or(Ok(()), |text| settings.set(name, text))
                .map_err(|want| saved.damaged(name, want))?;
        }
    }
    Ok(settings)
}

impl Prepared {
    /// Whether the size of micro-batches is still to be chosen, once the GPU is asked how much is free.
    pub(super) fn asks_gpu(&self) -> bool {
        self.settings.auto_batch_size && self.saved.is_none() && self.settings.device.may_be_gpu()
    }

    /// With micro-batches that fit the host, where that is what computes.
    ///
    /// # Errors
    /// Those of [`Extent::need`].
    pub(super) fn fitted_to_host(self) -> Result<Self> {
        if !self.settings.auto_batch_size || self.saved.is_some() || self.asks_gpu() {
            return Ok(self);
        }
        let (mut run, said) = self.fitted(host::free())?;
        run.notes.push(said);
        Ok(run)
    }

    /// With micro-batches that fit the GPU, which is opened for that, where it computes; and what they are.
    ///
    /// # Errors
    /// It cannot be opened, or those of [`Extent::need`].
    pub(super) fn fitted_to_gpu(self) -> Result<(Self, Option<String>)> {
        if !self.asks_gpu() {
            return Ok((self, None));
        }
        let TrainSettings { device, threads, bnb_4bit_compute_dtype: dtype, .. } = self.settings;
        let (run, said) = self.fitted(device::run(device, threads, dtype, Free)?)?;
        Ok((run, Some(said)))
    }

    /// With the largest micro-batches for which `free` bytes have room, a tenth of them left, as long as the samples of a
    /// step stay the same; and what they are. Where not even the smallest fit, less of them is kept.
    fn fitted(mut self, free: Option<usize>) -> Result<(Self, String)> {
        let options = self.settings.batches();
        let all = options.batch_size.saturating_mul(options.gradient_accumulation_steps);
        let Some(free) = free else {
            return Ok((self, "nobody knows how much memory is free: micro-batches stay as they are".into()));
        };
        let mut sizes = divisors(all);
        let size = loop {
            let Some(size) = sizes.pop() else { break 1 };
            let extent = Extent { capacity: self.capacity_of(size), ..self.extent() };
            let plan = Plan::of(self.activation_memory(), &self.config);
            if size == 1 || extent.need(plan)?.total() <= free - free / 10 {
                break size;
            }
        };
        self.capacity = self.capacity_of(size);
        self.settings.batch_size = Some(size);
        self.settings.gradient_accumulation_steps = all / size;
        let said = format!("micro-batches: {size} at a time, {} for each step (--auto-batch-size)", all / size);
        Ok((self, said))
    }

    /// The most tokens at once, with micro-batches of so many samples.
    fn capacity_of(&self, batch_size: usize) -> usize {
        let (train, options) = (&self.texts.train, BatchOptions { batch_size, ..self.settings.batches() });
        micro_batch_capacity(&train.samples, train.times(), &options).max(self.texts.longest_evaluated())
    }
}

/// What divides a number, the smallest first.
fn divisors(n: usize) -> Vec<usize> {
    let small: Vec<_> =
        (1..).take_while(|d: &usize| d.saturating_mul(*d) <= n).filter(|d| n.is_multiple_of(*d)).collect();
    let large = small.iter().rev().map(|d| n / d).filter(|d| !small.contains(d));
    small.iter().copied().chain(large).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(batch_size: usize, steps: usize) -> Prepared {
        let settings = TrainSettings {
            use_4bit: true,
            device: "cpu".parse().unwrap(),
            batch_size: Some(batch_size),
            gradient_accumulation_steps: steps,
            auto_batch_size: true,
            output: tempfile::tempdir().unwrap().path().join("adapter"),
            ..TrainSettings::default()
        };
        Prepared::new(&settings).unwrap()
    }

    #[test]
    fn divisors_are_in_order() {
        assert_eq!(divisors(12), [1, 2, 3, 4, 6, 12]);
        assert_eq!((divisors(1), divisors(49), divisors(13)), (vec![1], vec![1, 7, 49], vec![1, 13]));
    }

    #[test]
    fn the_largest_that_fits_is_taken_and_the_step_stays() {
        let need = |size: usize| {
            let run = prepared(size, 1);
            run.extent().need(run.expected_plan().unwrap()).unwrap().total()
        };
        let free = |bytes: usize| bytes * 10 / 9 + 10;
        for (bytes, want) in [(need(24), (24, 1)), (need(12), (12, 2)), (need(6) + 1, (6, 4)), (0, (1, 24))] {
            let (run, said) = prepared(8, 3).fitted(Some(free(bytes))).unwrap();
            let TrainSettings { batch_size, gradient_accumulation_steps, .. } = run.settings;
            assert_eq!((batch_size, gradient_accumulation_steps), (Some(want.0), want.1), "{said:?}");
            assert_eq!(run.capacity, run.capacity_of(want.0));
        }
        let (run, said) = prepared(8, 3).fitted(None).unwrap();
        assert!(run.settings.batch_size == Some(24) && said.contains("nobody knows"));
    }
}
