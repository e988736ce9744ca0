use crate::common::{
    cases::{self, Product, TINY_PRODUCT},
    close::Close,
    make::Make,
    num::Num,
    oracle,
    random::property,
    setup::{Check, Difference, Setup, differentiate},
    tensor::{Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{Op, WeightGrad},
};

pub struct Gradient<B: Backend, T: Float> {
    case: Product,
    x: Tensor<B, T>,
    d_out: Tensor<B, T>,
    d_weight: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = Product;

    fn name(case: &Product) -> String {
        format!("weight_grad {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Product) -> Self {
        let Product { n, outputs, inputs, layout, .. } = *case;
        Gradient {
            case: *case,
            x: make.normal([n, inputs], layout, 1.0),
            d_out: make.normal([n, outputs], layout, 1.0),
            d_weight: make.sum([1, outputs * inputs], layout, true),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        WeightGrad { x: self.x.mat(), d_out: self.d_out.mat(), d_weight: self.d_weight.view_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.d_weight]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Product { outputs, inputs, .. } = self.case;
        let (x, d_out) = (self.x.to_f64(), self.d_out.to_f64());
        close.all("d_weight", self.d_weight.now(), inputs, |i, j| {
            let sum = oracle::column_by_column(&d_out, &x, [outputs, inputs], i, j);
            Num::from(self.d_weight.at(0, i * inputs + j)) + sum
        });
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let (x, d_out, inputs) = (self.x.to_f64(), self.d_out.to_f64(), self.case.inputs);
        let loss = move |weight: &[f64]| oracle::weighted(&d_out, oracle::product(&x, weight, inputs));
        // The loss is linear in the weight: any point does.
        let at = vec![0.0; self.case.outputs * inputs];
        vec![Difference { part: "weight", got: self.d_weight.gained(), at, loss: Box::new(loss) }]
    }
}

fn weight_grad<B: Backend>(backend: &B) {
    cases::products().iter().for_each(|case| check_each!(Gradient, backend, case));
    property(24, cases::any_product(), |case| check_each!(Gradient, backend, &case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("weight_grad", weight_grad)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("weight_grad", |backend| differentiate::<B, Gradient<B, f32>>(backend, &TINY_PRODUCT))]
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let (n, [_, [outputs, inputs], ..]) = (model.step_tokens(), model.projections());
    let case = Product::new(n, outputs, inputs);
    let cost = [8 * outputs * inputs + 2 * n * (inputs + outputs), case.flops()];
    vec![Work::new::<Gradient<B, bf16>>("weight_grad", case.shape(), cost, case)]
}

fn weight_grad_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || WeightGrad::<B, f32> { x: z.mat(4, 8), d_out: z.mat(4, 6), d_weight: z.out(48) };
    z.fits(good());
    z.refuses(WeightGrad { x: z.mat(5, 8), ..good() }, "weight_grad: `x` is [5, 8], expected [4, 8]");
    z.refuses(WeightGrad { d_weight: z.out(40), ..good() }, "weight_grad: `d_weight` has 40 elements, expected 48");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("weight_grad", weight_grad_refuses)]
}
