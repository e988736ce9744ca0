//! The loss of each sample of a step.

use super::packing::Step;
use crate::batch::{Batch, IGNORE};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What a sample cost in a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SampleLoss {
    /// Its number among the samples that are trained on, counted from 1.
    pub sample: usize,
    /// The mean over its targets, in nats.
    pub loss: f64,
    /// Its targets.
    pub targets: usize,
}

/// The samples of a step, of whose micro-batches these are the losses of all targets, in their order.
pub(crate) fn sample_losses(step: &Step, target_losses: &[Vec<f32>]) -> Vec<SampleLoss> {
    let micro_batches = step.micro_batches.iter().zip(&step.samples).zip(target_losses);
    micro_batches.flat_map(|((batch, samples), losses)| of_batch(batch, samples, losses)).collect()
}

fn of_batch<'a>(
    batch: &'a Batch,
    samples: &'a [usize],
    mut losses: &'a [f32],
) -> impl Iterator<Item = SampleLoss> + 'a {
    let labels = batch.cu_seqlens.windows(2).map(|ends| &batch.labels[ends[0] as usize..ends[1] as usize]);
    samples.iter().zip(labels).map(move |(&sample, labels)| {
        let targets = labels.iter().filter(|&&label| label != IGNORE).count();
        let (own, rest) = losses.split_at(targets);
        losses = rest;
        let sum: f64 = own.iter().map(|&loss| f64::from(loss)).sum();
        SampleLoss { sample: sample + 1, loss: sum / targets as f64, targets }
    })
}

/// What a line of metrics says of samples; the rest of it is passed over.
#[derive(Deserialize)]
struct Line {
    step: u64,
    #[serde(default)]
    sample_losses: Vec<SampleLoss>,
}

/// The samples whose loss was the highest when they were last seen, the worst first, each with the step.
pub(crate) fn worst(metrics: &str, n: usize) -> Vec<(SampleLoss, u64)> {
    // A loss that is not finite is null there, and its line is passed over.
    let lines = metrics.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let seen = lines.flat_map(|Line { step, sample_losses }| sample_losses.into_iter().map(move |loss| (loss, step)));
    let last: HashMap<_, _> = seen.map(|seen| (seen.0.sample, seen)).collect();
    let mut all: Vec<_> = last.into_values().collect();
    all.sort_by(|(a, _), (b, _)| b.loss.total_cmp(&a.loss).then(a.sample.cmp(&b.sample)));
    all.truncate(n);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Sample;

    #[test]
    fn each_sample_has_the_mean_of_its_own_targets() {
        let sample = |mask: &[bool]| Sample { ids: vec![7; mask.len()], mask: mask.to_vec() };
        let (one, two) = (sample(&[false, true, true, false]), sample(&[true, false, true]));
        let micro_batches = vec![Batch::new([&one, &two]), Batch::new([&two])];
        let step = Step { micro_batches, samples: vec![vec![4, 0], vec![2]], ..Step::default() };
        let all = sample_losses(&step, &[vec![1.0, 2.0, 5.0], vec![0.5]]);
        let want = [(5, 1.5, 2), (1, 5.0, 1), (3, 0.5, 1)];
        assert_eq!(all, want.map(|(sample, loss, targets)| SampleLoss { sample, loss, targets }));
    }

    #[test]
    fn the_worst_are_those_when_last_seen() {
        let lines = r#"{"step":1,"sample_losses":[{"sample":1,"loss":9.0,"targets":2},{"sample":2,"loss":3.0,"targets":1}]}
            {"step":2,"loss":1.0}
            {"step":3,"sample_losses":[{"sample":1,"loss":2.0,"targets":2},{"sample":3,"loss":2.0,"targets":1}]}
            {"step":4,"sample_losses":[{"sample":4,"loss":null,"targets":2}]}"#;
        let worst: Vec<_> = worst(lines, 2).iter().map(|(loss, step)| (loss.sample, loss.loss, *step)).collect();
        assert_eq!(worst, [(2, 3.0, 1), (1, 2.0, 3)]);
    }
}
