use crate::common::{
    close::Close,
    make::{Make, Purpose},
    num::Num,
    oracle,
    setup::{Check, Difference, Setup, differentiate},
    tensor::{LAYOUTS, Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{CrossEntropy, IGNORE, Op},
};

#[derive(Debug, Clone, Copy)]
pub struct Case {
    n: usize,
    vocab: usize,
    layout: Layout,
    grad_scale: Option<f32>,
}

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, vocab) in [1, 2, 9, 257, 1000, 4096].into_iter().enumerate() {
        for (j, n) in [0, 1, 2, 13].into_iter().enumerate() {
            let grad_scale = [None, Some(1.0), Some(0.01)][(i + j) % 3];
            cases.push(Case { n, vocab, layout: LAYOUTS[(i + 2 * j) % 3], grad_scale });
        }
    }
    for (grad_scale, layout) in [(None, Layout::Packed), (Some(0.5), Layout::Packed), (Some(64.0), Layout::Odd)] {
        cases.push(Case { n: 3, vocab: 151_936, layout, grad_scale });
    }
    cases
}

/// In tests every fifth row does not count, in the suite every seventh label is outside.
fn labels<B: Backend>(make: &Make<B>, case: &Case) -> Vec<u32> {
    let mut labels = make.random.below(case.n, case.vocab as u32);
    if !make.is_bench() {
        labels.iter_mut().skip(1).step_by(5).for_each(|l| *l = IGNORE);
    }
    if make.purpose == Purpose::Suite {
        labels.iter_mut().skip(6).step_by(7).for_each(|l| *l = case.vocab as u32);
    }
    labels
}

pub struct Loss<B: Backend, T: Float> {
    case: Case,
    logits: Tensor<B, T>,
    labels: Tensor<B, u32>,
    losses: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Loss<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("cross_entropy {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Case { n, vocab, layout, .. } = *case;
        Loss {
            case: *case,
            // Rows far from zero: exponentials that overflow unless the largest is taken out first.
            logits: make.normal_but([n, vocab], layout, 3.0, |values| {
                values.iter_mut().skip(2 * vocab).take(vocab).for_each(|v| *v += 300.0);
            }),
            labels: make.flat(Layout::Packed, labels(make, case)),
            losses: make.output([1, n], Layout::Odd),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let (logits, losses) = (self.logits.mat_mut(), self.losses.view_mut());
        CrossEntropy { logits, labels: self.labels.view(), losses, grad_scale: self.case.grad_scale }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.losses, &mut self.logits]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        (0..self.case.n).for_each(|row| self.compare_row(close, row));
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let scale = f64::from(self.case.grad_scale.unwrap_or(1.0));
        let loss = move |x: &[f64]| {
            let rows = x.chunks(self.case.vocab).zip(self.labels.values());
            let loss = |(row, label): (&[f64], &u32)| Some(oracle::cross_entropy(row, *label as usize, 1.0)?.0.v);
            rows.filter_map(loss).sum::<f64>() * scale
        };
        vec![Difference { part: "logits", got: self.logits.floats(), at: self.logits.to_f64(), loss: Box::new(loss) }]
    }
}

impl<B: Backend, T: Float> Loss<B, T> {
    fn compare_row(&self, close: &Close<'_, B>, row: usize) {
        let Case { vocab, grad_scale, .. } = self.case;
        let close = Close { name: &format!("{}: row {row}", close.name), most: vocab, ..*close };
        let x: Vec<f64> = (0..vocab).map(|c| self.logits.at(row, c)).collect();
        let [before, got] = [self.logits.values(), self.logits.now()].map(|v| &v[row * vocab..(row + 1) * vocab]);
        let (label, loss_got) = (self.labels.values()[row] as usize, self.losses.now()[row]);
        match (oracle::cross_entropy(&x, label, f64::from(grad_scale.unwrap_or(0.0))), grad_scale) {
            (Some((loss, gradient)), _) => {
                close.all("loss", &[loss_got], 1, |_, _| loss);
                match grad_scale {
                    Some(_) => close.some("gradient", got, vocab, |_, c| gradient(c)),
                    None => assert!(got == before, "{}: the logits have changed", close.name),
                }
            }
            (None, _) => {
                assert!(loss_got == 0.0, "{}: the loss of an ignored row is {loss_got}", close.name);
                let want = |c: usize| if grad_scale.is_some() { 0.0 } else { before[c].to_f32() };
                close.all("ignored", got, vocab, |_, c| Num::from(want(c)));
            }
        }
    }
}

fn cross_entropy<B: Backend>(backend: &B) {
    all().iter().for_each(|case| check_each!(Loss, backend, case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("cross_entropy", cross_entropy)]
}

const TINY: Case = Case { n: 4, vocab: 17, layout: Layout::Packed, grad_scale: Some(0.75) };

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("cross_entropy_grad", |backend| differentiate::<B, Loss<B, f32>>(backend, &TINY))]
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let (n, vocab) = (model.logit_rows, model.vocab);
    let case = Case { n, vocab, layout: Layout::Packed, grad_scale: Some(1.0) };
    let cost = [6 * n * vocab, 6 * n * vocab];
    vec![Work::new::<Loss<B, bf16>>("cross_entropy", format!("{n} x {vocab}"), cost, case)]
}

fn cross_entropy_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good =
        || CrossEntropy::<B, f32> { logits: z.mat_mut(3, 8), labels: z.view(3), losses: z.out(3), grad_scale: None };
    z.fits(good());
    z.refuses(CrossEntropy { labels: z.view(2), ..good() }, "cross_entropy: `labels` has 2 elements, expected 3");
    z.refuses(CrossEntropy { losses: z.out(4), ..good() }, "cross_entropy: `losses` has 4 elements, expected 3");
    let message = "cross_entropy: the vocabulary is 0, but it must not be empty";
    z.refuses(CrossEntropy { logits: z.mat_mut(3, 0), ..good() }, message);
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("cross_entropy", cross_entropy_refuses)]
}
