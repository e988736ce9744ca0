//! How long a run will take, before it.

use super::prepared::Prepared;
use crate::{
    config::Qwen3Config,
    device::{self, Job},
    error::Result,
    llm::held,
    model::{Base, Keep, Kept, Qwen3},
    settings::TrainSettings,
    speed::{Training, random_adapter, train},
    train::packing::Epoch,
};
use halfbyte::{Backend, Float};
use indicatif::HumanDuration;
use std::time::Duration;

/// The most tokens of a step that is measured: as many as make a GPU or a CPU as fast as it is.
const ON_GPU: usize = 2048;
const ON_CPU: usize = 256;

/// Steps of which one in the middle counts.
const STEPS: usize = 3;

/// Measures a step of a model like that of a run, but with random weights, and with one layer and with two.
struct Pace<'a> {
    config: &'a Qwen3Config,
    base: Base,
    rank: usize,
    dropout: f32,
    dora: bool,
    training: Training,
}

impl Job for Pace<'_> {
    /// Seconds of both.
    type Output = [f64; 2];

    fn run<B: Backend, T: Float>(self, backend: B) -> Result<[f64; 2]> {
        let seconds = |n_layers| -> Result<f64> {
            let config = Qwen3Config { n_layers, ..self.config.clone() };
            let model = Qwen3::<B, T>::random(&backend, &config, self.base, 0)?;
            let mut adapter = random_adapter(&config, self.rank, self.dropout, 0)?;
            adapter.config.use_dora = self.dora;
            model.measure(&backend, &mut adapter)?;
            Ok(train(&backend, &model, &adapter, self.training)?.step_s)
        };
        Ok([seconds(1)?, seconds(2)?])
    }
}

impl Prepared {
    /// About how long the steps will take, without evaluations, for people. The device is opened, and for some seconds it
    /// trains two layers of random weights.
    ///
    /// # Errors
    /// The device cannot be opened, or has no room for that.
    pub fn pace(&self) -> Result<String> {
        let TrainSettings { device, threads, bnb_4bit_compute_dtype: dtype, .. } = self.settings;
        let (batcher, plan) = (self.batcher()?, self.expected_plan()?);
        let (steps, epoch) = (batcher.total_steps(), batcher.first_epoch());
        let whole = plan.kept == Kept::from(Keep::Everything);
        let most = if device.may_be_gpu() { ON_GPU } else { ON_CPU };
        let training = measured(&epoch, most, if whole { Keep::Everything } else { Keep::Residual });
        let base = held(self.settings.base(), self.files.quantized_as());
        let (rank, dropout, dora) = (self.lora.r, self.lora.dropout, self.lora.use_dora);
        let pace = Pace { config: &self.config, base, rank, dropout, dora, training };
        let step = of_all_layers(device::run(device, threads, dtype, pace)?, self.config.n_layers);
        let rate = (training.batch * training.length) as f64 / step;
        let tokens = epoch.n_tokens as f64 / epoch.n_steps.max(1) as f64 * steps as f64;
        let time = HumanDuration(Duration::try_from_secs_f64((tokens / rate).max(1.0)).unwrap_or(Duration::MAX));
        Ok(format!(
            "time: about {time} at {rate:.0} tokens/s, as measured with random weights; evaluations not counted"
        ))
    }
}

/// A step with samples as long as those of an epoch.
fn measured(epoch: &Epoch, most: usize, kept: Keep) -> Training {
    let length = (epoch.n_tokens / epoch.n_samples.max(1)).clamp(2, most);
    let batch = (epoch.n_samples / epoch.n_micro_batches.max(1)).clamp(1, most / length);
    Training { batch, length, kept: kept.into(), steps: STEPS, profile: false }
}

/// Each layer takes what the second took.
fn of_all_layers([one, two]: [f64; 2], n_layers: usize) -> f64 {
    one + (two - one).max(0.0) * n_layers.saturating_sub(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_measured_with_samples_of_the_epochs_length() {
        let epoch = |n_samples, n_tokens, n_micro_batches| {
            let measured = measured(
                &Epoch { n_steps: 1, n_micro_batches, n_samples, n_tokens, fill: None },
                256,
                Keep::Everything,
            );
            (measured.batch, measured.length)
        };
        assert_eq!(epoch(100, 3000, 25), (4, 30));
        assert_eq!(epoch(100, 3000, 1), (8, 30));
        assert_eq!(epoch(10, 100_000, 10), (1, 256));
        assert_eq!(epoch(3, 3, 1), (3, 2));
        assert_eq!((of_all_layers([2.0, 3.0], 10), of_all_layers([2.0, 1.9], 10)), (11.0, 2.0));
    }

    #[test]
    fn a_run_has_a_pace() {
        let settings = TrainSettings { device: "cpu".parse().unwrap(), ..TrainSettings::default() };
        let said = Prepared::new(&settings).unwrap().pace().unwrap();
        let rate = said.split(" at ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let rate: f64 = rate.parse().unwrap();
        // Some tens of millions of operations for each token, on whatever tests run on.
        assert!(rate > 1.0 && rate < 1e6, "{said}");
    }
}
