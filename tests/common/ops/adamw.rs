use crate::common::{
    close::Close,
    make::Make,
    num::Num,
    oracle::AdamWStep,
    setup::{Check, Setup},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{AdamW, Op},
};

/// So many weights; the first step begins with moments of zero.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    len: usize,
    step: u32,
}

const LR: f32 = 3e-3;
const BETAS: [f32; 2] = [0.9, 0.999];
const EPS: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.1;
const GRAD_SCALE: f32 = 0.25;

pub struct Step<B: Backend, T: Float> {
    case: Case,
    weights: Tensor<B, f32>,
    grads: Tensor<B, f32>,
    m: Tensor<B, f32>,
    v: Tensor<B, f32>,
    compute: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Step<B, T> {
    type Case = Case;

    fn name(Case { len, step }: &Case) -> String {
        format!("adamw {} {len} step {step}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let (shape, deviation) = ([1, case.len], if case.step == 1 { 0.0 } else { 0.1 });
        let weights = make.normal(shape, Layout::Packed, 0.1);
        let grads = make.normal(shape, Layout::Packed, 3.0);
        let m = make.normal(shape, Layout::Packed, deviation);
        // Squares are positive.
        let v = make.random.uniform(case.len).into_iter().map(|u| if case.step == 1 { 0.0 } else { u });
        let v = make.flat(Layout::Packed, v.collect());
        Step { case: *case, weights, grads, m, v, compute: make.output(shape, Layout::Odd) }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let op = AdamW {
            weights: self.weights.view_mut(),
            grads: self.grads.view(),
            m: self.m.view_mut(),
            v: self.v.view_mut(),
            compute: self.compute.view_mut(),
            lr: LR,
            betas: BETAS,
            eps: EPS,
            weight_decay: WEIGHT_DECAY,
            step: self.case.step,
            grad_scale: GRAD_SCALE,
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.weights, &mut self.m, &mut self.v, &mut self.compute]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let oracle = AdamWStep {
            lr: f64::from(LR),
            betas: BETAS.map(f64::from),
            eps: f64::from(EPS),
            weight_decay: f64::from(WEIGHT_DECAY),
            step: self.case.step as i32,
        };
        let state = [&self.weights, &self.m, &self.v];
        let want = |i: usize| {
            let g = Num::from(self.grads.at(0, i)) * Num::from(GRAD_SCALE);
            oracle.apply(state.map(|x| Num::from(x.at(0, i))), g)
        };
        let want: Vec<[Num; 3]> = (0..self.case.len).map(want).collect();
        for (part, (name, x)) in ["weights", "m", "v"].into_iter().zip(state).enumerate() {
            close.all(name, x.now(), self.case.len, |_, i| want[i][part]);
        }
        for (i, (compute, w)) in self.compute.now().iter().zip(self.weights.now()).enumerate() {
            assert!(*compute == T::from_f32(*w), "{}: compute[{i}] is {compute:?} for the weight {w}", close.name);
        }
    }
}

fn adamw<B: Backend>(backend: &B) {
    for len in [0, 1, 7, 64, 1000, 65_537] {
        for step in [1, 2, 1000] {
            check_each!(Step, backend, &Case { len, step });
        }
    }
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("adamw", adamw)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let n = model.adapter;
    vec![Work::new::<Step<B, bf16>>("adamw", n.to_string(), [30 * n, 15 * n], Case { len: n, step: 10 })]
}

fn adamw_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || AdamW::<B, f32> {
        weights: z.out(5),
        grads: z.view(5),
        m: z.out(5),
        v: z.out(5),
        compute: z.out(5),
        lr: 1e-3,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_scale: 1.0,
    };
    z.fits(good());
    z.refuses(AdamW { grads: z.view(4), ..good() }, "adamw: `grads` has 4 elements, expected 5");
    z.refuses(AdamW { m: z.out(4), ..good() }, "adamw: `m` has 4 elements, expected 5");
    z.refuses(AdamW { v: z.out(6), ..good() }, "adamw: `v` has 6 elements, expected 5");
    z.refuses(AdamW { compute: z.out(0), ..good() }, "adamw: `compute` has 0 elements, expected 5");
    z.refuses(AdamW { step: 0, ..good() }, "adamw: step is 0, but steps are counted from 1");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("adamw", adamw_refuses)]
}
