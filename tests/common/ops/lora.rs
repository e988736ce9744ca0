use super::linear;
use crate::common::{
    cases::{self, LoraCase, Product, TINY_PRODUCT},
    close::Close,
    make::Make,
    num::Num,
    oracle,
    random::property,
    setup::{Check, Difference, Setup, bits_again, check_some, differentiate},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work, both, prepare},
    zeros::Zeros,
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float, Result,
    ops::{Dropout, Lora, LoraGrad, Op},
};

pub const SCALE: f32 = 0.37;

/// The case's dropout, with a stream that needs both halves.
fn dropout(case: &LoraCase) -> Option<Dropout> {
    case.dropout.map(|p| Dropout { p, seed: 0x1234_5678_9abc_def0, stream: (5 << 32) + 7 })
}

/// What an element of row `row` and column `col` is multiplied by.
pub fn mask(dropout: &Option<Dropout>, row: usize, col: usize) -> f64 {
    match dropout {
        None => 1.0,
        Some(d) if d.keep(row as u32, (col / 8) as u32)[col % 8] => f64::from(d.scale()),
        Some(_) => 0.0,
    }
}

/// `drop(x)`.
pub fn dropped(x: &[f64], cols: usize, dropout: &Option<Dropout>) -> Vec<f64> {
    x.iter().enumerate().map(|(i, x)| x * mask(dropout, i / cols, i % cols)).collect()
}

/// Multiplied by the exact f32 scale.
pub fn scaled(sum: Num) -> Num {
    Num::from(SCALE) * sum
}

/// What both ops read.
struct Inputs<B: Backend, T: Float> {
    x: Tensor<B, T>,
    a: Tensor<B, T>,
    b: Tensor<B, T>,
}

impl<B: Backend, T: Float> Inputs<B, T> {
    fn new(make: &Make<B>, case: &LoraCase) -> Self {
        let (p, rank) = (case.product, case.rank);
        Inputs {
            x: make.normal([p.n, p.inputs], p.layout, 1.0),
            a: make.normal([1, rank * p.inputs], p.layout, 0.1),
            b: make.normal([1, p.outputs * rank], p.layout, 0.1),
        }
    }
}

