//! Adapters whose A, and gradients of A, lie one behind the other, as a trainer lays them out: what they would be apart.

use super::{Forward, Gradient, Inputs, slice};
use crate::common::{
    cases::{self, Adapted, Product},
    close::Close,
    make::Make,
    num::{Num, unit},
    setup::{Setup, check_some},
    tensor::{Layout, Output, Tensor},
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float, Result,
    ops::{LoraFactors, LoraInput, LoraLinear, LoraLinearGrad, LoraPart, Op},
};
use std::ops::Range;

/// Both ops, and what they read.
struct Side<B: Backend, T: Float> {
    forward: Forward<B, T>,
    gradient: Gradient<B, T>,
}

impl<B: Backend, T: Float> Side<B, T> {
    /// The same each time.
    fn new(make: &Make<B>, case: &Adapted) -> Self {
        let make = || Make::new(make.backend, make.purpose, "adjoining");
        Side { forward: Forward::new(&make(), case), gradient: Gradient::new(&make(), case) }
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        let mut outputs = self.forward.outputs();
        outputs.extend(self.gradient.outputs());
        outputs
    }
}

/// Where each A begins and ends where they lie one behind the other.
fn places<B: Backend, T: Float>(inputs: &Inputs<B, T>) -> Vec<Range<usize>> {
    let mut end = 0;
    let place = |rank: usize| {
        end += rank * inputs.case.product.inputs;
        end - rank * inputs.case.product.inputs..end
    };
    inputs.adapters.iter().map(|it| it.rank).map(place).collect()
}

/// The adapters, with A from `all`.
fn parts<'a, B: Backend, T: Float>(inputs: &'a Inputs<B, T>, all: &'a Tensor<B, T>) -> Vec<LoraPart<'a, B, T>> {
    let with = |(part, place)| LoraPart { a: all.view().at(place), ..part };
    inputs.parts().into_iter().zip(places(inputs)).map(with).collect()
}

struct Adjoining<B: Backend, T: Float> {
    one: Side<B, T>,
    each: Side<B, T>,
    a: [Tensor<B, T>; 2],
    d_a: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Adjoining<B, T> {
    type Case = Adapted;

    fn name(case: &Adapted) -> String {
        format!("lora_linear of adjoining A, {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Adapted) -> Self {
        let (one, each) = (Side::<B, T>::new(make, case), Side::new(make, case));
        let a = [&one.forward.inputs, &one.gradient.inputs].map(|inputs| {
            let values = inputs.adapters.iter().flat_map(|it| it.a.values().to_vec()).collect();
            Tensor::flat(make.backend, Layout::Packed, values)
        });
        let values = one.gradient.factors.iter().flat_map(|[d_a, _]| d_a.values().to_vec()).collect();
        Adjoining { d_a: Tensor::flat(make.backend, Layout::Packed, values), one, each, a }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Side { forward: Forward { inputs, x, xa, out }, gradient } = &mut self.one;
        let (weight, accumulate) = (inputs.weight.weight(), inputs.case.product.accumulate);
        let (x, xa, out, all) = (x.mat_mut(), xa.mat_mut(), out.mat_mut(), &parts(inputs, &self.a[0]));
        LoraLinear { x, gate_up: None, weight, parts: all, xa, out, accumulate }.run(backend)?;
        let Gradient { inputs, x, xa, d_out, d_xa, factors, d_x } = gradient;
        let d_a = self.d_a.view_mut().into_disjoint(&places(inputs));
        let both = d_a.into_iter().zip(factors).map(|(d_a, [_, d_b])| LoraFactors { d_a, d_b: d_b.view_mut() });
        LoraLinearGrad {
            input: LoraInput::Kept(x.mat()),
            xa: xa.mat(),
            weight: inputs.weight.weight(),
            parts: &parts(inputs, &self.a[1]),
            factors: both.collect(),
            d_out: d_out.mat_mut(),
            d_xa: d_xa.mat_mut(),
            d_x: Some(d_x.mat_mut()),
        }
        .run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        let Side { forward, gradient } = &mut self.one;
        let mut outputs = forward.outputs();
        outputs.extend([&mut gradient.d_xa as &mut dyn Output<B>, &mut gradient.d_x, &mut self.d_a]);
        outputs.extend(gradient.factors.iter_mut().map(|[_, d_b]| d_b as &mut dyn Output<B>));
        outputs
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        self.each.forward.run(close.backend).unwrap();
        self.each.gradient.run(close.backend).unwrap();
        self.each.outputs().into_iter().for_each(|output| output.fetch(close.backend, close.name));
        let (one, each) = (&self.one, &self.each);
        for (part, a, b) in [
            ("xa", &one.forward.xa, &each.forward.xa),
            ("out", &one.forward.out, &each.forward.out),
            ("d_xa", &one.gradient.d_xa, &each.gradient.d_xa),
            ("d_x", &one.gradient.d_x, &each.gradient.d_x),
        ] {
            assert!(a.bytes() == b.bytes(), "{}: {part} differs", close.name);
        }
        let (inputs, Product { n, inputs: cols, .. }) = (&each.gradient.inputs, each.gradient.inputs.case.product);
        let (d_xa, x) = (each.gradient.d_xa.now_f64(), each.gradient.x.to_f64());
        let of_each = inputs.adapters.iter().zip(&one.gradient.factors).zip(&each.gradient.factors);
        for (((it, [_, one_d_b]), [d_a, d_b]), place) in of_each.zip(places(inputs)) {
            assert!(one_d_b.bytes() == d_b.bytes(), "{}: d_b differs", close.name);
            let d_xa = slice(&d_xa, inputs.columns, &it.xa);
            // f32 sums of n terms, and what was there, in two orders.
            close.some("d_a", &self.d_a.now()[place], cols, |r, k| {
                let term = |i: usize| (d_xa[i * it.rank + r] * x[i * cols + k]).abs();
                let size = (0..n).map(term).sum::<f64>() + d_a.at(0, r * cols + k).abs();
                Num { v: f64::from(d_a.now()[r * cols + k]), err: 2.0 * (n + 1) as f64 * unit::<f32>() * size }
            });
        }
    }
}

pub fn check<B: Backend>(backend: &B) {
    let stacks: [(usize, &[_]); 2] =
        [(1160, &[(16, 0, 40), (16, 40, 88)]), (2056, &[(16, 0, 40), (16, 40, 64), (16, 64, 88)])];
    for (n, adapters) in stacks {
        for dense in [None, Some(64)] {
            let case = Adapted { product: Product::new(n, 88, 64), dense, adapters, ..cases::stack() };
            check_some::<B, Adjoining<B, bf16>>(backend, &case, 300);
            check_some::<B, Adjoining<B, f16>>(backend, &case, 300);
        }
    }
}
