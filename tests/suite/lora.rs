use crate::common::{
    self,
    cases::{self, LoraCase},
    close::{compare, compare_some},
    num::Num,
    oracle,
    random::{Random, property},
    tensor::{Layout, Tensor, twice},
};
use halfbyte::{
    Backend, Float,
    ops::{Dropout, Lora, LoraGrad, Op},
};

const SCALE: f32 = 0.37;

/// The case's dropout, with a stream that needs both halves.
fn dropout(case: &LoraCase) -> Option<Dropout> {
    case.dropout.map(|p| Dropout { p, seed: 0x1234_5678_9abc_def0, stream: (5 << 32) + 7 })
}

/// What an element of row `row` and column `col` is multiplied by.
fn mask(dropout: &Option<Dropout>, row: usize, col: usize) -> f64 {
    match dropout {
        None => 1.0,
        Some(d) if d.keep(row as u32, (col / 4) as u32)[col % 4] => 1.0 / (1.0 - f64::from(d.p)),
        Some(_) => 0.0,
    }
}

struct Inputs<B: Backend, T: Float> {
    x: Tensor<B, T>,
    a: Tensor<B, T>,
    b: Tensor<B, T>,
}

impl<B: Backend, T: Float> Inputs<B, T> {
    fn new(backend: &B, case: &LoraCase, random: &Random) -> Self {
        let (p, rank) = (case.product, case.rank);
        let normal = |shape: [usize; 2], layout, deviation| {
            Tensor::of(backend, shape, layout, &random.normal(shape[0] * shape[1], deviation))
        };
        Inputs {
            x: normal([p.n, p.inputs], p.layout, 1.0),
            a: normal([1, rank * p.inputs], p.layout, 0.1),
            b: normal([1, p.outputs * rank], p.layout, 0.1),
        }
    }

    /// `drop(x)`.
    fn dropped(&self, dropout: &Option<Dropout>) -> Vec<f64> {
        let [n, cols] = self.x.shape();
        (0..n * cols).map(|i| self.x.at(i / cols, i % cols) * mask(dropout, i / cols, i % cols)).collect()
    }
}

/// Multiplied by the exact f32 scale.
fn scaled(sum: Num) -> Num {
    Num::from(SCALE) * sum
}

