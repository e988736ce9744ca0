//! From log-likelihoods of tokens to the choice of an option.

use serde::{Deserialize, Serialize};

use super::questions::letter;
use crate::error::{Error, Result};
use crate::model::log_likelihood;

/// The log-likelihood of each option after its question, in nats; summed over its tokens, and divided by its length.
///
/// A sum favours short options. lm-evaluation-harness calls a choice by the sum `acc` and by [`Self::per_char`]
/// `acc_norm`; it, too, counts characters of the option's text, not bytes, and not the space before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Summed over the option's tokens.
    pub sum: Vec<f64>,
    /// Divided by the number of its tokens.
    pub per_token: Vec<f64>,
    /// Divided by the number of its characters (Unicode code points).
    pub per_char: Vec<f64>,
}

impl Scores {
    /// Of the losses of each option's tokens, as [`crate::model::Qwen3::target_losses`] gives them.
    ///
    /// # Errors
    /// There is not one list for each option, one is empty, or a loss is not finite.
    pub fn new(options: &[String], losses: &[&[f32]]) -> Result<Self> {
        if losses.len() != options.len() {
            let want = format!("there must be one for each of the {} options", options.len());
            return Err(Error::setting("the number of lists of losses", losses.len(), want));
        }
        for (index, losses) in losses.iter().enumerate() {
            if losses.is_empty() || losses.iter().any(|loss| !loss.is_finite()) {
                let want = "an option needs a finite loss for each of its tokens; try another compute type (float32)";
                return Err(Error::setting("a loss", format!("{losses:?} for option {}", letter(index)), want));
            }
        }
        let sum: Vec<_> = losses.iter().map(|losses| log_likelihood(losses)).collect();
        let divided = |lengths: &mut dyn Iterator<Item = usize>| {
            sum.iter().zip(lengths).map(|(sum, length)| sum / length.max(1) as f64).collect()
        };
        let per_token = divided(&mut losses.iter().map(|losses| losses.len()));
        let per_char = divided(&mut options.iter().map(|option| option.chars().count()));
        Ok(Self { sum, per_token, per_char })
    }

    /// All numbers.
    pub(crate) fn all(&self) -> impl Iterator<Item = &f64> {
        self.sum.iter().chain(&self.per_token).chain(&self.per_char)
    }
}

/// The index of the highest score, the first of equals.
pub fn best(scores: &[f64]) -> usize {
    (0..scores.len()).min_by(|&a, &b| scores[b].total_cmp(&scores[a])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn sums_and_means_choose_differently() {
        let losses: [&[f32]; 3] = [&[1.0], &[0.75, 0.75], &[0.5, 0.5, 0.5, 0.5]];
        let scores = Scores::new(&options(&["a", "法律", "abcde"]), &losses).unwrap();
        assert_eq!(scores.sum, [-1.0, -1.5, -2.0]);
        assert_eq!(scores.per_token, [-1.0, -0.75, -0.5]);
        // Characters: 法律 is two of them, and six bytes.
        assert_eq!(scores.per_char, [-1.0, -0.75, -0.4]);
        assert_eq!((best(&scores.sum), best(&scores.per_token), best(&scores.per_char)), (0, 2, 2));
        assert_eq!(best(&[-2.0, -1.0, -1.0]), 1);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            let error = Scores::new(&options(&["x", "y"]), &[&[1.0], &[1.0, bad]]).unwrap_err().to_string();
            assert!(error.contains("for option b") && error.contains(&bad.to_string()), "{error}");
        }
        assert!(Scores::new(&options(&["x", "y"]), &[&[1.0], &[]]).is_err());
        assert!(Scores::new(&options(&["x", "y"]), &[&[1.0]]).unwrap_err().to_string().contains("2 options"));
    }

    proptest! {
        /// The choice is that of the least summed loss, ties and signed zeros too.
        #[test]
        fn the_best_has_the_least_loss(losses in prop::collection::vec(prop::collection::vec(-2i8..3, 1..4), 1..6)) {
            let losses: Vec<Vec<f32>> = losses.iter().map(|own| own.iter().map(|&loss| f32::from(loss)).collect()).collect();
            let sums: Vec<f64> = losses.iter().map(|own| own.iter().map(|&loss| f64::from(loss)).sum()).collect();
            let least = (0..sums.len()).min_by(|&a, &b| sums[a].total_cmp(&sums[b])).unwrap();
            let scores: Vec<f64> = losses.iter().map(|own| log_likelihood(own)).collect();
            prop_assert_eq!(best(&scores), least);
        }
    }
}
