use crate::common::{
    cases::{self, Rows},
    close::Close,
    make::Make,
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
    ops::{Op, Swiglu, SwigluGrad},
};

/// Of `n` rows, `d` each: normal numbers, and in the suite some where the exponential overflows or vanishes.
pub fn gates<B: Backend, T: Float>(make: &Make<B>, [n, d]: [usize; 2], layout: Layout) -> Tensor<B, T> {
    make.normal_but([n, 2 * d], layout, 2.0, |values| {
        let extremes = [100.0, -100.0, 0.0, 20.0, -20.0, -88.0, 1e-4];
        values.iter_mut().step_by(11).zip(extremes.into_iter().cycle()).for_each(|(v, e)| *v = e);
    })
}

pub struct Forward<B: Backend, T: Float> {
    case: Rows,
    gate_up: Tensor<B, T>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Forward<B, T> {
    type Case = Rows;

    fn name(case: &Rows) -> String {
        format!("swiglu {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Rows) -> Self {
        Forward {
            case: *case,
            gate_up: gates(make, [case.n, case.d], case.layout),
            out: make.output([case.n, case.d], case.layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        Swiglu { gate_up: self.gate_up.mat(), out: self.out.mat_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (x, f) = (&self.gate_up, self.case.d);
        close.all("out", self.out.now(), f, |i, j| oracle::swiglu(x.at(i, j), x.at(i, f + j)));
    }
}

pub struct Gradient<B: Backend, T: Float> {
    case: Rows,
    gate_up: Tensor<B, T>,
    d_out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = Rows;

    fn name(case: &Rows) -> String {
        format!("swiglu_grad {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Rows) -> Self {
        let Rows { n, d: f, layout, .. } = *case;
        Gradient {
            case: *case,
            gate_up: gates(make, [case.n, case.d], case.layout),
            d_out: make.normal([n, f], layout, 1.0),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        SwigluGrad { gate_up: self.gate_up.mat_mut(), d_out: self.d_out.mat() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.gate_up]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (x, f) = (&self.gate_up, self.case.d);
        close.all("gate_up", self.gate_up.now(), 2 * f, |i, j| {
            let column = j % f;
            oracle::swiglu_grad(x.at(i, column), x.at(i, f + column), self.d_out.at(i, column))[j / f]
        });
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let (d_out, f) = (self.d_out.to_f64(), self.case.d);
        let loss = move |x: &[f64]| {
            let outs = x.chunks(2 * f).flat_map(|row| (0..f).map(|j| oracle::swiglu(row[j], row[f + j]).v));
            oracle::weighted(&d_out, outs)
        };
        let (got, at) = (self.gate_up.floats(), self.gate_up.to_f64());
        vec![Difference { part: "gate_up", got, at, loss: Box::new(loss) }]
    }
}

fn swiglu<B: Backend>(backend: &B) {
    cases::rows().iter().for_each(|case| check_each!(Forward, backend, case));
    property(24, cases::any_rows(), |case| check_each!(Forward, backend, &case));
}

fn swiglu_grad<B: Backend>(backend: &B) {
    cases::rows().iter().for_each(|case| check_each!(Gradient, backend, case));
    property(24, cases::any_rows(), |case| check_each!(Gradient, backend, &case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("swiglu", swiglu), ("swiglu_grad", swiglu_grad)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("swiglu_grad", |backend| differentiate::<B, Gradient<B, f32>>(backend, &Rows::new(3, 9)))]
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let mut works = Vec::new();
    for n in [1, model.step_tokens()] {
        let (case, len) = (Rows::new(n, model.intermediate), n * model.intermediate);
        works.push(Work::new::<Forward<B, bf16>>("swiglu", case.shape(), [6 * len, 5 * len], case));
        works.push(Work::new::<Gradient<B, bf16>>("swiglu_grad", case.shape(), [10 * len, 10 * len], case));
    }
    works
}

fn swiglu_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let op = Swiglu::<B, f32> { gate_up: z.mat(3, 9), out: z.mat_mut(3, 5) };
    z.refuses(op, "swiglu: `gate_up` is [3, 9], expected [3, 10]");
    let good = || SwigluGrad::<B, f32> { gate_up: z.mat_mut(3, 10), d_out: z.mat(3, 5) };
    z.fits(good());
    let message = "swiglu_grad: `gate_up` is [2, 10], expected [3, 10]";
    z.refuses(SwigluGrad { gate_up: z.mat_mut(2, 10), ..good() }, message);
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("swiglu", swiglu_refuses)]
}