fn forward<B: Backend, T: Float>(backend: &B, case: &LoraCase, most: usize) {
    let (p, rank, dropout) = (case.product, case.rank, dropout(case));
    let name = format!("lora {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let inputs = Inputs::<B, T>::new(backend, case, &random);
    let old = random.normal(p.n * p.outputs, 1.0);
    let (xa, out) = twice(&name, || {
        let mut xa = Tensor::<B, T>::poisoned(backend, [p.n, rank], p.layout);
        let mut out = Tensor::<B, T>::of(backend, [p.n, p.outputs], p.layout, &old);
        let (x, a, b) = (inputs.x.mat(), inputs.a.view(), inputs.b.view());
        Lora { x, a, b, scale: SCALE, dropout, xa: xa.mat_mut(), out: out.mat_mut() }.run(backend).unwrap();
        (xa.read(backend, &name), out.read(backend, &name))
    });
    let (dropped, a, b) = (inputs.dropped(&dropout), inputs.a.to_f64(), inputs.b.to_f64());
    compare_some(&format!("{name}: xa"), &xa, rank, most, |i, r| oracle::row_by_row(&dropped, &a, p.inputs, i, r));
    // From the `xa` that was stored: rounding it is part of the formula.
    let xa: Vec<f64> = xa.iter().map(|v| f64::from(v.to_f32())).collect();
    compare_some(&format!("{name}: out"), &out, p.outputs, most, |i, j| {
        let old = Num::from(T::from_f32(old[i * p.outputs + j]).to_f32());
        old + scaled(oracle::row_by_row(&xa, &b, rank, i, j))
    });
}

fn gradient<B: Backend, T: Float>(backend: &B, case: &LoraCase, most: usize) {
    let (p, rank, dropout) = (case.product, case.rank, dropout(case));
    let name = format!("lora_grad {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let inputs = Inputs::<B, T>::new(backend, case, &random);
    let xa = Tensor::<B, T>::of(backend, [p.n, rank], p.layout, &random.normal(p.n * rank, 1.0));
    let d_out = Tensor::<B, T>::of(backend, [p.n, p.outputs], p.layout, &random.normal(p.n * p.outputs, 1.0));
    let old_a = random.normal(rank * p.inputs, 1.0);
    let old_b = random.normal(p.outputs * rank, 1.0);
    let old_x = random.normal(p.n * p.inputs, 1.0);
    let run = |with_d_x: bool| {
        let mut d_xa = Tensor::<B, T>::poisoned(backend, [p.n, rank], p.layout);
        let mut d_a = Tensor::<B, f32>::of(backend, [1, rank * p.inputs], Layout::Packed, &old_a);
        let mut d_b = Tensor::<B, f32>::of(backend, [1, p.outputs * rank], Layout::Packed, &old_b);
        let mut d_x = Tensor::<B, T>::of(backend, [p.n, p.inputs], p.layout, &old_x);
        let op = LoraGrad {
            x: inputs.x.mat(),
            a: inputs.a.view(),
            b: inputs.b.view(),
            scale: SCALE,
            dropout,
            xa: xa.mat(),
            d_out: d_out.mat(),
            d_xa: d_xa.mat_mut(),
            d_a: d_a.view_mut(),
            d_b: d_b.view_mut(),
            d_x: with_d_x.then(|| d_x.mat_mut()),
        };
        op.run(backend).unwrap();
        let gradients = (d_a.read(backend, &name), d_b.read(backend, &name));
        (d_xa.read(backend, &name), gradients.0, gradients.1, d_x.read(backend, &name))
    };
    let (d_xa, d_a, d_b, d_x) = twice(&name, || run(true));
    let without = run(false);
    assert!((&without.0, &without.1, &without.2) == (&d_xa, &d_a, &d_b), "{name}: d_x changes the other gradients");

    let (a, b, xa, d_out) = (inputs.a.to_f64(), inputs.b.to_f64(), xa.to_f64(), d_out.to_f64());
    let dropped = inputs.dropped(&dropout);
    compare_some(&format!("{name}: d_xa"), &d_xa, rank, most, |i, r| {
        scaled(oracle::row_by_column(&d_out, &b, p.outputs, rank, i, r))
    });
    let d_xa: Vec<f64> = d_xa.iter().map(|v| f64::from(v.to_f32())).collect();
    compare(&format!("{name}: d_b"), &d_b, rank, |j, r| {
        Num::from(old_b[j * rank + r]) + scaled(oracle::column_by_column(&d_out, &xa, [p.outputs, rank], j, r))
    });
    compare_some(&format!("{name}: d_a"), &d_a, p.inputs, most, |r, k| {
        Num::from(old_a[r * p.inputs + k]) + oracle::column_by_column(&d_xa, &dropped, [rank, p.inputs], r, k)
    });
    compare_some(&format!("{name}: d_x"), &d_x, p.inputs, most, |i, k| {
        let old = Num::from(T::from_f32(old_x[i * p.inputs + k]).to_f32());
        let sum = oracle::row_by_column(&d_xa, &a, rank, p.inputs, i, k);
        old + Num::from(mask(&dropout, i, k)) * sum
    });
}

fn lora<B: Backend>(backend: &B) {
    for case in cases::adapters() {
        each_float!(forward::<B>(backend, &case, 4000));
    }
    property(24, cases::any_adapter(), |case| each_float!(forward::<B>(backend, &case, 2000)));
}

fn lora_grad<B: Backend>(backend: &B) {
    for case in cases::adapters() {
        each_float!(gradient::<B>(backend, &case, 4000));
    }
    property(24, cases::any_adapter(), |case| each_float!(gradient::<B>(backend, &case, 2000)));
}

/// With `A = 1` and one column, `xa` is the dropped input itself.
fn dropout_drops_what_it_says<B: Backend>(backend: &B) {
    let (n, cols) = (300, 1);
    let dropout = Dropout { p: 0.3, seed: 99, stream: u64::MAX - 3 };
    let x = Tensor::<B, f32>::of(backend, [n, cols], Layout::Packed, &vec![1.0; n]);
    let one = Tensor::<B, f32>::flat(backend, Layout::Packed, vec![1.0]);
    let mut xa = Tensor::<B, f32>::poisoned(backend, [n, 1], Layout::Packed);
    let mut out = Tensor::<B, f32>::of(backend, [n, 1], Layout::Packed, &vec![0.0; n]);
    let (a, b) = (one.view(), one.view());
    let op = Lora { x: x.mat(), a, b, scale: 1.0, dropout: Some(dropout), xa: xa.mat_mut(), out: out.mat_mut() };
    op.run(backend).unwrap();
    let got = xa.read(backend, "dropout");
    for (row, got) in got.iter().enumerate() {
        let kept = dropout.keep(row as u32, 0)[0];
        assert!((*got != 0.0) == kept, "row {row} is {got}, kept: {kept}");
    }
    let share = got.iter().filter(|v| **v != 0.0).count() as f64 / n as f64;
    // Four standard deviations of a binomial share.
    assert!((share - 0.7).abs() <= 4.0 * (0.3f64 * 0.7 / n as f64).sqrt(), "{share} of the elements are kept");
}

backends!(lora, lora_grad, dropout_drops_what_it_says);