pub struct Forward<B: Backend, T: Float> {
    case: LoraCase,
    inputs: Inputs<B, T>,
    xa: Tensor<B, T>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Forward<B, T> {
    type Case = LoraCase;

    fn name(case: &LoraCase) -> String {
        format!("lora {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &LoraCase) -> Self {
        let p = case.product;
        Forward {
            case: *case,
            inputs: Inputs::new(make, case),
            xa: make.output([p.n, case.rank], p.layout),
            out: make.sum([p.n, p.outputs], p.layout, true),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Inputs { x, a, b } = &self.inputs;
        let (xa, out) = (self.xa.mat_mut(), self.out.mat_mut());
        let dropout = dropout(&self.case);
        Lora { x: x.mat(), a: a.view(), b: b.view(), scale: SCALE, dropout, xa, out }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.xa, &mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (p, rank) = (self.case.product, self.case.rank);
        let dropped = dropped(&self.inputs.x.to_f64(), p.inputs, &dropout(&self.case));
        let (a, b) = (self.inputs.a.to_f64(), self.inputs.b.to_f64());
        close.some("xa", self.xa.now(), rank, |i, r| oracle::row_by_row(&dropped, &a, p.inputs, i, r));
        // From the `xa` that was stored: rounding it is part of the formula.
        let xa = self.xa.now_f64();
        close.some("out", self.out.now(), p.outputs, |i, j| {
            Num::from(self.out.at(i, j)) + scaled(oracle::row_by_row(&xa, &b, rank, i, j))
        });
    }
}

pub struct Gradient<B: Backend, T: Float> {
    case: LoraCase,
    inputs: Inputs<B, T>,
    xa: Tensor<B, T>,
    d_out: Tensor<B, T>,
    d_a: Tensor<B, f32>,
    d_b: Tensor<B, f32>,
    d_x: Tensor<B, T>,
    d_xa: Tensor<B, T>,
    with_d_x: bool,
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = LoraCase;

    fn name(case: &LoraCase) -> String {
        format!("lora_grad {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &LoraCase) -> Self {
        let (p, rank) = (case.product, case.rank);
        Gradient {
            case: *case,
            inputs: Inputs::new(make, case),
            xa: make.normal([p.n, rank], p.layout, 1.0),
            d_out: make.normal([p.n, p.outputs], p.layout, 1.0),
            d_a: make.sum([1, rank * p.inputs], Layout::Packed, true),
            d_b: make.sum([1, p.outputs * rank], Layout::Packed, true),
            d_x: make.sum([p.n, p.inputs], p.layout, true),
            d_xa: make.output([p.n, rank], p.layout),
            with_d_x: true,
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Inputs { x, a, b } = &self.inputs;
        let op = LoraGrad {
            x: x.mat(),
            a: a.view(),
            b: b.view(),
            scale: SCALE,
            dropout: dropout(&self.case),
            xa: self.xa.mat(),
            d_out: self.d_out.mat(),
            d_xa: self.d_xa.mat_mut(),
            d_a: self.d_a.view_mut(),
            d_b: self.d_b.view_mut(),
            d_x: self.with_d_x.then(|| self.d_x.mat_mut()),
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.d_xa, &mut self.d_a, &mut self.d_b, &mut self.d_x]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (p, rank, dropout) = (self.case.product, self.case.rank, dropout(&self.case));
        let (a, b) = (self.inputs.a.to_f64(), self.inputs.b.to_f64());
        let (xa, d_out) = (self.xa.to_f64(), self.d_out.to_f64());
        let dropped = dropped(&self.inputs.x.to_f64(), p.inputs, &dropout);
        close.some("d_xa", self.d_xa.now(), rank, |i, r| {
            scaled(oracle::row_by_column(&d_out, &b, p.outputs, rank, i, r))
        });
        // From the `d_xa` that was stored: rounding it is part of the formula.
        let d_xa = self.d_xa.now_f64();
        close.all("d_b", self.d_b.now(), rank, |j, r| {
            let sum = oracle::column_by_column(&d_out, &xa, [p.outputs, rank], j, r);
            Num::from(self.d_b.at(0, j * rank + r)) + scaled(sum)
        });
        close.some("d_a", self.d_a.now(), p.inputs, |r, k| {
            let sum = oracle::column_by_column(&d_xa, &dropped, [rank, p.inputs], r, k);
            Num::from(self.d_a.at(0, r * p.inputs + k)) + sum
        });
        close.some("d_x", self.d_x.now(), p.inputs, |i, k| {
            let sum = oracle::row_by_column(&d_xa, &a, rank, p.inputs, i, k);
            Num::from(self.d_x.at(i, k)) + Num::from(mask(&dropout, i, k)) * sum
        });
        self.compare_without_d_x(close);
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let (inputs, rank) = (self.case.product.inputs, self.case.rank);
        let [x, a, b] = [&self.inputs.x, &self.inputs.a, &self.inputs.b].map(Tensor::to_f64);
        let (d_out, xa) = (self.d_out.to_f64(), self.xa.to_f64());
        let out = move |xa: &[f64], b: &[f64]| oracle::weighted(&d_out, oracle::product(xa, b, rank));
        let loss_xa = move |xa: &[f64], b: &[f64]| out(xa, b) * f64::from(SCALE);
        let loss = {
            let (loss, dropout) = (loss_xa.clone(), dropout(&self.case));
            move |x: &[f64], a: &[f64], b: &[f64]| loss(&oracle::product(&dropped(x, inputs, &dropout), a, inputs), b)
        };
        let of_x = {
            let (loss, a, b) = (loss.clone(), a.clone(), b.clone());
            move |x: &[f64]| loss(x, &a, &b)
        };
        let of_a = {
            let (x, b) = (x.clone(), b.clone());
            move |a: &[f64]| loss(&x, a, &b)
        };
        vec![
            Difference { part: "x", got: self.d_x.gained(), at: x, loss: Box::new(of_x) },
            Difference { part: "a", got: self.d_a.gained(), at: a, loss: Box::new(of_a) },
            Difference { part: "b", got: self.d_b.gained(), at: b, loss: Box::new(move |b| loss_xa(&xa, b)) },
        ]
    }
}

impl<B: Backend, T: Float> Gradient<B, T> {
    /// The other gradients do not depend on whether `d_x` is asked for.
    fn compare_without_d_x(&mut self, close: &Close<'_, B>) {
        let all = |g: &Self| (g.d_xa.now().to_vec(), g.d_a.now().to_vec(), g.d_b.now().to_vec());
        let with = all(self);
        self.with_d_x = false;
        bits_again(self, close.backend, close.name);
        self.with_d_x = true;
        assert!(all(self) == with, "{}: d_x changes the other gradients", close.name);
    }
}

fn lora<B: Backend>(backend: &B) {
    cases::adapters().iter().for_each(|case| check_each!(Forward, backend, case));
    property(24, cases::any_adapter(), |case| check_each!(Forward, backend, &case, 2000));
}

fn lora_grad<B: Backend>(backend: &B) {
    cases::adapters().iter().for_each(|case| check_each!(Gradient, backend, case));
    property(24, cases::any_adapter(), |case| check_each!(Gradient, backend, &case, 2000));
}

/// So many tokens and outputs that a CTA has several blocks of the ones and tiles of the others, with tails of both.
fn lora_grad_large<B: Backend>(backend: &B) {
    for (rank, [n, outputs]) in [(16, [2100, 12_296]), (24, [1100, 8200])] {
        let [n, outputs] = if backend.name().starts_with("cpu") { [n / 8, outputs / 41 / 8 * 8] } else { [n, outputs] };
        let case = LoraCase { product: Product::new(n, outputs, 64), rank, dropout: None };
        check_some::<B, Gradient<B, bf16>>(backend, &case, 500);
        check_some::<B, Gradient<B, f16>>(backend, &case, 500);
    }
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

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("lora", lora),
        ("lora_grad", lora_grad),
        ("lora_grad_large", lora_grad_large),
        ("dropout_drops_what_it_says", dropout_drops_what_it_says),
    ]
}

fn tiny<B: Backend>(backend: &B) {
    for dropout in [None, Some(0.4)] {
        differentiate::<B, Gradient<B, f32>>(backend, &LoraCase { product: TINY_PRODUCT, rank: 3, dropout });
    }
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("lora_grad", tiny)]
}

fn shape(case: &LoraCase) -> String {
    format!("{} r{}{}", case.product.shape(), case.rank, if case.dropout.is_some() { " drop" } else { "" })
}

/// Beside its two products, without dropout and scale.
fn forward_work<B: Backend>(case: LoraCase) -> Work<B> {
    let (Product { n, outputs, inputs, .. }, r) = (case.product, case.rank);
    let cost = [2 * n * (inputs + r + 2 * outputs) + 2 * r * (inputs + outputs), 2 * n * r * (inputs + outputs)];
    let down = prepare::<B, linear::Forward<B, bf16, bf16>>(Product::new(n, r, inputs));
    let up = Product { accumulate: true, ..Product::new(n, outputs, r) };
    let up = prepare::<B, linear::Forward<B, bf16, bf16>>(up);
    Work::new::<Forward<B, bf16>>("lora", shape(&case), cost, case).beside(both(down, up))
}

fn gradient_work<B: Backend>(case: LoraCase) -> Work<B> {
    let (Product { n, outputs, inputs, .. }, r) = (case.product, case.rank);
    let cost = [2 * n * (3 * inputs + 2 * r + outputs) + 10 * r * (inputs + outputs), 4 * n * r * (inputs + outputs)];
    Work::new::<Gradient<B, bf16>>("lora_grad", shape(&case), cost, case)
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let (step, [qkv, o, gate_up, down]) = (model.step_tokens(), model.projections());
    let case = |n: usize, [outputs, inputs]: [usize; 2], rank: usize, dropout: Option<f32>| LoraCase {
        product: Product::new(n, outputs, inputs),
        rank,
        dropout,
    };
    let mut works = Vec::new();
    for dropout in [None, Some(0.1)] {
        for shape in [o, gate_up, down] {
            works.push(forward_work(case(step, shape, 16, dropout)));
            works.push(gradient_work(case(step, shape, 16, dropout)));
        }
    }
    works.push(forward_work(case(1, gate_up, 16, None)));
    works.extend([forward_work(case(step, qkv, 64, None)), gradient_work(case(step, qkv, 64, None))]);
    works
}

fn lora_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Lora::<B, f32> {
        x: z.mat(4, 10),
        a: z.view(30),
        b: z.view(18),
        scale: 1.0,
        dropout: None,
        xa: z.mat_mut(4, 3),
        out: z.mat_mut(4, 6),
    };
    z.fits(good());
    z.refuses(Lora { xa: z.mat_mut(5, 3), ..good() }, "lora: `xa` is [5, 3], expected [4, 3]");
    z.refuses(Lora { out: z.mat_mut(5, 6), ..good() }, "lora: `out` is [5, 6], expected [4, 6]");
    z.refuses(Lora { a: z.view(29), ..good() }, "lora: `a` has 29 elements, expected 30");
    z.refuses(Lora { b: z.view(19), ..good() }, "lora: `b` has 19 elements, expected 18");
    for p in [1.0, -0.1, f32::NAN] {
        let dropout = Some(Dropout { p, seed: 0, stream: 0 });
        let message = format!("lora: dropout is {p}, but it must be at least 0 and below 1");
        z.refuses(Lora { dropout, ..good() }, &message);
    }

    let good = || LoraGrad::<B, f32> {
        x: z.mat(4, 10),
        a: z.view(30),
        b: z.view(18),
        scale: 1.0,
        dropout: None,
        xa: z.mat(4, 3),
        d_out: z.mat(4, 6),
        d_xa: z.mat_mut(4, 3),
        d_a: z.out(30),
        d_b: z.out(18),
        d_x: Some(z.mat_mut(4, 10)),
    };
    z.fits(good());
    z.refuses(LoraGrad { xa: z.mat(3, 3), ..good() }, "lora_grad: `xa` is [3, 3], expected [4, 3]");
    z.refuses(LoraGrad { d_out: z.mat(3, 6), ..good() }, "lora_grad: `d_out` is [3, 6], expected [4, 6]");
    z.refuses(LoraGrad { d_xa: z.mat_mut(4, 2), ..good() }, "lora_grad: `d_xa` is [4, 2], expected [4, 3]");
    z.refuses(LoraGrad { a: z.view(31), ..good() }, "lora_grad: `a` has 31 elements, expected 30");
    z.refuses(LoraGrad { b: z.view(17), ..good() }, "lora_grad: `b` has 17 elements, expected 18");
    z.refuses(LoraGrad { d_a: z.out(31), ..good() }, "lora_grad: `d_a` has 31 elements, expected 30");
    z.refuses(LoraGrad { d_b: z.out(17), ..good() }, "lora_grad: `d_b` has 17 elements, expected 18");
    let d_x = Some(z.mat_mut(4, 11));
    z.refuses(LoraGrad { d_x, ..good() }, "lora_grad: `d_x` is [4, 11], expected [4, 10]");
    let dropout = Some(Dropout { p: 2.0, seed: 0, stream: 0 });
    let message = "lora_grad: dropout is 2, but it must be at least 0 and below 1";
    z.refuses(LoraGrad { dropout, ..good() }, message);
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("lora", lora_refuses)]
}
