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
    par::each(sequences.zip(state).enumerate(), |(b, ((logits, history), (position, token)))| {
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
            floor = nth_largest(logits, self.top_k - 1);
        }
        let max = largest(logits);
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

/// The largest logit.
fn largest(logits: &[f32]) -> f32 {
    math::max(&chunks(logits, math::max))
}

/// The logit that `n` others come before: none is in it that does not come among the first `n + 1` of its chunk.
fn nth_largest(logits: &[f32], n: usize) -> f32 {
    let order = |a: &f32, b: &f32| b.total_cmp(a);
    let mut all = logits.to_vec();
    let mut first = vec![0; all.len().div_ceil(CHUNK)];
    par::each(all.par_chunks_mut(CHUNK).zip(first.par_iter_mut()), |(x, first)| {
        *first = x.len().min(n + 1);
        if n < x.len() {
            x.select_nth_unstable_by(n, order);
        }
    });
    let parts = all.chunks(CHUNK).zip(first).flat_map(|(x, first)| &x[..first]);
    let mut candidates: Vec<f32> = parts.copied().collect();
    *candidates.select_nth_unstable_by(n, order).1
}

/// The probability of a logit over that of the likeliest.
fn weight(x: f32, max: f32) -> f64 {
    f64::from(math::exp(x - max))
}

/// Logits that one task looks at; fixed, so that sums depend only on how many there are.
const CHUNK: usize = 8192;

/// What `f` makes of each chunk of `x`.
fn chunks<R: Copy + Default + Send>(x: &[f32], f: impl Fn(&[f32]) -> R + Sync) -> Vec<R> {
    let mut results = vec![R::default(); x.len().div_ceil(CHUNK)];
    par::each(x.par_chunks(CHUNK).zip(results.par_iter_mut()), |(x, result)| *result = f(x));
    results
}

/// The lowest id of the largest logit.
fn first_largest(logits: &[f32]) -> u32 {
    let maxima = chunks(logits, math::max);
    let max = math::max(&maxima);
    let chunk = maxima.iter().position(|x| *x == max).unwrap_or(0);
    let first = logits.chunks(CHUNK).nth(chunk).and_then(|x| x.iter().position(|x| *x == max));
    (chunk * CHUNK + first.unwrap_or(0)) as u32
}

/// The first token, among those of at least `floor`, whose cumulative probability exceeds `u`.
fn draw(logits: &[f32], floor: f32, u: f64) -> u32 {
    let max = largest(logits);
    let sums = chunks(logits, |x| x.iter().filter(|x| **x >= floor).map(|x| weight(*x, max)).sum::<f64>());
    let goal = u * sums.iter().sum::<f64>();
    // The chunk where the sum passes the goal, or the last that has any token.
    let (mut sum, mut chunk) = (0.0, 0);
    for (i, total) in sums.iter().enumerate().filter(|(_, total)| **total > 0.0) {
        chunk = i;
        if sum + total > goal {
            break;
        }
        sum += total;
    }
    let mut last = chunk * CHUNK;
    let rest = logits.iter().enumerate().skip(last).take(CHUNK);
    for (token, x) in rest.filter(|(_, x)| **x >= floor) {
        sum += weight(*x, max);
        last = token;
        if sum > goal {
            break;
        }
    }
    last as u32
}
