use crate::common::{
    self,
    random::Random,
    tensor::{LAYOUTS, Layout, Tensor, twice},
};
use halfbyte::{
    Backend,
    ops::{Op, Sample},
    rng::{philox, uniform},
};

#[derive(Debug, Clone, Copy)]
struct Case {
    n_vocab: usize,
    /// Columns that are no tokens, with the largest logits of all.
    padding: usize,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    penalty: f32,
    /// Logits are multiples of this, so that there are many equal ones; 0: of nothing.
    step: f32,
}

const GREEDY: Case =
    Case { n_vocab: 257, padding: 0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, penalty: 1.0, step: 0.0 };

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n_vocab, padding) in [(1, 0), (1, 3), (2, 0), (257, 7), (4096, 0), (151_669, 267), (151_936, 0)] {
        let base = Case { n_vocab, padding, ..GREEDY };
        let drawn = Case { temperature: 0.7, ..base };
        cases.extend([
            base,
            Case { step: 0.5, ..base },
            Case { penalty: 1.3, step: 0.5, ..base },
            Case { penalty: 0.8, ..base },
            drawn,
            Case { step: 0.25, temperature: 1.5, ..drawn },
            Case { top_k: 1, ..drawn },
            Case { top_k: 20, step: 0.25, ..drawn },
            Case { top_k: 5000, ..drawn },
            Case { top_p: 0.9, ..drawn },
            Case { top_p: 0.95, temperature: 3.0, ..drawn },
            Case { top_p: 0.8, step: 0.25, ..drawn },
            Case { min_p: 0.05, ..drawn },
            Case { min_p: 1.0, step: 0.5, ..drawn },
            Case { top_k: 50, top_p: 0.9, min_p: 0.02, penalty: 1.1, ..drawn },
            Case { top_k: 20, top_p: 0.95, temperature: 0.6, penalty: 1.2, step: 0.125, ..drawn },
            Case { temperature: 0.01, ..drawn },
        ]);
    }
    cases
}

const CAPACITY: usize = 12;
/// The last but one fills the history, the last is beyond it.
const POSITIONS: [u32; 6] = [0, 5, 3, 10, 11, 500];
const SEED: u64 = 0xfeed_0000_beef;

/// Logits after the repetition penalty, as f32 gives them.
fn penalized(case: &Case, logits: &[f32], history: &[u32], position: u32) -> Vec<f32> {
    let mut out = logits[..case.n_vocab].to_vec();
    let seen = &history[..CAPACITY.min(position as usize + 1)];
    for (_, x) in out.iter_mut().enumerate().filter(|(id, _)| seen.contains(&(*id as u32))) {
        *x = if *x > 0.0 { *x / case.penalty } else { *x * case.penalty };
    }
    out
}

/// Probabilities of the tokens that are kept, 0 for the others, from the formula in `src/ops/sample.rs`. `slack`
/// widens or narrows the borders of top_p and min_p.
fn kept(case: &Case, logits: &[f32], slack: f64) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: f32| ((f64::from(x) - f64::from(max)) / f64::from(case.temperature)).exp();
    let mut order: Vec<f32> = logits.to_vec();
    order.sort_by(|a, b| b.total_cmp(a));
    let mut floor = if case.top_k > 0 && case.top_k < order.len() { order[case.top_k - 1] } else { f32::NEG_INFINITY };
    if case.top_p < 1.0 {
        order.retain(|x| *x >= floor);
        let goal = (f64::from(case.top_p) + slack) * order.iter().map(|x| weight(*x)).sum::<f64>();
        let mut sum = 0.0;
        for x in order {
            sum += weight(x);
            floor = x;
            if sum >= goal {
                break;
            }
        }
    }
    let least = f64::from(case.min_p) * (1.0 - slack);
    let keep = |x: f32| if x >= floor && weight(x) >= least { weight(x) } else { 0.0 };
    let weights: Vec<f64> = logits.iter().map(|x| keep(*x)).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

/// May `u` have drawn `token` from these probabilities, give or take what f32 sums may do?
fn may_draw(probabilities: &[f64], token: usize, u: f64) -> bool {
    const SLACK: f64 = 1e-5;
    let before: f64 = probabilities[..token].iter().sum();
    let p = probabilities[token];
    p > 0.0 && before - SLACK <= u && u <= before + p + SLACK
}

