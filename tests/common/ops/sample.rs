use crate::common::{
    close::Close,
    make::Make,
    setup::{Check, Setup, check},
    tensor::{LAYOUTS, Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use halfbyte::{
    Backend, Result,
    ops::{Op, Sample},
    rng::{philox, uniform},
};

#[derive(Debug, Clone, Copy)]
pub struct Case {
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
            Case { top_k: 64, top_p: 0.9, min_p: 0.02, ..drawn },
            // Of so many equal ones lists are long, in all and of each warp.
            Case { top_k: 64, step: 3.0, ..drawn },
            Case { top_k: 20, top_p: 0.5, step: 50.0, ..drawn },
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

/// How rows are sampled, how many, and how they lie.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    case: Case,
    n: usize,
    layout: Layout,
}

impl Batch {
    /// Eight CTAs for each row.
    pub const GREEDY: Batch =
        Batch { case: Case { n_vocab: 20_000, ..GREEDY }, n: POSITIONS.len(), layout: Layout::Packed };
    /// The same.
    pub const TOP_K: Batch = Batch {
        case: Case { n_vocab: 20_000, temperature: 0.6, top_k: 20, top_p: 0.95, ..GREEDY },
        n: POSITIONS.len(),
        layout: Layout::Packed,
    };
    /// With a repetition penalty, for which a kernel notes what it has seen.
    pub const PENALIZED: Batch =
        Batch { case: Case { penalty: 1.3, step: 0.5, ..GREEDY }, n: POSITIONS.len(), layout: Layout::Packed };
}

pub struct Draw<B: Backend> {
    case: Case,
    logits: Tensor<B, f32>,
    history: Tensor<B, u32>,
    positions: Tensor<B, u32>,
    tokens: Tensor<B, u32>,
}

impl Case {
    /// What makes logits hard.
    fn edit(&self, values: &mut [f32]) {
        if self.step > 0.0 {
            values.iter_mut().for_each(|v| *v = (*v / self.step).round() * self.step);
        }
        values.chunks_mut(self.n_vocab + self.padding).for_each(|row| row[self.n_vocab..].fill(1e30));
    }

    /// Likely tokens, so that the penalty has something to do; one that does not exist.
    fn edit_history<B: Backend>(&self, history: &mut [u32], logits: &Tensor<B, f32>) {
        history[1] = u32::MAX;
        let rows = logits.values().chunks(self.n_vocab + self.padding);
        for (row, history) in rows.zip(history.chunks_mut(CAPACITY)) {
            let row = &row[..self.n_vocab];
            history[0] = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
        }
    }
}

impl<B: Backend> Setup<B> for Draw<B> {
    type Case = Batch;

    fn name(batch: &Batch) -> String {
        format!("sample {:?}", batch.case)
    }

    fn new(make: &Make<B>, Batch { case, n, layout }: &Batch) -> Self {
        let deviation = if make.is_bench() { 1.0 } else { 3.0 };
        let columns = case.n_vocab + case.padding;
        let logits = make.normal_but([*n, columns], *layout, deviation, |values| case.edit(values));
        let mut history = make.random.below(n * CAPACITY, case.n_vocab as u32);
        if !make.is_bench() {
            case.edit_history(&mut history, &logits);
        }
        Draw {
            case: *case,
            logits,
            history: make.flat(Layout::Odd, history),
            positions: make.flat(Layout::Odd, POSITIONS.into_iter().cycle().take(*n).collect()),
            tokens: make.output([1, *n], Layout::Odd),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Case { n_vocab, temperature, top_k, top_p, min_p, penalty, .. } = self.case;
        let op = Sample {
            logits: self.logits.mat_mut(),
            n_vocab,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty: penalty,
            seed: SEED,
            history: self.history.view_mut(),
            positions: self.positions.view_mut(),
            tokens: self.tokens.view_mut(),
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.tokens, &mut self.positions, &mut self.history, &mut self.logits]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (name, columns) = (close.name, self.case.n_vocab + self.case.padding);
        let mut want = self.history.values().to_vec();
        for (b, &position) in self.positions.values().iter().enumerate() {
            assert_eq!(self.positions.now()[b], position + 1, "{name}: positions");
            let history = &self.history.values()[b * CAPACITY..(b + 1) * CAPACITY];
            let logits = penalized(&self.case, &self.logits.values()[b * columns..], history, position);
            let token = self.tokens.now()[b];
            check_token(name, &self.case, &logits, b, position, token);
            if position as usize + 1 < CAPACITY {
                want[b * CAPACITY + position as usize + 1] = token;
            }
        }
        assert_eq!(self.history.now(), want, "{name}: history");
    }
}

fn sample<B: Backend>(backend: &B) {
    for (i, case) in all().into_iter().enumerate() {
        check::<B, Draw<B>>(backend, &Batch { case, n: POSITIONS.len(), layout: LAYOUTS[i % 3] });
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

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("sample", sample), ("sample_draws_by_probability", sample_draws_by_probability)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let work = |n: usize, temperature: f32| {
        let how = if temperature == 0.0 { "greedy" } else { "top-k top-p" };
        let case = Case { n_vocab: model.vocab, temperature, top_k: 20, top_p: 0.95, ..GREEDY };
        let shape = format!("{n} x {} {how}", model.vocab);
        let cost = [4 * n * model.vocab, n * model.vocab];
        Work::new::<Draw<B>>("sample", shape, cost, Batch { case, n, layout: Layout::Packed }).f32()
    };
    vec![work(1, 0.0), work(1, 0.7), work(8, 0.7)]
}

fn sample_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Sample::<B> {
        logits: z.mat_mut(2, 8),
        n_vocab: 8,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 0,
        history: z.out(10),
        positions: z.out(2),
        tokens: z.out(2),
    };
    z.fits(good());
    for n_vocab in [0, 9] {
        let message = format!("sample: n_vocab is {n_vocab}, but it must be from 1 to the number of logits");
        z.refuses(Sample { n_vocab, ..good() }, &message);
    }
    for temperature in [-1.0, f32::NAN, f32::INFINITY] {
        let message = format!("sample: temperature is {temperature}, but it must be 0 (greedy) or a positive number");
        z.refuses(Sample { temperature, ..good() }, &message);
    }
    for top_p in [0.0, 1.5, f32::NAN] {
        let message = format!("sample: top_p is {top_p}, but it must be above 0 and at most 1");
        z.refuses(Sample { top_p, ..good() }, &message);
    }
    for min_p in [-0.5, 1.5, f32::NAN] {
        z.refuses(Sample { min_p, ..good() }, &format!("sample: min_p is {min_p}, but it must be from 0 to 1"));
    }
    for repetition_penalty in [0.0, -1.0, f32::NAN] {
        let message = format!("sample: repetition_penalty is {repetition_penalty}, but it must be a positive number");
        z.refuses(Sample { repetition_penalty, ..good() }, &message);
    }
    for len in [0, 9] {
        let message = format!("sample: history is {len}, but it must hold the same capacity for each sequence");
        z.refuses(Sample { history: z.out(len), ..good() }, &message);
    }
    z.refuses(Sample { positions: z.out(1), ..good() }, "sample: `positions` has 1 elements, expected 2");
    z.refuses(Sample { tokens: z.out(3), ..good() }, "sample: `tokens` has 3 elements, expected 2");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("sample", sample_refuses)]
}
