//! Training that has come apart, though every number is finite.

use serde::{Deserialize, Serialize};

/// Looks at each step's loss and gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Watchdog {
    /// Of the run.
    first_loss: Option<f64>,
    /// Steps in a row that look bad, up to the last one.
    pub bad: u64,
}

impl Watchdog {
    /// So many bad steps in a row are no accident.
    const PATIENCE: u64 = 3;
    /// Far above the loss of targets that are known by heart, whose gradient may vanish, in nats.
    const LEARNABLE: f64 = 0.1;
    /// More than losses of different samples differ by, in nats.
    const WORSE: f64 = 1.0;

    /// Sees a step of a model with so many tokens; says what is wrong once it is certain.
    ///
    /// Bad is a gradient of exactly 0 where there is something to learn, as where activations have grown so large that the
    /// compute type drops what is added to them; and a loss far above that of the first step and above that of who knows
    /// nothing, which is the logarithm of the vocabulary.
    pub fn see(&mut self, loss: f64, grad_norm: f64, vocab_size: usize) -> Option<&'static str> {
        let first = *self.first_loss.get_or_insert(loss);
        let dead = grad_norm == 0.0 && loss > Self::LEARNABLE;
        let worse = loss > first.max((vocab_size as f64).ln()) + Self::WORSE;
        self.bad = if dead || worse { self.bad + 1 } else { 0 };
        (self.bad >= Self::PATIENCE).then_some(if dead { DEAD } else { WORSE })
    }
}

const DEAD: &str = "and its gradient 0: nothing can be learnt any more";
const WORSE: &str = "worse than at the beginning, and than that of a model that knows nothing";

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said after each step, of a model that knows nothing at a loss of 4.6.
    fn seen(steps: &[(f64, f64)]) -> Vec<Option<&'static str>> {
        let mut watchdog = Watchdog::default();
        steps.iter().map(|&(loss, norm)| watchdog.see(loss, norm, 100)).collect()
    }

    #[test]
    fn what_comes_apart_is_told_after_three_steps() {
        let dead = [(4.0, 1.0), (4.6, 0.0), (4.6, 0.0), (4.6, 0.0)];
        assert_eq!(seen(&dead), [None, None, None, Some(DEAD)]);
        let worse = [(2.0, 1.0), (9.0, 3.0), (12.0, 0.0), (30.0, 1e3), (30.0, 1e3)];
        assert_eq!(seen(&worse), [None, None, None, Some(WORSE), Some(WORSE)]);
    }

    #[test]
    fn what_may_happen_is_not() {
        // A bad batch; samples that are known by heart; a model whose first loss is high; one that forgets a little.
        let fine: [&[(f64, f64)]; 4] = [
            &[(2.0, 1.0), (9.0, 1.0), (9.0, 1.0), (2.0, 1.0), (9.0, 1.0), (9.0, 1.0), (2.0, 1.0)],
            &[(2.0, 1.0), (0.0, 0.0), (0.01, 0.0), (0.0, 0.0), (0.05, 0.0)],
            &[(9.0, 1.0), (9.9, 1.0), (9.9, 1.0), (9.9, 1.0)],
            &[(1.0, 1.0), (5.5, 1.0), (5.5, 1.0), (5.5, 1.0), (5.5, 1.0)],
        ];
        fine.iter().for_each(|steps| assert!(seen(steps).iter().all(Option::is_none), "{steps:?}"));
    }
}
