use crate::common::{
    cases::{self, Rows},
    close::Close,
    make::Make,
    num::Num,
    setup::{Check, Setup},
    tensor::{Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{Noise, Op},
    rng::{philox, uniform},
};

const BOUND: f32 = 0.7;
const SEED: u64 = 0x0123_4567_89ab_cdef;
const STREAM: u64 = 0xfedc_ba98_7654_3210;

pub struct Added<B: Backend, T: Float> {
    case: Rows,
    x: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Added<B, T> {
    type Case = Rows;

    fn name(case: &Rows) -> String {
        format!("noise {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Rows) -> Self {
        Added { case: *case, x: make.normal([case.n, case.d], case.layout, 1.0) }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        Noise { x: self.x.mat_mut(), bound: BOUND, seed: SEED, stream: STREAM }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.x]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let x = &self.x;
        close.all("x", x.now(), self.case.d, |i, j| {
            let counter = [j as u32 / 4, i as u32, STREAM as u32, (STREAM >> 32) as u32];
            let u = uniform(philox(counter, SEED)[j % 4]);
            Num::from(x.at(i, j)) + Num::from(BOUND) * (Num::from(2.0 * u) - Num::from(1.0))
        });
    }
}

fn noise<B: Backend>(backend: &B) {
    cases::rows().iter().for_each(|case| check_each!(Added, backend, case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("noise", noise)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let case = Rows::new(model.step_tokens(), model.hidden);
    let len = case.n * case.d;
    // Ten rounds of about ten operations for four numbers.
    vec![Work::new::<Added<B, bf16>>("noise", case.shape(), [4 * len, 25 * len], case)]
}

fn noise_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Noise::<B, f32> { x: z.mat_mut(3, 4), bound: 1.0, seed: 0, stream: 0 };
    z.fits(good());
    let message = "noise: the bound is -1, but it must be finite and not negative";
    z.refuses(Noise { bound: -1.0, ..good() }, message);
    z.refuses(Noise { bound: f32::NAN, ..good() }, &message.replace("-1", "NaN"));
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("noise", noise_refuses)]
}
