use super::{device::Cpu, math, par};
use crate::{ops::Sample, rng};
use rayon::prelude::*;

/// What is the same for every sequence.
struct Rules {
    n_vocab: usize,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    penalty: f32,
    seed: u64,
}

pub(super) fn sample(op: Sample<'_, Cpu>) {
    let Sample {
        logits,
        n_vocab,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        seed,
        history,
        positions,
        tokens,
    } = op;
    let rules = Rules { n_vocab, temperature, top_k, top_p, min_p, penalty: repetition_penalty, seed };
    let capacity = history.len() / positions.len().max(1);
    let sequences = par::rows_mut(logits).zip(history.into_slice().par_chunks_mut(capacity));
    let state = positions.into_slice().par_iter_mut().zip(tokens.into_slice().par_iter_mut());
    sequences.zip(state).enumerate().for_each(|(b, ((logits, history), (position, token)))| {
        let next = *position as usize + 1;
        let logits = &mut logits[..rules.n_vocab];
        rules.penalize(logits, &history[..next.min(capacity)]);
        *token = rules.choose(logits, [*position, b as u32, 0, 0]);
        if let Some(slot) = history.get_mut(next) {
            *slot = *token;
        }
        *position += 1;
    });
}

impl Rules {
    /// Makes the tokens that were there already less likely.
    fn penalize(&self, logits: &mut [f32], history: &[u32]) {
        if self.penalty == 1.0 {
            return;
        }
        let mut seen = history.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / self.penalty } else { *logit * self.penalty };
            }
        }
    }

    fn choose(&self, logits: &mut [f32], counter: [u32; 4]) -> u32 {
        if self.temperature == 0.0 {
            return first_largest(logits);
        }
        logits.iter_mut().for_each(|x| *x /= self.temperature);
        let floor = self.floor(logits);
        let u = f64::from(rng::uniform(rng::philox(counter, self.seed)[0]));
        draw(logits, floor, u)
    }

    /// The least logit that top-k, top-p and min-p all keep.
    fn floor(&self, logits: &[f32]) -> f32 {
        let mut floor = f32::NEG_INFINITY;
        if (1..logits.len()).contains(&self.top_k) {
            let mut all = logits.to_vec();
            floor = *all.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a)).1;
        }
        let max = math::max(logits);
        if self.top_p < 1.0 {
            let mut kept: Vec<f32> = logits.iter().copied().filter(|x| *x >= floor).collect();
            kept.sort_unstable_by(|a, b| b.total_cmp(a));
            let goal = f64::from(self.top_p) * kept.iter().map(|x| weight(*x, max)).sum::<f64>();
            let mut sum = 0.0;
            let reaches = |x: &&f32| {
                sum += weight(**x, max);
                sum >= goal
            };
            floor = kept.iter().find(reaches).copied().unwrap_or(floor);
        }
        if self.min_p > 0.0 {
            // p >= min_p · p_max iff x >= max + ln(min_p).
            floor = floor.max(max + self.min_p.ln());
        }
        floor
    }
}

/// The probability of a logit over that of the likeliest.
fn weight(x: f32, max: f32) -> f64 {
    f64::from(math::exp(x - max))
}

/// The lowest id of the largest logit.
fn first_largest(logits: &[f32]) -> u32 {
    let max = math::max(logits);
    logits.iter().position(|x| *x == max).unwrap_or(0) as u32
}

/// The first token, among those of at least `floor`, whose cumulative probability exceeds `u`.
fn draw(logits: &[f32], floor: f32, u: f64) -> u32 {
    let max = math::max(logits);
    let kept = || logits.iter().enumerate().filter(|(_, x)| **x >= floor);
    let goal = u * kept().map(|(_, x)| weight(*x, max)).sum::<f64>();
    let (mut sum, mut last) = (0.0, 0);
    for (token, x) in kept() {
        sum += weight(*x, max);
        last = token;
        if sum > goal {
            break;
        }
    }
    last as u32
}