fn check_token(name: &str, case: &Case, logits: &[f32], b: usize, position: u32, token: u32) {
    assert!((token as usize) < case.n_vocab, "{name}: token {token} of {}", case.n_vocab);
    if case.temperature == 0.0 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let want = logits.iter().position(|x| *x == max).unwrap();
        assert_eq!(token as usize, want, "{name}: the first of the largest logits");
        return;
    }
    let u = f64::from(uniform(philox([position, b as u32, 0, 0], SEED)[0]));
    let ok = [0.0, 1e-6, -1e-6].iter().any(|slack| may_draw(&kept(case, logits, *slack), token as usize, u));
    let kept = kept(case, logits, 0.0);
    assert!(
        ok,
        "{name}: sequence {b} with u = {u} drew {token} (probability {}, {} before it)",
        kept[token as usize],
        kept[..token as usize].iter().sum::<f64>()
    );
}

fn check<B: Backend>(backend: &B, case: &Case, layout: Layout) {
    let (n, columns) = (POSITIONS.len(), case.n_vocab + case.padding);
    let name = format!("sample {case:?}");
    let random = Random::new(&name);
    let mut values = random.normal(n * columns, 3.0);
    if case.step > 0.0 {
        values.iter_mut().for_each(|v| *v = (*v / case.step).round() * case.step);
    }
    values.chunks_mut(columns).for_each(|row| row[case.n_vocab..].fill(1e30));
    // Likely tokens, so that the penalty has something to do; one that does not exist.
    let mut history = random.below(n * CAPACITY, case.n_vocab as u32);
    history[1] = u32::MAX;
    for (row, history) in values.chunks(columns).zip(history.chunks_mut(CAPACITY)) {
        let row = &row[..case.n_vocab];
        history[0] = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
    }
    let (tokens, positions, after) = twice(&name, || {
        let mut logits = Tensor::<B, f32>::of(backend, [n, columns], layout, &values);
        let mut history = Tensor::flat(backend, Layout::Odd, history.clone());
        let mut positions = Tensor::flat(backend, Layout::Odd, POSITIONS.to_vec());
        let mut tokens = Tensor::<B, u32>::poisoned_flat(backend, n, Layout::Odd);
        let op = Sample {
            logits: logits.mat_mut(),
            n_vocab: case.n_vocab,
            temperature: case.temperature,
            top_k: case.top_k,
            top_p: case.top_p,
            min_p: case.min_p,
            repetition_penalty: case.penalty,
            seed: SEED,
            history: history.view_mut(),
            positions: positions.view_mut(),
            tokens: tokens.view_mut(),
        };
        op.run(backend).unwrap();
        logits.read(backend, &name);
        (tokens.read(backend, &name), positions.read(backend, &name), history.read(backend, &name))
    });
    assert_eq!(positions, POSITIONS.map(|p| p + 1), "{name}: positions");
    let mut want = history.clone();
    for (b, &position) in POSITIONS.iter().enumerate() {
        let logits = penalized(case, &values[b * columns..], &history[b * CAPACITY..(b + 1) * CAPACITY], position);
        check_token(&name, case, &logits, b, position, tokens[b]);
        if position as usize + 1 < CAPACITY {
            want[b * CAPACITY + position as usize + 1] = tokens[b];
        }
    }
    assert_eq!(after, want, "{name}: history");
}

fn sample<B: Backend>(backend: &B) {
    for (i, case) in all().into_iter().enumerate() {
        check(backend, &case, LAYOUTS[i % 3]);
    }
}

/// Many draws from four tokens come as often as their probabilities say.
fn sample_draws_by_probability<B: Backend>(backend: &B) {
    let n = 4000;
    let weights = [0.1f32, 0.2, 0.3, 0.4];
    let rows: Vec<f32> = weights.map(f32::ln).repeat(n);
    let mut logits = Tensor::<B, f32>::of(backend, [n, 4], Layout::Packed, &rows);
    let [mut history, mut positions] = [(); 2].map(|()| Tensor::flat(backend, Layout::Packed, vec![0u32; n]));
    let mut tokens = Tensor::<B, u32>::poisoned_flat(backend, n, Layout::Packed);
    let op = Sample {
        logits: logits.mat_mut(),
        n_vocab: 4,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: SEED,
        history: history.view_mut(),
        positions: positions.view_mut(),
        tokens: tokens.view_mut(),
    };
    op.run(backend).unwrap();
    let tokens = tokens.read(backend, "sample");
    for (token, p) in weights.into_iter().enumerate() {
        let share = tokens.iter().filter(|t| **t as usize == token).count() as f32 / n as f32;
        // Five standard deviations of a binomial share.
        let tolerance = 5.0 * (p * (1.0 - p) / n as f32).sqrt();
        assert!((share - p).abs() <= tolerance, "token {token} came in {share} of the draws, expected {p}");
    }
}

backends!(sample, sample_draws_by_probability);
