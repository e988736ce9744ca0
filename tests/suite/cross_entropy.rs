use crate::common::{
    self,
    close::{compare, compare_some},
    num::Num,
    oracle,
    random::Random,
    tensor::{LAYOUTS, Layout, Tensor, twice},
};
use halfbyte::{
    Backend, Float,
    ops::{CrossEntropy, IGNORE, Op},
};

#[derive(Debug, Clone, Copy)]
struct Case {
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

/// Every fifth row does not count, every seventh label is outside.
fn labels(random: &Random, case: &Case) -> Vec<u32> {
    let mut labels = random.below(case.n, case.vocab as u32);
    labels.iter_mut().skip(1).step_by(5).for_each(|l| *l = IGNORE);
    labels.iter_mut().skip(6).step_by(7).for_each(|l| *l = case.vocab as u32);
    labels
}

fn check<B: Backend, T: Float>(backend: &B, case: &Case) {
    let Case { n, vocab, layout, grad_scale } = *case;
    let name = format!("cross_entropy {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let mut values = random.normal(n * vocab, 3.0);
    // Rows far from zero: exponentials that overflow unless the largest is taken out first.
    values.iter_mut().skip(2 * vocab).take(vocab).for_each(|v| *v += 300.0);
    let labels = Tensor::flat(backend, Layout::Packed, labels(&random, case));
    let logits = Tensor::<B, T>::of(backend, [n, vocab], layout, &values);
    let (losses, after) = twice(&name, || {
        let mut logits = Tensor::<B, T>::of(backend, [n, vocab], layout, &values);
        let mut losses = Tensor::<B, f32>::poisoned_flat(backend, n, Layout::Odd);
        let op =
            CrossEntropy { logits: logits.mat_mut(), labels: labels.view(), losses: losses.view_mut(), grad_scale };
        op.run(backend).unwrap();
        (losses.read(backend, &name), logits.read(backend, &name))
    });
    for row in 0..n {
        let name = format!("{name}: row {row}");
        let x: Vec<f64> = (0..vocab).map(|c| logits.at(row, c)).collect();
        let got = &after[row * vocab..(row + 1) * vocab];
        let before = &logits.values()[row * vocab..(row + 1) * vocab];
        let label = labels.values()[row] as usize;
        match (oracle::cross_entropy(&x, label, f64::from(grad_scale.unwrap_or(0.0))), grad_scale) {
            (Some((loss, gradient)), _) => {
                compare(&format!("{name}: loss"), &losses[row..=row], 1, |_, _| loss);
                match grad_scale {
                    Some(_) => compare_some(&format!("{name}: gradient"), got, vocab, vocab, |_, c| gradient(c)),
                    None => assert!(got == before, "{name}: the logits have changed"),
                }
            }
            (None, _) => {
                assert!(losses[row] == 0.0, "{name}: the loss of an ignored row is {}", losses[row]);
                let want = |c: usize| if grad_scale.is_some() { 0.0 } else { before[c].to_f32() };
                compare(&name, got, vocab, |_, c| Num::from(want(c)));
            }
        }
    }
}

fn cross_entropy<B: Backend>(backend: &B) {
    for case in all() {
        each_float!(check::<B>(backend, &case));
    }
}

backends!(cross_entropy);
