mod dropped;

use crate::common::{
    cases::{self, Rows},
    close::Close,
    make::Make,
    num::Num,
    oracle,
    setup::{Check, Difference, Setup, differentiate},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{Dora, DoraGrad, DoraNorms, Op, RowSquares},
};

pub struct Squares<B: Backend, T: Float> {
    case: Rows,
    x: Tensor<B, T>,
    out: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Squares<B, T> {
    type Case = Rows;

    fn name(case: &Rows) -> String {
        format!("row_squares {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Rows) -> Self {
        let x = make.normal([case.n, case.d], case.layout, 0.5);
        Squares { case: *case, x, out: make.output([1, case.n], Layout::Packed) }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        RowSquares { x: self.x.mat(), out: self.out.view_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (x, d) = (&self.x, self.case.d);
        close.all("out", self.out.now(), 1, |i, _| Num::dot((0..d).map(|j| (x.at(i, j), x.at(i, j)))));
    }
}

/// Outputs of a layer, and the rank of its adapter.
#[derive(Debug, Clone, Copy)]
pub struct Ranked {
    outputs: usize,
    rank: usize,
    layout: Layout,
}

const SCALE: f32 = 1.5;

pub struct Norms<B: Backend, T: Float> {
    case: Ranked,
    squares: Tensor<B, f32>,
    products: Tensor<B, f32>,
    gram: Tensor<B, f32>,
    b: Tensor<B, T>,
    norms: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Norms<B, T> {
    type Case = Ranked;

    fn name(case: &Ranked) -> String {
        format!("dora_norms {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Ranked) -> Self {
        let Ranked { outputs, rank, layout } = *case;
        // Of an `A` of its own, so that the matrix is symmetric.
        let a = make.random.normal(rank * 8, 0.3);
        let dot = |i: usize, j: usize| (0..8).map(|l| a[i * 8 + l] * a[j * 8 + l]).sum::<f32>();
        let gram = (0..rank * rank).map(|at| dot(at / rank, at % rank)).collect();
        Norms {
            case: *case,
            // Sometimes so small that what is below the root is negative.
            squares: make.normal_but([1, outputs], Layout::Packed, 1.0, |values| {
                values.iter_mut().enumerate().for_each(|(i, v)| *v = if i % 7 == 3 { -50.0 } else { 5.0 + v.abs() });
            }),
            products: make.normal([rank, outputs], layout, 0.3),
            gram: make.flat(Layout::Packed, gram),
            b: make.normal([1, outputs * rank], Layout::Packed, 0.1),
            norms: make.output([1, outputs], Layout::Packed),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Norms { squares, products, gram, b, norms, .. } = self;
        let (squares, products, gram, b) = (squares.view(), products.mat(), gram.view(), b.view());
        DoraNorms { squares, products, gram, b, scale: SCALE, norms: norms.view_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.norms]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (r, s) = (self.case.rank, Num::from(SCALE));
        close.all("norms", self.norms.now(), 1, |o, _| {
            let b = |j: usize| Num::from(self.b.at(0, o * r + j));
            let with_b = |j: usize| Num::sum((0..r).map(|k| Num::from(self.gram.at(0, j * r + k)) * b(k)));
            let products = |j: usize| Num::from(2.0) * Num::from(self.products.at(j, o));
            let terms = (0..r).map(|j| b(j) * (products(j) + s * with_b(j)));
            let square = Num::from(self.squares.at(0, o)) + s * Num::sum(terms);
            if square.v > 0.0 { square.sqrt() } else { Num::ZERO }
        });
    }
}

/// The third of five is 0: nothing comes of that output.
fn norms<B: Backend>(make: &Make<B>, outputs: usize) -> Tensor<B, f32> {
    let positive = make.random.normal(outputs, 1.0).into_iter().map(|v| 0.5 + v.abs());
    make.flat(Layout::Packed, positive.enumerate().map(|(i, v)| if i % 5 == 2 { 0.0 } else { v }).collect())
}

/// `magnitude / norm`, or 0.
fn factor(magnitude: f64, norm: f64) -> Num {
    if norm > 0.0 { Num::from(magnitude) / Num::from(norm) } else { Num::ZERO }
}

pub struct Forward<B: Backend, T: Float> {
    case: Rows,
    z: Tensor<B, T>,
    magnitude: Tensor<B, f32>,
    norms: Tensor<B, f32>,
    sum: Option<Tensor<B, T>>,
}

impl<B: Backend, T: Float> Setup<B> for Forward<B, T> {
    /// Whether the outcome is added to a sum.
    type Case = (Rows, bool);

    fn name((rows, sum): &(Rows, bool)) -> String {
        format!("dora {} {rows:?}, to a sum: {sum}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, (rows, sum): &(Rows, bool)) -> Self {
        let Rows { n, d, layout, .. } = *rows;
        Forward {
            case: *rows,
            z: make.normal([n, d], layout, 1.0),
            magnitude: make.normal([1, d], Layout::Packed, 1.0),
            norms: norms(make, d),
            sum: sum.then(|| make.normal([n, d], layout, 1.0)),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Forward { z, magnitude, norms, sum, .. } = self;
        let sum = sum.as_mut().map(Tensor::mat_mut);
        Dora { z: z.mat_mut(), magnitude: magnitude.view(), norms: norms.view(), sum }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        match &mut self.sum {
            Some(sum) => vec![sum],
            None => vec![&mut self.z],
        }
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let out = self.sum.as_ref().unwrap_or(&self.z);
        close.all("out", out.now(), self.case.d, |i, j| {
            let scaled = factor(self.magnitude.at(0, j), self.norms.at(0, j)) * Num::from(self.z.at(i, j));
            self.sum.as_ref().map_or(scaled, |sum| Num::from(sum.at(i, j)) + scaled)
        });
    }
}

pub struct Gradient<B: Backend, T: Float> {
    case: Rows,
    z: Tensor<B, T>,
    magnitude: Tensor<B, f32>,
    norms: Tensor<B, f32>,
    d_out: Tensor<B, T>,
    d_magnitude: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = Rows;

    fn name(case: &Rows) -> String {
        format!("dora_grad {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Rows) -> Self {
        let Rows { n, d, layout, .. } = *case;
        Gradient {
            case: *case,
            z: make.normal([n, d], layout, 1.0),
            magnitude: make.normal([1, d], Layout::Packed, 1.0),
            norms: norms(make, d),
            d_out: make.normal([n, d], layout, 1.0),
            d_magnitude: make.normal([1, d], Layout::Packed, 1.0),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Gradient { z, magnitude, norms, d_out, d_magnitude, .. } = self;
        let (d_out, d_magnitude) = (d_out.mat_mut(), d_magnitude.view_mut());
        DoraGrad { z: z.mat(), magnitude: magnitude.view(), norms: norms.view(), d_out, d_magnitude }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.d_out, &mut self.d_magnitude]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Gradient { case: Rows { n, d, .. }, z, magnitude, norms, d_out, d_magnitude } = self;
        close.all("d_out", d_out.now(), *d, |i, j| {
            factor(magnitude.at(0, j), norms.at(0, j)) * Num::from(d_out.at(i, j))
        });
        close.all("d_magnitude", d_magnitude.now(), *d, |_, j| {
            let before = Num::from(d_magnitude.at(0, j));
            let sum = Num::dot((0..*n).map(|i| (d_out.at(i, j), z.at(i, j))));
            if norms.at(0, j) > 0.0 { before + sum / Num::from(norms.at(0, j)) } else { before }
        });
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let (d_out, d) = (self.d_out.to_f64(), self.case.d);
        let loss = move |z: &[f64], magnitude: &[f64]| {
            let out = |(at, z): (usize, &f64)| magnitude[at % d] / self.norms.at(0, at % d) * z;
            oracle::weighted(&d_out, z.iter().enumerate().map(out))
        };
        let (z, magnitude) = (self.z.to_f64(), self.magnitude.to_f64());
        let (by_z, by_magnitude) = (loss.clone(), loss);
        let of_z = Box::new(move |z: &[f64]| by_z(z, &magnitude));
        let of_magnitude = Box::new(move |magnitude: &[f64]| by_magnitude(&z, magnitude));
        vec![
            Difference { part: "z", got: self.d_out.floats(), at: self.z.to_f64(), loss: of_z },
            Difference {
                part: "magnitude",
                got: self.d_magnitude.gained(),
                at: self.magnitude.to_f64(),
                loss: of_magnitude,
            },
        ]
    }
}

fn row_squares<B: Backend>(backend: &B) {
    cases::rows().iter().for_each(|case| check_each!(Squares, backend, case));
}

fn dora_norms<B: Backend>(backend: &B) {
    for (i, outputs) in [1, 7, 64, 130].into_iter().enumerate() {
        for (j, rank) in [1, 3, 16, 33, 64].into_iter().enumerate() {
            let case = Ranked { outputs, rank, layout: crate::common::tensor::LAYOUTS[(i + j) % 3] };
            check_each!(Norms, backend, &case);
        }
    }
}

fn dora<B: Backend>(backend: &B) {
    for (i, case) in cases::rows().into_iter().enumerate() {
        check_each!(Forward, backend, &(case, i % 2 == 1));
    }
}

fn dora_grad<B: Backend>(backend: &B) {
    cases::rows().iter().for_each(|case| check_each!(Gradient, backend, case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("row_squares", row_squares),
        ("dora_norms", dora_norms),
        ("dora", dora),
        ("dora_grad", dora_grad),
        ("dropped", dropped::check),
    ]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("dora_grad", |backend| {
            // Two outputs, of which no norm is 0.
            differentiate::<B, Gradient<B, f32>>(backend, &Rows::new(3, 2));
        }),
        ("dropped", dropped::differences),
    ]
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let (n, d, rank) = (model.step_tokens(), model.hidden, 16);
    let (case, len) = (Rows::new(n, d), n * d);
    let norms = Ranked { outputs: d, rank, layout: Layout::Packed };
    let shape = || case.shape();
    vec![
        Work::new::<Squares<B, bf16>>("row_squares", shape(), [2 * len, 2 * len], case),
        Work::new::<Norms<B, bf16>>("dora_norms", format!("{d} r {rank}"), [6 * d * rank, 2 * d * rank * rank], norms),
        Work::new::<Forward<B, bf16>>("dora", shape(), [4 * len, len], (case, false)),
        Work::new::<Gradient<B, bf16>>("dora_grad", shape(), [6 * len, 3 * len], case),
        dropped::work(case),
    ]
}

fn dora_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    z.refuses(RowSquares::<B, f32> { x: z.mat(3, 4), out: z.out(4) }, "row_squares: `out` has 4 elements, expected 3");
    let good = || DoraNorms::<B, f32> {
        squares: z.view(5),
        products: z.mat(2, 5),
        gram: z.view(4),
        b: z.view(10),
        scale: 1.0,
        norms: z.out(5),
    };
    z.fits(good());
    z.refuses(DoraNorms { gram: z.view(5), ..good() }, "dora_norms: `gram` has 5 elements, expected 4");
    z.refuses(DoraNorms { b: z.view(9), ..good() }, "dora_norms: `b` has 9 elements, expected 10");
    let good = || Dora::<B, f32> { z: z.mat_mut(3, 4), magnitude: z.view(4), norms: z.view(4), sum: None };
    z.fits(good());
    z.refuses(Dora { norms: z.view(3), ..good() }, "dora: `norms` has 3 elements, expected 4");
    z.refuses(Dora { sum: Some(z.mat_mut(3, 5)), ..good() }, "dora: `sum` is [3, 5], expected [3, 4]");
    let good = || DoraGrad::<B, f32> {
        z: z.mat(3, 4),
        magnitude: z.view(4),
        norms: z.view(4),
        d_out: z.mat_mut(3, 4),
        d_magnitude: z.out(4),
    };
    z.fits(good());
    z.refuses(DoraGrad { d_out: z.mat_mut(2, 4), ..good() }, "dora_grad: `d_out` is [2, 4], expected [3, 4]");
    z.refuses(DoraGrad { d_magnitude: z.out(5), ..good() }, "dora_grad: `d_magnitude` has 5 elements, expected 4");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("dora", dora_refuses), ("dropped", dropped::refuses)]
}
