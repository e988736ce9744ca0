use crate::common::{
    cases::{self, Rows},
    close::Close,
    make::Make,
    num::Num,
    oracle,
    random::property,
    setup::{Check, Difference, Setup, differentiate},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{Op, RmsNorm, RmsNormGrad},
};

const EPS: f32 = 1e-6;

pub struct Forward<B: Backend, T: Float> {
    case: Rows,
    x: Tensor<B, T>,
    residual: Tensor<B, T>,
    weight: Tensor<B, f32>,
    sum: Tensor<B, T>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Forward<B, T> {
    type Case = Rows;

    fn name(case: &Rows) -> String {
        format!("rms_norm {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Rows) -> Self {
        let Rows { n, d, layout, .. } = *case;
        Forward {
            case: *case,
            x: make.normal([n, d], layout, 1.0),
            residual: make.normal([n, d], layout, 1.0),
            weight: make.normal([1, d], Layout::Packed, 1.0),
            sum: make.output([n, d], layout),
            out: make.output([n, d], layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let add = self.case.add.then(|| (self.residual.mat(), self.sum.mat_mut()));
        let (x, weight) = (self.x.mat(), self.weight.view());
        RmsNorm { x, add, weight, eps: EPS, out: self.out.mat_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.sum, &mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let mut h: Vec<T> = self.x.values().to_vec();
        if self.case.add {
            for (i, (h, r)) in h.iter_mut().zip(self.residual.values()).enumerate() {
                *h = T::from_f32(h.to_f32() + r.to_f32());
                let sum = self.sum.now()[i];
                assert!(sum == *h, "{}: the sum at {i} is {sum:?}, expected {h:?}", close.name);
            }
        }
        let (d, weight) = (self.case.d, self.weight.to_f64());
        let h: Vec<f64> = h.iter().map(|v| f64::from(v.to_f32())).collect();
        let want: Vec<Num> = h.chunks(d).flat_map(|h| oracle::rms_norm(h, &weight, EPS)).collect();
        close.all("out", self.out.now(), d, |i, j| want[i * d + j]);
    }
}

pub struct Gradient<B: Backend, T: Float> {
    case: Rows,
    x: Tensor<B, T>,
    d_out: Tensor<B, T>,
    weight: Tensor<B, f32>,
    d_x: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = Rows;

    fn name(case: &Rows) -> String {
        format!("rms_norm_grad {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Rows) -> Self {
        let Rows { n, d, layout, add } = *case;
        Gradient {
            case: *case,
            x: make.normal([n, d], layout, 1.0),
            d_out: make.normal([n, d], layout, 1.0),
            weight: make.normal([1, d], Layout::Packed, 1.0),
            d_x: make.sum([n, d], layout, add),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let (x, weight, d_out) = (self.x.mat(), self.weight.view(), self.d_out.mat());
        let (d_x, accumulate) = (self.d_x.mat_mut(), self.case.add);
        RmsNormGrad { x, weight, eps: EPS, d_out, d_x, accumulate }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.d_x]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (d, add) = (self.case.d, self.case.add);
        let (x, d_out, weight) = (self.x.to_f64(), self.d_out.to_f64(), self.weight.to_f64());
        let rows = x.chunks(d).zip(d_out.chunks(d));
        let want: Vec<Num> = rows
            .flat_map(|(x, d_out)| {
                let d_out: Vec<Num> = d_out.iter().map(|&v| v.into()).collect();
                oracle::rms_norm_grad(x, &weight, EPS, &d_out)
            })
            .collect();
        close.all("d_x", self.d_x.now(), d, |i, j| {
            let before = if add { self.d_x.at(i, j).into() } else { Num::ZERO };
            before + want[i * d + j]
        });
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let (weight, d_out) = (self.weight.to_f64(), self.d_out.to_f64());
        let loss = move |x: &[f64]| {
            let rows = x.chunks(self.case.d).flat_map(|h| oracle::rms_norm(h, &weight, EPS));
            oracle::weighted(&d_out, rows.map(|v| v.v))
        };
        vec![Difference { part: "x", got: self.d_x.floats(), at: self.x.to_f64(), loss: Box::new(loss) }]
    }
}

fn rms_norm<B: Backend>(backend: &B) {
    cases::rows().iter().for_each(|case| check_each!(Forward, backend, case));
    property(24, cases::any_rows(), |case| check_each!(Forward, backend, &case));
}

fn rms_norm_grad<B: Backend>(backend: &B) {
    cases::rows().iter().for_each(|case| check_each!(Gradient, backend, case));
    property(24, cases::any_rows(), |case| check_each!(Gradient, backend, &case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("rms_norm", rms_norm), ("rms_norm_grad", rms_norm_grad)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("rms_norm_grad", |backend| differentiate::<B, Gradient<B, f32>>(backend, &Rows::new(3, 13)))]
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let mut works = Vec::new();
    for n in [1, model.step_tokens()] {
        let case = Rows { add: true, ..Rows::new(n, model.hidden) };
        let len = n * model.hidden;
        works.push(Work::new::<Forward<B, bf16>>("rms_norm", case.shape(), [8 * len, 5 * len], case));
        works.push(Work::new::<Gradient<B, bf16>>("rms_norm_grad", case.shape(), [8 * len, 10 * len], case));
    }
    works
}

fn rms_norm_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || RmsNorm::<B, f32> { x: z.mat(3, 8), add: None, weight: z.view(8), eps: 1e-6, out: z.mat_mut(3, 8) };
    z.fits(good());
    z.refuses(RmsNorm { weight: z.view(7), ..good() }, "rms_norm: `weight` has 7 elements, expected 8");
    z.refuses(RmsNorm { out: z.mat_mut(2, 8), ..good() }, "rms_norm: `out` is [2, 8], expected [3, 8]");
    let add = Some((z.mat(3, 9), z.mat_mut(3, 8)));
    z.refuses(RmsNorm { add, ..good() }, "rms_norm: `add.0` is [3, 9], expected [3, 8]");
    let add = Some((z.mat(3, 8), z.mat_mut(4, 8)));
    z.refuses(RmsNorm { add, ..good() }, "rms_norm: `add.1` is [4, 8], expected [3, 8]");
    let empty = RmsNorm { x: z.mat(3, 0), weight: z.view(0), out: z.mat_mut(3, 0), ..good() };
    z.refuses(empty, "rms_norm: the row length is 0, but a norm needs at least one element");

    let good = || RmsNormGrad::<B, f32> {
        x: z.mat(3, 8),
        weight: z.view(8),
        eps: 1e-6,
        d_out: z.mat(3, 8),
        d_x: z.mat_mut(3, 8),
        accumulate: false,
    };
    z.fits(good());
    z.refuses(RmsNormGrad { weight: z.view(9), ..good() }, "rms_norm_grad: `weight` has 9 elements, expected 8");
    z.refuses(RmsNormGrad { d_out: z.mat(3, 7), ..good() }, "rms_norm_grad: `d_out` is [3, 7], expected [3, 8]");
    z.refuses(RmsNormGrad { d_x: z.mat_mut(2, 8), ..good() }, "rms_norm_grad: `d_x` is [2, 8], expected [3, 8]");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("rms_norm", rms_norm_refuses)]
}
