//! Which evaluation of a run is the best.

use serde::{Deserialize, Serialize};

/// What evaluations between steps have shown so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evaluations {
    /// The lowest held-out loss, and the steps that were done then.
    pub best: Option<(u64, f64)>,
    /// Evaluations since then.
    pub since: u64,
}

impl Evaluations {
    /// Notes the loss after `step` steps. One that is not finite is never the best.
    pub fn note(&mut self, step: u64, loss: f64) {
        self.since += 1;
        if loss.is_finite() && self.best.is_none_or(|(_, best)| loss < best) {
            *self = Evaluations { best: Some((step, loss)), since: 0 };
        }
    }

    /// Whether that of `step` is the best.
    pub fn is_best(&self, step: u64) -> bool {
        self.best.is_some_and(|(best, _)| best == step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_loss_is_the_best_and_the_first_of_equals() {
        let mut all = Evaluations::default();
        let losses = [f64::NAN, 3.0, 2.0, 2.0, f64::NAN, f64::NEG_INFINITY, 1.5, 4.0];
        let since = [1, 0, 0, 1, 2, 3, 0, 1];
        for (step, (loss, since)) in losses.into_iter().zip(since).enumerate() {
            all.note(step as u64, loss);
            assert_eq!((all.since, all.is_best(step as u64)), (since, since == 0 && step > 0), "{step}");
        }
        assert_eq!(all.best, Some((6, 1.5)));
    }
}
