use crate::common::{
    close::Close,
    make::Make,
    num::Num,
    oracle,
    setup::{Check, Setup},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Element, Float, Result,
    ops::{AdamW, AdamW8bit, AdamWStep, Clip, Moment8, Op},
    quant::{BLOCK8, DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP, n_blocks},
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

    fn step(&self) -> AdamWStep {
        AdamWStep { lr: 3e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1, count: self.step }
    }

    /// What gradients are multiplied by.
    fn grad_scale(&self) -> Num {
        let scale = Num::from(LOSS_SCALE);
        let clip = Num::from(self.max_norm) / (Num::from(self.norm) / scale + Num::from(1e-6_f32));
        let clip = if self.max_norm > 0.0 && clip.v < 1.0 { clip } else { Num::from(1.0_f32) };
        clip / scale
    }
}

const LOSS_SCALE: f32 = 2.0;

/// What a step does to gradients before.
struct Clipping<B: Backend> {
    norm: Tensor<B, f32>,
    loss: Tensor<B, f32>,
    halted: Tensor<B, u32>,
}

impl<B: Backend> Clipping<B> {
    fn new(make: &Make<B>, case: &Case) -> Self {
        let number = |value| make.flat(Layout::Packed, vec![value]);
        let halted = make.flat(Layout::Packed, vec![case.halted]);
        Clipping { norm: number(case.norm), loss: number(case.loss), halted }
    }

    fn op(&mut self, max_norm: f32) -> Clip<'_, B> {
        let (norm, loss, halted) = (self.norm.view(), self.loss.view(), self.halted.view_mut());
        Clip { norm, loss, max_norm, loss_scale: LOSS_SCALE, halted }
    }
}

pub struct Step<B: Backend, T: Float> {
    case: Case,
    weights: Tensor<B, f32>,
    grads: Tensor<B, f32>,
    m: Tensor<B, f32>,
    v: Tensor<B, f32>,
    compute: Tensor<B, T>,
    clip: Clipping<B>,
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
        let (compute, clip) = (make.output(shape, Layout::Odd), Clipping::new(make, case));
        Step { case: *case, weights, grads, m, v, compute, clip }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let op = AdamW {
            weights: self.weights.view_mut(),
            grads: self.grads.view(),
            m: self.m.view_mut(),
            v: self.v.view_mut(),
            compute: self.compute.view_mut(),
            step: self.case.step(),
            clip: self.clip.op(self.case.max_norm),
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.weights, &mut self.m, &mut self.v, &mut self.compute, &mut self.clip.halted]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        assert_eq!(self.clip.halted.now(), [u32::from(self.case.halts())], "{}", close.name);
        if self.case.halts() {
            [&self.weights, &self.m, &self.v].into_iter().for_each(|x| expect_unchanged(close.name, x));
            return expect_unchanged(close.name, &self.compute);
        }
        let (scale, state) = (self.case.grad_scale(), [&self.weights, &self.m, &self.v]);
        let want = |i: usize| {
            let g = Num::from(self.grads.at(0, i)) * scale;
            oracle::adamw(&self.case.step(), state.map(|x| Num::from(x.at(0, i))), g)
        };
        let want: Vec<[Num; 3]> = (0..self.case.len).map(want).collect();
        for (part, (name, x)) in ["weights", "m", "v"].into_iter().zip(state).enumerate() {
            close.all(name, x.now(), self.case.len, |_, i| want[i][part]);
        }
        expect_rounded(close.name, self.weights.now(), self.compute.now());
    }
}

fn expect_unchanged<B: Backend, T: Element>(name: &str, x: &Tensor<B, T>) {
    let bytes = |values: &[T]| bytemuck::cast_slice::<T, u8>(values).to_vec();
    assert!(bytes(x.now()) == bytes(x.values()), "{name}");
}

fn expect_rounded<T: Float>(name: &str, weights: &[f32], compute: &[T]) {
    for (i, (compute, w)) in compute.iter().zip(weights).enumerate() {
        assert!(*compute == T::from_f32(*w), "{name}: compute[{i}] is {compute:?} for the weight {w}");
    }
}

/// A moment in 8 bits.
struct Moment<B: Backend> {
    map: &'static [f32; 256],
    codes: Tensor<B, u8>,
    absmax: Tensor<B, f32>,
}

impl<B: Backend> Moment<B> {
    fn new(make: &Make<B>, case: &Case, map: &'static [f32; 256]) -> Self {
        let blocks = n_blocks(case.len, BLOCK8);
        // Where codes can be moved eight at a time, and where they cannot.
        let layout = if case.len.is_multiple_of(2) { Layout::Packed } else { Layout::Odd };
        if case.step == 1 {
            let (codes, absmax) = (vec![0; case.len], vec![0.0; blocks]);
            return Moment { map, codes: make.flat(layout, codes), absmax: make.flat(layout, absmax) };
        }
        let absmax = make.random.uniform(blocks).into_iter().map(|u| 0.1 + u).collect();
        Moment { map, codes: make.bytes(case.len, layout), absmax: make.flat(layout, absmax) }
    }

