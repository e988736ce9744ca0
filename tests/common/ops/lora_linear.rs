mod adjoining;
mod gated;
mod refused;
mod unkept;

use super::{
    linear4::{exactness, grad_exactness},
    lora::{SCALE, dropped, mask, scaled},
};
use crate::common::{
    cases::{self, Adapted, Product},
    close::Close,
    exactness::Exactness,
    frozen::Frozen,
    make::Make,
    num::{Num, unit},
    oracle,
    quantized::Quantized,
    setup::{Check, Difference, Setup, check_some, differentiate},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float, Mat, Result,
    ops::{Dropout, LoraFactors, LoraInput, LoraLinear, LoraLinearGrad, LoraPart, Op},
};
use std::ops::Range;

/// One adapter's factors, and its places.
pub struct Adapter<B: Backend, T: Float> {
    pub a: Tensor<B, T>,
    b: Tensor<B, T>,
    rank: usize,
    dropout: Option<Dropout>,
    pub xa: Range<usize>,
    out: Range<usize>,
}

impl<B: Backend, T: Float> Adapter<B, T> {
    fn part(&self) -> LoraPart<'_, B, T> {
        let Adapter { a, b, dropout, xa, out, .. } = self;
        let (xa, out) = (xa.clone(), out.clone());
        LoraPart { a: a.view(), b: b.view(), scale: SCALE, dropout: *dropout, xa, out }
    }
}

/// What both ops read: the adapters, their columns of `xa` at multiples of 8, and how many columns these make.
pub struct Inputs<B: Backend, T: Float> {
    pub case: Adapted,
    pub weight: Frozen<B, T>,
    pub adapters: Vec<Adapter<B, T>>,
    pub columns: usize,
}

impl<B: Backend, T: Float> Inputs<B, T> {
    pub fn new(make: &Make<B>, case: &Adapted) -> Self {
        let inputs = case.product.inputs;
        let (mut adapters, mut columns) = (Vec::new(), 8);
        for (i, &(rank, start, end)) in case.adapters.iter().enumerate() {
            adapters.push(Adapter {
                a: make.normal([1, rank * inputs], Layout::Packed, 0.1),
                b: make.normal([1, (end - start) * rank], Layout::Packed, 0.1),
                rank,
                dropout: case.dropout.map(|p| Dropout { p, seed: 77, stream: (3 << 32) + i as u64 }),
                xa: columns..columns + rank,
                out: start..end,
            });
            columns = (columns + rank).next_multiple_of(8);
        }
        Inputs { case: *case, weight: Frozen::random(make, case), adapters, columns }
    }

    pub fn parts(&self) -> Vec<LoraPart<'_, B, T>> {
        self.adapters.iter().map(Adapter::part).collect()
    }

    /// Zeros, as there must be between the adapters' columns.
    pub fn zeros(&self, make: &Make<B>) -> Tensor<B, T> {
        make.normal_but([self.case.product.n, self.columns], Layout::Packed, 1.0, |values| values.fill(0.0))
    }

    /// What an adapter adds to an output, with this `xa`.
    pub fn added(&self, xa: &[f64]) -> impl Fn(usize, usize) -> Option<Num> {
        let with = self.adapters.iter().map(|it| (it, slice(xa, self.columns, &it.xa), it.b.to_f64()));
        let with: Vec<_> = with.collect();
        move |i, j| {
            let (it, xa, b) = with.iter().find(|(it, ..)| it.out.contains(&j))?;
            let mut added = scaled(oracle::row_by_row(xa, b, it.rank, i, j - it.out.start));
            // `scale B` may be rounded.
            let size = |r: usize| -> f64 { (xa[i * it.rank + r] * b[(j - it.out.start) * it.rank + r]).abs() };
            added.err += unit::<T>() * f64::from(SCALE) * (0..it.rank).map(size).sum::<f64>();
            Some(added)
        }
    }
}

