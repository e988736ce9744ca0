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
    ops::{AdamW, Clip, Op},
};

/// So many weights; the first step begins with moments of zero.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    len: usize,
    step: u32,
    norm: f32,
    max_norm: f32,
    loss: f32,
    /// From a step before.
    halted: u32,
}

impl Case {
    fn new(len: usize, step: u32) -> Self {
        Case { len, step, norm: 8.0, max_norm: 1.0, loss: 3.0, halted: 0 }
    }

    fn halts(&self) -> bool {
        self.halted != 0 || !self.norm.is_finite() || !self.loss.is_finite()
    }
}

const LR: f32 = 3e-3;
const BETAS: [f32; 2] = [0.9, 0.999];
const EPS: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.1;
const LOSS_SCALE: f32 = 2.0;

pub struct Step<B: Backend, T: Float> {
    case: Case,
    weights: Tensor<B, f32>,
    grads: Tensor<B, f32>,
    m: Tensor<B, f32>,
    v: Tensor<B, f32>,
    compute: Tensor<B, T>,
    norm: Tensor<B, f32>,
    loss: Tensor<B, f32>,
    halted: Tensor<B, u32>,
}

impl<B: Backend, T: Float> Setup<B> for Step<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("adamw {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let (shape, deviation) = ([1, case.len], if case.step == 1 { 0.0 } else { 0.1 });
        let weights = make.normal(shape, Layout::Packed, 0.1);
        let grads = make.normal(shape, Layout::Packed, 3.0);
        let m = make.normal(shape, Layout::Packed, deviation);
        // Squares are positive.
        let v = make.random.uniform(case.len).into_iter().map(|u| if case.step == 1 { 0.0 } else { u });
        let v = make.flat(Layout::Packed, v.collect());
        let number = |value| make.flat(Layout::Packed, vec![value]);
        let (norm, loss) = (number(case.norm), number(case.loss));
        let halted = make.flat(Layout::Packed, vec![case.halted]);
        Step { case: *case, weights, grads, m, v, compute: make.output(shape, Layout::Odd), norm, loss, halted }
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
            clip: Clip {
                norm: self.norm.view(),
                loss: self.loss.view(),
                max_norm: self.case.max_norm,
                loss_scale: LOSS_SCALE,
                halted: self.halted.view_mut(),
            },
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.weights, &mut self.m, &mut self.v, &mut self.compute, &mut self.halted]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        assert_eq!(self.halted.now(), [u32::from(self.case.halts())], "{}", close.name);
        if self.case.halts() {
            return self.expect_unchanged(close.name);
        }
        let scale = Num::from(LOSS_SCALE);
        let clip = Num::from(self.case.max_norm) / (Num::from(self.case.norm) / scale + Num::from(1e-6_f32));
        let clip = if self.case.max_norm > 0.0 && clip.v < 1.0 { clip } else { Num::from(1.0_f32) };
        let oracle = AdamWStep {
            lr: f64::from(LR),
            betas: BETAS.map(f64::from),
            eps: f64::from(EPS),
            weight_decay: f64::from(WEIGHT_DECAY),
            step: self.case.step as i32,
        };
        let state = [&self.weights, &self.m, &self.v];
        let want = |i: usize| {
            let g = Num::from(self.grads.at(0, i)) * (clip / scale);
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

impl<B: Backend, T: Float> Step<B, T> {
    fn expect_unchanged(&self, name: &str) {
        for x in [&self.weights, &self.m, &self.v] {
            assert!(x.now().iter().zip(x.values()).all(|(now, before)| now == before), "{name}");
        }
        let bytes = |values: &[T]| bytemuck::cast_slice::<T, u8>(values).to_vec();
        assert!(bytes(self.compute.now()) == bytes(self.compute.values()), "{name}");
    }
}

fn adamw<B: Backend>(backend: &B) {
    for len in [0, 1, 7, 64, 1000, 65_537] {
        for step in [1, 2, 1000] {
            check_each!(Step, backend, &Case::new(len, step));
        }
        let case = Case::new(len, 2);
        for (norm, max_norm) in [(8.0, 0.0), (1.5, 1.0), (0.0, 1.0), (3e38, 0.3)] {
            check_each!(Step, backend, &Case { norm, max_norm, ..case });
        }
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for (norm, loss, halted) in [(nan, 3.0, 0), (inf, 3.0, 0), (8.0, nan, 0), (8.0, inf, 0), (8.0, 3.0, 1)] {
            check_each!(Step, backend, &Case { norm, loss, halted, ..case });
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
    vec![Work::new::<Step<B, bf16>>("adamw", n.to_string(), [30 * n, 15 * n], Case::new(n, 10))]
}

fn adamw_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let clip = || Clip { norm: z.view(1), loss: z.view(1), max_norm: 1.0, loss_scale: 1.0, halted: z.out(1) };
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
        clip: clip(),
    };
    z.fits(good());
    z.refuses(AdamW { grads: z.view(4), ..good() }, "adamw: `grads` has 4 elements, expected 5");
    z.refuses(AdamW { m: z.out(4), ..good() }, "adamw: `m` has 4 elements, expected 5");
    z.refuses(AdamW { v: z.out(6), ..good() }, "adamw: `v` has 6 elements, expected 5");
    z.refuses(AdamW { compute: z.out(0), ..good() }, "adamw: `compute` has 0 elements, expected 5");
    let norm = AdamW { clip: Clip { norm: z.view(2), ..clip() }, ..good() };
    z.refuses(norm, "adamw: `norm` has 2 elements, expected 1");
    let loss = AdamW { clip: Clip { loss: z.view(0), ..clip() }, ..good() };
    z.refuses(loss, "adamw: `loss` has 0 elements, expected 1");
    let halted = AdamW { clip: Clip { halted: z.out(3), ..clip() }, ..good() };
    z.refuses(halted, "adamw: `halted` has 3 elements, expected 1");
    z.refuses(AdamW { step: 0, ..good() }, "adamw: step is 0, but steps are counted from 1");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("adamw", adamw_refuses)]
}