    fn op(&mut self) -> Moment8<'_, B> {
        Moment8 { codes: self.codes.view_mut(), absmax: self.absmax.view_mut() }
    }

    /// Number `i` as it was before.
    fn before(&self, i: usize) -> Num {
        let code = usize::from(self.codes.values()[i]);
        Num::from(self.map[code]) * Num::from(self.absmax.values()[i / BLOCK8])
    }

    fn compare(&self, close: &Close<'_, B>, part: &str, want: &[Num]) {
        let largest = |block: &[Num]| {
            let most = |of: fn(&Num) -> f64| block.iter().map(of).fold(0.0, f64::max);
            Num { v: most(|x| x.v.abs()), err: most(|x| x.err) }
        };
        let blocks: Vec<Num> = want.chunks(BLOCK8).map(largest).collect();
        close.all(&format!("absmax of {part}"), self.absmax.now(), blocks.len(), |_, i| blocks[i]);
        for (i, (&code, want)) in self.codes.now().iter().zip(want).enumerate() {
            let absmax = f64::from(self.absmax.now()[i / BLOCK8]);
            if absmax == 0.0 {
                assert_eq!(code, 0, "{}: code {i} of {part}", close.name);
                continue;
            }
            let distance = |code: usize| (want.v / absmax - f64::from(self.map[code])).abs();
            let nearest = (0..256).map(distance).fold(f64::INFINITY, f64::min);
            // Whatever lies between two points of the grid may go to either of them: the share is wrong by half a step, and
            // by what rounding did to it, and so are both distances.
            let wrong = 1.0 / 65535.0 + want.err / absmax + 4.0 * f64::from(f32::EPSILON);
            let got = distance(usize::from(code));
            assert!(got <= nearest + 2.0 * wrong, "{}: {part}[{i}] has code {code} at {got}", close.name);
        }
    }
}

pub struct Step8<B: Backend, T: Float> {
    case: Case,
    weights: Tensor<B, f32>,
    grads: Tensor<B, f32>,
    m: Moment<B>,
    v: Moment<B>,
    compute: Tensor<B, T>,
    clip: Clipping<B>,
}

impl<B: Backend, T: Float> Setup<B> for Step8<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("adamw8bit {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let shape = [1, case.len];
        let grads = make.normal_but(shape, Layout::Packed, 3.0, |values| {
            // Of moments and gradients of zeros come zeros.
            let first = if case.step == 1 { BLOCK8 } else { 0 };
            values.iter_mut().take(first).for_each(|value| *value = 0.0);
        });
        let weights = make.normal(shape, Layout::Packed, 0.1);
        let (m, v) = (Moment::new(make, case, &DYNAMIC_MAP), Moment::new(make, case, &UNSIGNED_DYNAMIC_MAP));
        let (compute, clip) = (make.output(shape, Layout::Odd), Clipping::new(make, case));
        Step8 { case: *case, weights, grads, m, v, compute, clip }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let op = AdamW8bit {
            weights: self.weights.view_mut(),
            grads: self.grads.view(),
            m: self.m.op(),
            v: self.v.op(),
            compute: self.compute.view_mut(),
            step: self.case.step(),
            clip: self.clip.op(self.case.max_norm),
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        let Step8 { weights, m, v, compute, clip, .. } = self;
        vec![weights, &mut m.codes, &mut m.absmax, &mut v.codes, &mut v.absmax, compute, &mut clip.halted]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        assert_eq!(self.clip.halted.now(), [u32::from(self.case.halts())], "{}", close.name);
        if self.case.halts() {
            let floats = [&self.weights, &self.m.absmax, &self.v.absmax];
            floats.into_iter().for_each(|x| expect_unchanged(close.name, x));
            [&self.m.codes, &self.v.codes].into_iter().for_each(|x| expect_unchanged(close.name, x));
            return expect_unchanged(close.name, &self.compute);
        }
        let scale = self.case.grad_scale();
        let want = |i: usize| {
            let state = [Num::from(self.weights.at(0, i)), self.m.before(i), self.v.before(i)];
            oracle::adamw(&self.case.step(), state, Num::from(self.grads.at(0, i)) * scale)
        };
        let want: Vec<[Num; 3]> = (0..self.case.len).map(want).collect();
        let of = |part: usize| want.iter().map(|want| want[part]).collect::<Vec<_>>();
        close.all("weights", self.weights.now(), self.case.len, |_, i| want[i][0]);
        self.m.compare(close, "m", &of(1));
        self.v.compare(close, "v", &of(2));
        expect_rounded(close.name, self.weights.now(), self.compute.now());
    }
}

