use crate::common::{
    cases::{self, Product, TINY_PRODUCT},
    close::Close,
    exactness::Exactness,
    make::Make,
    num::Num,
    oracle,
    random::property,
    setup::{Check, Difference, Setup, check_some, differentiate},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float, Result,
    ops::{Linear, LinearGrad, Op},
};

/// `product`, or the sum of it and what was there: by contract the product may be rounded on the way.
pub fn stored<B: Backend, O: Float>(case: &Product, out: &Tensor<B, O>, [i, j]: [usize; 2], product: Num) -> Num {
    if case.accumulate { Num::from(out.at(i, j)) + product.rounded::<O>() } else { product }
}

pub struct Forward<B: Backend, T: Float, O: Float> {
    case: Product,
    x: Tensor<B, T>,
    weight: Tensor<B, T>,
    out: Tensor<B, O>,
}

impl<B: Backend, T: Float, O: Float> Setup<B> for Forward<B, T, O> {
    type Case = Product;

    fn name(case: &Product) -> String {
        format!("linear {} {} {case:?}", T::DTYPE.suffix(), O::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Product) -> Self {
        let Product { n, outputs, inputs, layout, accumulate } = *case;
        Forward {
            case: *case,
            x: make.normal([n, inputs], layout, 1.0),
            weight: make.normal([outputs, inputs], layout, 0.05),
            out: make.sum([n, outputs], layout, accumulate),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let (x, weight, Product { n, accumulate, .. }) = (self.x.mat(), self.weight.mat(), self.case);
        Linear { x, weight, out: self.out.mat_mut(), accumulate, settled: n % 2 == 1 }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Product { outputs, inputs, .. } = self.case;
        let (x, weight) = (self.x.to_f64(), self.weight.to_f64());
        let exactness = Exactness::of::<B, T>(close.backend, self.case.n, false);
        close.some("out", self.out.now(), outputs, |i, j| {
            let product = exactness.dot::<T>(oracle::rows(&x, &weight, inputs, i, j));
            stored(&self.case, &self.out, [i, j], product)
        });
    }
}

pub struct Gradient<B: Backend, T: Float> {
    case: Product,
    d_out: Tensor<B, T>,
    weight: Tensor<B, T>,
    d_x: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = Product;

    fn name(case: &Product) -> String {
        format!("linear_grad {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Product) -> Self {
        let Product { n, outputs, inputs, layout, accumulate } = *case;
        Gradient {
            case: *case,
            d_out: make.normal([n, outputs], layout, 1.0),
            weight: make.normal([outputs, inputs], layout, 0.05),
            d_x: make.sum([n, inputs], layout, accumulate),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let (d_out, weight, accumulate) = (self.d_out.mat(), self.weight.mat(), self.case.accumulate);
        LinearGrad { d_out, weight, d_x: self.d_x.mat_mut(), accumulate }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.d_x]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Product { outputs, inputs, .. } = self.case;
        let (d_out, weight) = (self.d_out.to_f64(), self.weight.to_f64());
        let exactness = Exactness::of::<B, T>(close.backend, self.case.n, true);
        close.some("d_x", self.d_x.now(), inputs, |i, k| {
            let product = exactness.dot::<T>(oracle::row_and_column(&d_out, &weight, outputs, inputs, i, k));
            stored(&self.case, &self.d_x, [i, k], product)
        });
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let (d_out, weight, inputs) = (self.d_out.to_f64(), self.weight.to_f64(), self.case.inputs);
        let loss = move |x: &[f64]| oracle::weighted(&d_out, oracle::product(x, &weight, inputs));
        // The loss is linear in x: any point does.
        let at = vec![0.0; self.case.n * inputs];
        vec![Difference { part: "x", got: self.d_x.floats(), at, loss: Box::new(loss) }]
    }
}

type Same<B, T> = Forward<B, T, T>;

/// Outputs of the compute type, and f32.
fn forwards<B: Backend>(backend: &B, case: &Product, most: usize) {
    check_each!(Same, backend, case, most);
    check_some::<B, Forward<B, bf16, f32>>(backend, case, most);
    check_some::<B, Forward<B, f16, f32>>(backend, case, most);
}

fn linear<B: Backend>(backend: &B) {
    cases::products().iter().for_each(|case| forwards(backend, case, 4000));
    property(24, cases::any_product(), |case| forwards(backend, &case, 2000));
}

fn linear_grad<B: Backend>(backend: &B) {
    cases::products().iter().for_each(|case| check_each!(Gradient, backend, case));
    property(24, cases::any_product(), |case| check_each!(Gradient, backend, &case, 2000));
}

fn linear_large<B: Backend>(backend: &B) {
    for case in cases::large_products(backend.name().starts_with("cpu")) {
        check_some::<B, Forward<B, bf16, bf16>>(backend, &case, 2000);
        check_some::<B, Gradient<B, bf16>>(backend, &case, 2000);
        // 4097 outputs: rows of the output begin anywhere.
        let odd = Product { outputs: 4097, layout: Layout::Odd, accumulate: true, ..case };
        check_some::<B, Forward<B, f16, f32>>(backend, &odd, 2000);
    }
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("linear", linear), ("linear_grad", linear_grad), ("linear_large", linear_large)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("linear_grad", |backend| differentiate::<B, Gradient<B, f32>>(backend, &TINY_PRODUCT))]
}

/// f32 outputs, as logits have.
fn forward_work<B: Backend>(n: usize, [outputs, inputs]: [usize; 2]) -> Work<B> {
    let case = Product::new(n, outputs, inputs);
    let bytes = 2 * outputs * inputs + 2 * n * inputs + 4 * n * outputs;
    Work::new::<Forward<B, bf16, f32>>("linear", case.shape(), [bytes, case.flops()], case)
}

fn gradient_work<B: Backend>(n: usize, [outputs, inputs]: [usize; 2]) -> Work<B> {
    let case = Product::new(n, outputs, inputs);
    let bytes = 2 * outputs * inputs + 2 * n * (inputs + outputs);
    Work::new::<Gradient<B, bf16>>("linear_grad", case.shape(), [bytes, case.flops()], case)
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let (step, head, [_, o, ..]) = (model.step_tokens(), [model.vocab, model.hidden], model.projections());
    let mut works: Vec<Work<B>> = [1, 8, model.logit_rows].map(|n| forward_work(n, head)).into();
    works.extend([1, step].map(|n| forward_work(n, o)));
    works.extend([gradient_work(model.logit_rows, head), gradient_work(step, o)]);
    works
}

fn linear_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || {
        let (x, weight, out) = (z.mat(4, 8), z.mat(6, 8), z.mat_mut(4, 6));
        Linear::<B, f32> { x, weight, out, accumulate: false, settled: false }
    };
    z.fits(good());
    z.refuses(Linear { x: z.mat(3, 8), ..good() }, "linear: `x` is [3, 8], expected [4, 8]");
    z.refuses(Linear { weight: z.mat(6, 7), ..good() }, "linear: `weight` is [6, 7], expected [6, 8]");
    z.refuses(Linear { out: z.mat_mut(4, 7), ..good() }, "linear: `weight` is [6, 8], expected [7, 8]");
    let (x, weight, out) = (z.mat(1, 1), z.mat(1, 1), z.mat_mut(1, 1));
    let op = Linear::<B, f32, half::f16> { x, weight, out, accumulate: false, settled: false };
    z.refuses(op, "linear: the output type is f16, but it must be the input type or f32");

    let good =
        || LinearGrad::<B, f32> { d_out: z.mat(4, 6), weight: z.mat(6, 8), d_x: z.mat_mut(4, 8), accumulate: false };
    z.fits(good());
    z.refuses(LinearGrad { d_out: z.mat(5, 6), ..good() }, "linear_grad: `d_x` is [4, 8], expected [5, 8]");
    z.refuses(LinearGrad { weight: z.mat(0, 8), ..good() }, "linear_grad: `weight` is [0, 8], expected [6, 8]");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("linear", linear_refuses)]
}
