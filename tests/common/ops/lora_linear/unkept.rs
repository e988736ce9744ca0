//! The gradients where the input was not kept: those where it was, and of what made it by an op of its own.

use super::{Gradient, slice};
use crate::common::{
    cases::{self, Adapted},
    close::Close,
    make::Make,
    num::{Num, unit},
    ops::{lora::dropped, swiglu::gates},
    setup::{Setup, check_some},
    tensor::{Layout, Output, Tensor},
    zeros::Zeros,
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float, Result,
    ops::{LoraInput, LoraLinearGrad, Op, RmsNorm, RmsNormGrad, Swiglu, SwigluGrad},
};

/// What makes the input.
#[derive(Debug, Clone, Copy)]
pub enum By {
    Swiglu,
    RmsNorm,
}

const EPS: f32 = 1e-5;

/// What the input is made of, and gradients behind it.
struct Side<B: Backend, T: Float> {
    gradient: Gradient<B, T>,
    /// `[n, 2 in]`, gate and up, or `[n, in]`, what is normalised.
    from: Tensor<B, T>,
    /// `[n, in]`, to which the gradient of what is normalised is added.
    sum: Tensor<B, T>,
    weight: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Side<B, T> {
    /// The same each time.
    fn new(make: &Make<B>, (case, by): &(Adapted, By)) -> Self {
        let make = Make::new(make.backend, make.purpose, "unkept");
        let (n, inputs, layout) = (case.product.n, case.product.inputs, case.product.layout);
        Side {
            gradient: Gradient::new(&make, case),
            from: match by {
                By::Swiglu => gates(&make, [n, inputs], layout),
                By::RmsNorm => make.normal([n, inputs], layout, 1.0),
            },
            sum: make.normal([n, inputs], layout, 1.0),
            weight: make.normal([1, inputs], Layout::Packed, 1.0),
        }
    }

    fn run(&mut self, backend: &B, by: By) -> Result<()> {
        let Side { gradient, from, sum, weight } = self;
        let input = match by {
            By::Swiglu => LoraInput::Swiglu { gate_up: from.mat_mut() },
            By::RmsNorm => LoraInput::RmsNorm { x: from.mat(), weight: weight.view(), eps: EPS, d_x: sum.mat_mut() },
        };
        gradient.run_with(backend, Some(input))
    }

    /// The same by ops one after the other.
    fn run_each(&mut self, backend: &B, by: By) -> Result<()> {
        let Side { gradient, from, sum, weight } = self;
        let (out, add, eps) = (gradient.x.mat_mut(), None, EPS);
        match by {
            By::Swiglu => Swiglu { gate_up: from.mat(), out }.run(backend)?,
            By::RmsNorm => RmsNorm { x: from.mat(), add, weight: weight.view(), eps, out }.run(backend)?,
        }
        gradient.run_with(backend, None)?;
        let d_out = gradient.d_x.mat();
        match by {
            By::Swiglu => SwigluGrad { gate_up: from.mat_mut(), d_out }.run(backend),
            By::RmsNorm => {
                let (x, weight, d_x) = (from.mat(), weight.view(), sum.mat_mut());
                RmsNormGrad { x, weight, eps, d_out, d_x, accumulate: true }.run(backend)
            }
        }
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        let mut outputs = self.gradient.outputs();
        outputs.extend([&mut self.from as &mut dyn Output<B>, &mut self.sum]);
        outputs
    }
}

pub struct Unkept<B: Backend, T: Float> {
    case: (Adapted, By),
    one: Side<B, T>,
    each: Side<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Unkept<B, T> {
    type Case = (Adapted, By);

    fn name((case, by): &Self::Case) -> String {
        format!("lora_linear_grad {} behind {by:?} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Self::Case) -> Self {
        Unkept { case: *case, one: Side::new(make, case), each: Side::new(make, case) }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        self.one.run(backend, self.case.1)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        self.one.outputs()
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (Adapted { product, .. }, by) = self.case;
        self.each.run_each(close.backend, by).unwrap();
        self.each.outputs().into_iter().for_each(|output| output.fetch(close.backend, close.name));
        self.each.gradient.x.fetch(close.backend, close.name);
        let (one, each) = (&self.one, &self.each);
        for (part, a, b) in [
            ("d_xa", &one.gradient.d_xa, &each.gradient.d_xa),
            ("gate_up", &one.from, &each.from),
            ("the sum", &one.sum, &each.sum),
        ] {
            assert!(a.bytes() == b.bytes(), "{}: {part} differs", close.name);
        }
        let (one, each, inputs) = (&one.gradient, &each.gradient, &each.gradient.inputs);
        let (d_xa, x) = (each.d_xa.now_f64(), each.x.now_f64());
        for ((it, [d_a, d_b]), [a, b]) in inputs.adapters.iter().zip(&one.factors).zip(&each.factors) {
            let (d_xa, x) = (slice(&d_xa, inputs.columns, &it.xa), dropped(&x, product.inputs, &it.dropout));
            // f32 sums of n terms in two orders; a norm that was made again may be rounded to the neighbour.
            let share = 2.0 * product.n as f64 * unit::<f32>() + if let By::RmsNorm = by { unit::<T>() } else { 0.0 };
            close.some("d_a", d_a.now(), product.inputs, |r, k| {
                let term = |i: usize| (d_xa[i * it.rank + r] * x[i * product.inputs + k]).abs();
                let size = (0..product.n).map(term).sum::<f64>();
                Num { v: f64::from(a.now()[r * product.inputs + k]), err: share * size }
            });
            let norm = |values: &[f32]| values.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            let off: Vec<_> = d_b.now().iter().zip(b.now()).map(|(one, each)| one - each).collect();
            let most = 2.0 * product.n as f64 * unit::<f32>() * norm(b.now());
            assert!(norm(&off) <= most, "{}: d_b is off by {:e} > {most:e}", close.name, norm(&off));
        }
    }
}

pub fn check<B: Backend>(backend: &B) {
    let by = [By::Swiglu, By::RmsNorm];
    for case in cases::adapted().into_iter().flat_map(|case| by.map(|by| (case, by))) {
        check_some::<B, Unkept<B, bf16>>(backend, &case, 400);
        check_some::<B, Unkept<B, f16>>(backend, &case, 200);
        check_some::<B, Unkept<B, f32>>(backend, &case, 200);
    }
}

/// `good` has the shapes of [`Zeros::weight`] and four tokens.
pub fn refuses<'a, B: Backend>(z: &Zeros<'_, B>, good: impl Fn() -> LoraLinearGrad<'a, B, f32>) {
    let swiglu = || LoraInput::Swiglu { gate_up: z.mat_mut(4, 256) };
    let message = "lora_linear_grad: d_x is none, but an input that was not kept is made again in its place";
    z.refuses(LoraLinearGrad { input: swiglu(), d_x: None, ..good() }, message);
    let input = LoraInput::Swiglu { gate_up: z.mat_mut(4, 128) };
    z.refuses(LoraLinearGrad { input, ..good() }, "lora_linear_grad: `gate_up` is [4, 128], expected [4, 256]");
    let input = LoraInput::RmsNorm { x: z.mat(4, 128), weight: z.view(127), eps: 0.0, d_x: z.mat_mut(4, 128) };
    z.refuses(LoraLinearGrad { input, ..good() }, "lora_linear_grad: `input.weight` has 127 elements, expected 128");
}