fn cases() -> Vec<Case> {
    let of_len = |len| {
        let case = Case::new(len, 2);
        let clipped = [(8.0, 0.0), (1.5, 1.0), (0.0, 1.0), (3e38, 0.3)];
        let clipped = clipped.map(|(norm, max_norm)| Case { norm, max_norm, ..case });
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let halted = [(nan, 3.0, 0), (inf, 3.0, 0), (8.0, nan, 0), (8.0, inf, 0), (8.0, 3.0, 1)];
        let halted = halted.map(|(norm, loss, halted)| Case { norm, loss, halted, ..case });
        [1, 2, 1000].map(|step| Case::new(len, step)).into_iter().chain(clipped).chain(halted)
    };
    [0, 1, 7, 64, 256, 1000, 65_537].into_iter().flat_map(of_len).collect()
}

fn adamw<B: Backend>(backend: &B) {
    for case in cases() {
        check_each!(Step, backend, &case);
    }
}

fn adamw8bit<B: Backend>(backend: &B) {
    for case in cases() {
        check_each!(Step8, backend, &case);
    }
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("adamw", adamw), ("adamw8bit", adamw8bit)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let n = model.adapter;
    let case = Case::new(n, 10);
    vec![
        Work::new::<Step<B, bf16>>("adamw", n.to_string(), [30 * n, 15 * n], case),
        Work::new::<Step8<B, bf16>>("adamw8bit", n.to_string(), [18 * n + n / 16, 15 * n], case),
    ]
}

fn clip<B: Backend>(z: &Zeros<'_, B>) -> Clip<'static, B> {
    Clip { norm: z.view(1), loss: z.view(1), max_norm: 1.0, loss_scale: 1.0, halted: z.out(1) }
}

fn adamw_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let step = Case::new(5, 1).step();
    let good = || AdamW::<B, f32> {
        weights: z.out(5),
        grads: z.view(5),
        m: z.out(5),
        v: z.out(5),
        compute: z.out(5),
        step,
        clip: clip(&z),
    };
    z.fits(good());
    z.refuses(AdamW { grads: z.view(4), ..good() }, "adamw: `grads` has 4 elements, expected 5");
    z.refuses(AdamW { m: z.out(4), ..good() }, "adamw: `m` has 4 elements, expected 5");
    z.refuses(AdamW { v: z.out(6), ..good() }, "adamw: `v` has 6 elements, expected 5");
    z.refuses(AdamW { compute: z.out(0), ..good() }, "adamw: `compute` has 0 elements, expected 5");
    let norm = AdamW { clip: Clip { norm: z.view(2), ..clip(&z) }, ..good() };
    z.refuses(norm, "adamw: `norm` has 2 elements, expected 1");
    let loss = AdamW { clip: Clip { loss: z.view(0), ..clip(&z) }, ..good() };
    z.refuses(loss, "adamw: `loss` has 0 elements, expected 1");
    let halted = AdamW { clip: Clip { halted: z.out(3), ..clip(&z) }, ..good() };
    z.refuses(halted, "adamw: `halted` has 3 elements, expected 1");
    let uncounted = AdamW { step: AdamWStep { count: 0, ..step }, ..good() };
    z.refuses(uncounted, "adamw: step is 0, but steps are counted from 1");
}

fn adamw8bit_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let step = Case::new(257, 1).step();
    let moment = |len, blocks| Moment8 { codes: z.out(len), absmax: z.out(blocks) };
    let good = || AdamW8bit::<B, f32> {
        weights: z.out(257),
        grads: z.view(257),
        m: moment(257, 2),
        v: moment(257, 2),
        compute: z.out(257),
        step,
        clip: clip(&z),
    };
    z.fits(good());
    z.refuses(AdamW8bit { grads: z.view(4), ..good() }, "adamw8bit: `grads` has 4 elements, expected 257");
    z.refuses(AdamW8bit { m: moment(256, 2), ..good() }, "adamw8bit: `m` has 256 elements, expected 257");
    z.refuses(AdamW8bit { m: moment(257, 1), ..good() }, "adamw8bit: `absmax of m` has 1 elements, expected 2");
    z.refuses(AdamW8bit { v: moment(0, 2), ..good() }, "adamw8bit: `v` has 0 elements, expected 257");
    z.refuses(AdamW8bit { v: moment(257, 257), ..good() }, "adamw8bit: `absmax of v` has 257 elements, expected 2");
    z.refuses(AdamW8bit { compute: z.out(9), ..good() }, "adamw8bit: `compute` has 9 elements, expected 257");
    let halted = AdamW8bit { clip: Clip { halted: z.out(3), ..clip(&z) }, ..good() };
    z.refuses(halted, "adamw8bit: `halted` has 3 elements, expected 1");
    let uncounted = AdamW8bit { step: AdamWStep { count: 0, ..step }, ..good() };
    z.refuses(uncounted, "adamw8bit: step is 0, but steps are counted from 1");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("adamw", adamw_refuses), ("adamw8bit", adamw8bit_refuses)]
}