/// The first `cols` columns of a matrix.
fn columns<B: Backend, T: Float>(matrix: &Tensor<B, T>, cols: usize) -> Vec<f64> {
    let [_, all] = matrix.shape();
    matrix.to_f64().chunks(all).flat_map(|row| row[..cols].to_vec()).collect()
}

/// Some columns of values with `all` columns.
fn slice(values: &[f64], all: usize, range: &Range<usize>) -> Vec<f64> {
    values.chunks(all).flat_map(|row| row[range.clone()].to_vec()).collect()
}

pub struct Forward<B: Backend, T: Float> {
    inputs: Inputs<B, T>,
    x: Tensor<B, T>,
    xa: Tensor<B, T>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Forward<B, T> {
    type Case = Adapted;

    fn name(case: &Adapted) -> String {
        format!("lora_linear {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Adapted) -> Self {
        let inputs = Inputs::new(make, case);
        let Product { n, outputs, inputs: cols, layout, accumulate } = case.product;
        Forward {
            x: make.normal([n, cols + case.room], layout, 1.0),
            xa: inputs.zeros(make),
            out: make.sum([n, outputs], layout, accumulate),
            inputs,
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        self.run_of(backend, None)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.xa, &mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        self.compare_of(&columns(&self.x, self.inputs.case.product.inputs), close);
    }
}

impl<B: Backend, T: Float> Forward<B, T> {
    fn run_of(&mut self, backend: &B, gate_up: Option<Mat<'_, B, T>>) -> Result<()> {
        let (x, xa, out) = (self.x.mat_mut(), self.xa.mat_mut(), self.out.mat_mut());
        let (weight, parts, accumulate) =
            (self.inputs.weight.weight(), &self.inputs.parts()[..], self.inputs.case.product.accumulate);
        LoraLinear { x, gate_up, weight, parts, xa, out, accumulate }.run(backend)
    }

    /// With this input.
    fn compare_of(&self, x: &[f64], close: &Close<'_, B>) {
        let Inputs { case, weight, adapters, columns: all } = &self.inputs;
        let Product { outputs, inputs, accumulate, .. } = case.product;
        weight.assert_kept(close.backend, close.name);
        let read: Vec<_> = adapters.iter().map(|it| (it, dropped(x, inputs, &it.dropout), it.a.to_f64())).collect();
        close.some("xa", self.xa.now(), *all, |i, j| {
            let Some((it, x, a)) = read.iter().find(|(it, ..)| it.xa.contains(&j)) else { return Num::ZERO };
            oracle::row_by_row(x, a, inputs, i, j - it.xa.start)
        });
        // From the `xa` that was stored: rounding it is part of the formula.
        let (weight, xa) = (weight.exact(), self.xa.now_f64());
        let added = self.inputs.added(&xa);
        let exactness = match case.dense {
            Some(_) => Exactness::of::<B, T>(close.backend, case.product.n, false),
            None => exactness::<B, T>(close.backend, &case.product, &case.quantization),
        };
        close.some("out", self.out.now(), outputs, |i, j| {
            let base = exactness.dot::<T>(oracle::rows(x, &weight, inputs, i, j));
            let base = if accumulate { Num::from(self.out.at(i, j)) + base.rounded::<T>() } else { base };
            added(i, j).map_or(base, |added| base.rounded::<T>() + added)
        });
    }
}

pub struct Gradient<B: Backend, T: Float> {
    inputs: Inputs<B, T>,
    x: Tensor<B, T>,
    xa: Tensor<B, T>,
    d_out: Tensor<B, T>,
    d_xa: Tensor<B, T>,
    factors: Vec<[Tensor<B, f32>; 2]>,
    d_x: Tensor<B, T>,
}

impl<B: Backend, T: Float> Gradient<B, T> {
    /// With this input, or `x`.
    fn run_with(&mut self, backend: &B, input: Option<LoraInput<'_, B, T>>) -> Result<()> {
        let parts = self.inputs.parts();
        let factors = self.factors.iter_mut().map(|[a, b]| LoraFactors { d_a: a.view_mut(), d_b: b.view_mut() });
        let factors = factors.collect();
        LoraLinearGrad {
            input: input.unwrap_or(LoraInput::Kept(self.x.mat())),
            xa: self.xa.mat(),
            weight: self.inputs.weight.weight(),
            parts: &parts,
            factors,
            d_out: self.d_out.mat_mut(),
            d_xa: self.d_xa.mat_mut(),
            d_x: Some(self.d_x.mat_mut()),
        }
        .run(backend)
    }
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = Adapted;

    fn name(case: &Adapted) -> String {
        format!("lora_linear_grad {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Adapted) -> Self {
        let inputs = Inputs::<B, T>::new(make, case);
        let Product { n, outputs, inputs: cols, layout, .. } = case.product;
        let factors = |it: &Adapter<B, T>| {
            let sum = |len| make.sum([1, len], Layout::Packed, true);
            [sum(it.rank * cols), sum(it.out.len() * it.rank)]
        };
        Gradient {
            x: make.normal([n, cols], layout, 1.0),
            xa: make.normal([n, inputs.columns], layout, 1.0),
            d_out: make.normal([n, outputs + case.room], layout, 1.0),
            d_xa: inputs.zeros(make),
            factors: inputs.adapters.iter().map(factors).collect(),
            d_x: make.output([n, cols], layout),
            inputs,
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        self.run_with(backend, None)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        let mut outputs: Vec<&mut dyn Output<B>> = vec![&mut self.d_xa, &mut self.d_x];
        for [a, b] in &mut self.factors {
            outputs.extend([a as &mut dyn Output<B>, b]);
        }
        outputs
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Inputs { case, weight, adapters, columns: all } = &self.inputs;
        let Product { outputs, inputs, .. } = case.product;
        weight.assert_kept(close.backend, close.name);
        let (d_out, weight) = (columns(&self.d_out, outputs), weight.exact());
        let (x, xa, d_xa) = (self.x.to_f64(), self.xa.to_f64(), self.d_xa.now_f64());
        let of = |j: usize| adapters.iter().find(|adapter| adapter.xa.contains(&j));
        close.some("d_xa", self.d_xa.now(), *all, |i, j| {
            let Some(it) = of(j) else { return Num::ZERO };
            let d_out = slice(&d_out, outputs, &it.out);
            scaled(oracle::row_by_column(&d_out, &it.b.to_f64(), it.out.len(), it.rank, i, j - it.xa.start))
        });
        for (it, [d_a, d_b]) in adapters.iter().zip(&self.factors) {
            let (d_out, xa) = (slice(&d_out, outputs, &it.out), slice(&xa, *all, &it.xa));
            let (d_xa, dropped) = (slice(&d_xa, *all, &it.xa), dropped(&x, inputs, &it.dropout));
            close.some("d_b", d_b.now(), it.rank, |j, r| {
                let sum = oracle::column_by_column(&d_out, &xa, [it.out.len(), it.rank], j, r);
                Num::from(d_b.at(0, j * it.rank + r)) + scaled(sum)
            });
            close.some("d_a", d_a.now(), inputs, |r, k| {
                let sum = oracle::column_by_column(&d_xa, &dropped, [it.rank, inputs], r, k);
                Num::from(d_a.at(0, r * inputs + k)) + sum
            });
        }
        let with: Vec<_> = adapters.iter().map(|it| (it, slice(&d_xa, *all, &it.xa), it.a.to_f64())).collect();
        let exactness = match case.dense {
            Some(_) => Exactness::of::<B, T>(close.backend, case.product.n, true),
            None => grad_exactness::<B, T>(close.backend, &case.product, &case.quantization),
        };
        close.some("d_x", self.d_x.now(), inputs, |i, k| {
            let base = exactness.dot::<T>(oracle::row_and_column(&d_out, &weight, outputs, inputs, i, k));
            with.iter().fold(base, |sum, (it, d_xa, a)| {
                let added = oracle::row_by_column(d_xa, a, it.rank, inputs, i, k);
                sum.rounded::<T>() + Num::from(mask(&it.dropout, i, k)) * added
            })
        });
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let Inputs { case, weight, adapters, .. } = &self.inputs;
        let Product { outputs, inputs, .. } = case.product;
        let (d_out, weight) = (columns(&self.d_out, outputs), weight.exact());
        let loss = move |x: &[f64]| {
            let mut loss = oracle::weighted(&d_out, oracle::product(x, &weight, inputs));
            for it in adapters {
                let xa = oracle::product(&dropped(x, inputs, &it.dropout), &it.a.to_f64(), inputs);
                let out = oracle::product(&xa, &it.b.to_f64(), it.rank);
                loss += f64::from(SCALE) * oracle::weighted(&slice(&d_out, outputs, &it.out), out);
            }
            loss
        };
        vec![Difference { part: "x", got: self.d_x.floats(), at: self.x.to_f64(), loss: Box::new(loss) }]
    }
}

fn lora_linear<B: Backend>(backend: &B) {
    for case in cases::adapted() {
        check_some::<B, Forward<B, bf16>>(backend, &case, 600);
        check_some::<B, Forward<B, f16>>(backend, &case, 300);
        check_some::<B, Forward<B, f32>>(backend, &case, 300);
    }
}

fn lora_linear_grad<B: Backend>(backend: &B) {
    for case in cases::adapted() {
        check_some::<B, Gradient<B, bf16>>(backend, &case, 400);
        check_some::<B, Gradient<B, f16>>(backend, &case, 200);
        check_some::<B, Gradient<B, f32>>(backend, &case, 200);
    }
}

/// A weight that is decoded in more than one piece.
fn lora_linear_large<B: Backend>(backend: &B) {
    let outputs = if backend.name().starts_with("cpu") { 96 } else { 28_672 };
    for dense in [None, Some(64)] {
        let case = Adapted { product: Product::new(1032, outputs, 4096), dense, ..cases::stack() };
        check_some::<B, Forward<B, bf16>>(backend, &case, 300);
        check_some::<B, Gradient<B, bf16>>(backend, &case, 100);
    }
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("lora_linear", lora_linear),
        ("lora_linear_adjoining", adjoining::check),
        ("lora_linear_gated", gated::check),
        ("lora_linear_grad", lora_linear_grad),
        ("lora_linear_grad_unkept", unkept::check),
        ("lora_linear_large", lora_linear_large),
    ]
}

fn tiny<B: Backend>(backend: &B) {
    let product = Product::new(3, 6, 40);
    for dense in [None, Some(64)] {
        let case = Adapted { product, dense, adapters: &[(2, 0, 3), (3, 4, 6)], ..cases::stack() };
        differentiate::<B, Gradient<B, f32>>(backend, &case);
    }
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("lora_linear_grad", tiny)]
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let [.., gate_up, _] = model.projections();
    let (n, [outputs, inputs]) = (model.step_tokens(), gate_up);
    let case = Adapted { product: Product::new(n, outputs, inputs), ..cases::stack() };
    let works = |case: Adapted, held: usize, name: &str| {
        let cost = [held + 2 * n * (inputs + outputs), case.product.flops()];
        let shape = format!("{}{name}", case.product.shape());
        [
            Work::new::<Forward<B, bf16>>("lora_linear", shape.clone(), cost, case),
            Work::new::<Gradient<B, bf16>>("lora_linear_grad", shape, cost, case),
        ]
    };
    let dense = Adapted { dense: Some(64), ..case };
    let mut all = Vec::from(works(case, Quantized::<B>::bytes(case.quantization, gate_up), ""));
    all.extend(works(dense, 2 * outputs * inputs, " dense"));
    all
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("lora_linear", refused::lora_linear)]
}
