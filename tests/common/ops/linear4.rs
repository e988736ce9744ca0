use super::linear::{self, stored};
use crate::common::{
    cases::{self, FORMATS, Product, Quantization},
    close::{Close, compare_some},
    exactness::Exactness,
    make::{Make, Purpose},
    num::Num,
    oracle,
    quantized::Quantized,
    random::property,
    setup::{Check, Difference, Setup, check_some, differentiate},
    tensor::{Output, Tensor},
    work::{Model, Work, prepare},
    zeros::Zeros,
};
use half::{bf16, f16};
use halfbyte::{
    Backend, DType, Float, Result,
    ops::{Dequantize, Linear, Linear4, Linear4Grad, Op},
    quant::{Format, Scales, Weight4},
};

type Case = (Product, Quantization);

/// How exact a product is. Where a kernel decodes into operand A, its codes are rounded, and up to 16 tokens nothing else is:
/// the scale multiplies the sum over a block. For more tokens it may multiply each weight, which is rounded again.
pub fn exactness<B: Backend, T: Float>(backend: &B, case: &Product, quantization: &Quantization) -> Exactness {
    let rounding = match case.n {
        0..=16 if T::DTYPE != DType::F32 => 2.0,
        17..=cases::MOST_FUSED if decodes::<T>(case, quantization) => 3.0,
        _ => 0.0,
    };
    Exactness { rounding, ..Exactness::of_quantized::<B, T>(backend, case.n, case.inputs, quantization.block_size) }
}

/// The same of the input gradient, whose scales multiply each weight.
pub fn grad_exactness<B: Backend, T: Float>(backend: &B, case: &Product, quantization: &Quantization) -> Exactness {
    let rounding = if decodes::<T>(case, quantization) && case.n <= cases::MOST_FUSED_GRAD { 3.0 } else { 0.0 };
    Exactness { rounding, ..Exactness::of::<B, T>(backend, case.n, true) }
}

/// Whether there are kernels that decode into operand A.
fn decodes<T: Float>(case: &Product, quantization: &Quantization) -> bool {
    T::DTYPE != DType::F32 && case.inputs.is_multiple_of(256) && quantization.block_size >= 64
}

pub struct Forward<B: Backend, T: Float, O: Float> {
    case: Product,
    quantization: Quantization,
    x: Tensor<B, T>,
    weight: Quantized<B>,
    out: Tensor<B, O>,
}

impl<B: Backend, T: Float, O: Float> Setup<B> for Forward<B, T, O> {
    type Case = Case;

    fn name((case, quantization): &Case) -> String {
        format!("linear4 {} {} {case:?} {quantization:?}", T::DTYPE.suffix(), O::DTYPE.suffix())
    }

    fn new(make: &Make<B>, (case, quantization): &Case) -> Self {
        let Product { n, outputs, inputs, layout, accumulate } = *case;
        Forward {
            case: *case,
            quantization: *quantization,
            x: make.normal([n, inputs], layout, 1.0),
            weight: Quantized::random(make, [outputs, inputs], *quantization, layout),
            out: make.sum([n, outputs], layout, accumulate),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let (x, weight, accumulate) = (self.x.mat(), self.weight.weight(), self.case.accumulate);
        Linear4 { x, weight, out: self.out.mat_mut(), accumulate }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Product { outputs, inputs, .. } = self.case;
        let (x, weight) = (self.x.to_f64(), self.weight.exact::<T>());
        let exactness = exactness::<B, T>(close.backend, &self.case, &self.quantization);
        close.some("out", self.out.now(), outputs, |i, j| {
            let product = exactness.dot::<T>(oracle::rows(&x, &weight, inputs, i, j));
            stored(&self.case, &self.out, [i, j], product)
        });
    }
}

pub struct Gradient<B: Backend, T: Float> {
    case: Product,
    quantization: Quantization,
    d_out: Tensor<B, T>,
    weight: Quantized<B>,
    d_x: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = Case;

    fn name((case, quantization): &Case) -> String {
        format!("linear4_grad {} {case:?} {quantization:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, (case, quantization): &Case) -> Self {
        let Product { n, outputs, inputs, layout, accumulate } = *case;
        Gradient {
            case: *case,
            quantization: *quantization,
            d_out: make.normal([n, outputs], layout, 1.0),
            weight: Quantized::random(make, [outputs, inputs], *quantization, layout),
            d_x: make.sum([n, inputs], layout, accumulate),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let (d_out, weight, accumulate) = (self.d_out.mat(), self.weight.weight(), self.case.accumulate);
        Linear4Grad { d_out, weight, d_x: self.d_x.mat_mut(), accumulate }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.d_x]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Product { outputs, inputs, .. } = self.case;
        let (d_out, weight) = (self.d_out.to_f64(), self.weight.exact::<T>());
        let exactness = grad_exactness::<B, T>(close.backend, &self.case, &self.quantization);
        close.some("d_x", self.d_x.now(), inputs, |i, k| {
            let product = exactness.dot::<T>(oracle::row_and_column(&d_out, &weight, outputs, inputs, i, k));
            stored(&self.case, &self.d_x, [i, k], product)
        });
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let (d_out, weight, inputs) = (self.d_out.to_f64(), self.weight.exact::<T>(), self.case.inputs);
        let loss = move |x: &[f64]| oracle::weighted(&d_out, oracle::product(x, &weight, inputs));
        // The loss is linear in x: any point does.
        let at = vec![0.0; self.case.n * inputs];
        vec![Difference { part: "x", got: self.d_x.floats(), at, loss: Box::new(loss) }]
    }
}

type Same<B, T> = Forward<B, T, T>;

/// Outputs of the compute type, and f32.
fn forwards<B: Backend>(backend: &B, case: &Case, most: usize) {
    check_each!(Same, backend, case, most);
    check_some::<B, Forward<B, bf16, f32>>(backend, case, most);
    check_some::<B, Forward<B, f16, f32>>(backend, case, most);
}

fn linear4<B: Backend>(backend: &B) {
    cases::quantized_products().iter().for_each(|case| forwards(backend, case, 3000));
    let any = (cases::any_product(), cases::any_quantization());
    property(24, any, |case| forwards(backend, &case, 2000));
}

/// By itself, since compute-sanitizer keeps what it saw of a whole process.
fn linear4_wgmma<B: Backend>(backend: &B) {
    cases::fused_products().iter().for_each(|case| forwards(backend, case, 500));
}

fn linear4_grad<B: Backend>(backend: &B) {
    cases::quantized_products().iter().for_each(|case| check_each!(Gradient, backend, case, 3000));
    let any = (cases::any_product(), cases::any_quantization());
    property(24, any, |case| check_each!(Gradient, backend, &case, 2000));
}

fn linear4_grad_wgmma<B: Backend>(backend: &B) {
    for case in cases::fused_grad_products() {
        check_some::<B, Gradient<B, bf16>>(backend, &case, 500);
        check_some::<B, Gradient<B, f16>>(backend, &case, 500);
    }
}

fn linear4_large<B: Backend>(backend: &B) {
    for (i, case) in cases::large_products(backend.name().starts_with("cpu")).into_iter().enumerate() {
        let all = Quantization::all();
        for quantization in [Quantization::DEFAULT, all[(5 + 7 * i) % all.len()]] {
            check_some::<B, Forward<B, bf16, bf16>>(backend, &(case, quantization), 2000);
            check_some::<B, Gradient<B, bf16>>(backend, &(case, quantization), 2000);
        }
        let fp4 = Quantization { format: Format::Fp4, nested: false, ..Quantization::DEFAULT };
        check_some::<B, Forward<B, f16, f32>>(backend, &(Product { accumulate: true, ..case }, fp4), 2000);
    }
}

/// A product with the decoded weight, by the op that decodes and the one that does not.
fn linear4_is_linear_of_the_decoded_weight<B: Backend>(backend: &B) {
    for quantization in Quantization::all() {
        each_float!(same_as_linear::<B>(backend, quantization));
    }
}

fn same_as_linear<B: Backend, T: Float>(backend: &B, quantization: Quantization) {
    let name = format!("linear4 and linear {} {quantization:?}", T::DTYPE.suffix());
    let make = Make::new(backend, Purpose::Suite, &name);
    let case = Product::new(40, 96, 320);
    let mut ours = Forward::<B, T, f32>::new(&make, &(case, quantization));
    let mut decoded = make.output::<T>([case.outputs, case.inputs], case.layout);
    Dequantize { weight: ours.weight.weight(), out: decoded.view_mut() }.run(backend).unwrap();
    let mut dense = make.output::<f32>([case.n, case.outputs], case.layout);
    let (x, out) = (ours.x.mat(), dense.mat_mut());
    Linear { x, weight: decoded.mat(), out, accumulate: false, settled: false }.run(backend).unwrap();
    ours.run(backend).unwrap();
    let (ours_out, dense) = (ours.out.read(backend, &name), dense.read(backend, &name));
    let (x, weight) = (ours.x.to_f64(), ours.weight.exact::<T>());
    let exactness = Exactness::of::<B, T>(backend, case.n, false);
    compare_some(&name, &ours_out, case.outputs, usize::MAX, |i, j| {
        // Twice the error of one product.
        let err = 2.0 * exactness.dot::<T>(oracle::rows(&x, &weight, case.inputs, i, j)).err;
        Num { v: f64::from(dense[i * case.outputs + j]), err }
    });
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("linear4", linear4),
        ("linear4_wgmma", linear4_wgmma),
        ("linear4_grad", linear4_grad),
        ("linear4_grad_wgmma", linear4_grad_wgmma),
        ("linear4_large", linear4_large),
        ("linear4_is_linear_of_the_decoded_weight", linear4_is_linear_of_the_decoded_weight),
    ]
}

fn tiny<B: Backend>(backend: &B) {
    for format in FORMATS {
        let quantization = Quantization { format, block_size: 32, nested: true };
        differentiate::<B, Gradient<B, f32>>(backend, &(Product::new(5, 7, 40), quantization));
    }
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("linear4_grad", tiny)]
}

fn forward_work<B: Backend>(n: usize, [outputs, inputs]: [usize; 2]) -> Work<B> {
    let (case, q) = (Product::new(n, outputs, inputs), Quantization::DEFAULT);
    let bytes = Quantized::<B>::bytes(q, [outputs, inputs]) + 2 * n * (inputs + outputs);
    Work::new::<Forward<B, bf16, bf16>>("linear4", case.shape(), [bytes, case.flops()], (case, q))
        .beside(prepare::<B, linear::Forward<B, bf16, bf16>>(case))
}

fn gradient_work<B: Backend>(n: usize, [outputs, inputs]: [usize; 2]) -> Work<B> {
    let (case, q) = (Product::new(n, outputs, inputs), Quantization::DEFAULT);
    let bytes = Quantized::<B>::bytes(q, [outputs, inputs]) + 2 * n * (inputs + outputs);
    Work::new::<Gradient<B, bf16>>("linear4_grad", case.shape(), [bytes, case.flops()], (case, q))
        .beside(prepare::<B, linear::Gradient<B, bf16>>(case))
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let mut works = Vec::new();
    for shape in model.projections() {
        works.extend(model.tokens.iter().map(|&n| forward_work(n, shape)));
        works.extend(model.tokens.iter().map(|&n| gradient_work(n, shape)));
    }
    works
}

fn linear4_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let weight = || z.weight();
    let good = || Linear4::<B, f32> { x: z.mat(4, 128), weight: weight(), out: z.mat_mut(4, 6), accumulate: false };
    z.fits(good());
    z.refuses(Linear4 { x: z.mat(4, 127), ..good() }, "linear4: `x` is [4, 127], expected [4, 128]");
    z.refuses(Linear4 { out: z.mat_mut(3, 6), ..good() }, "linear4: `out` is [3, 6], expected [4, 6]");
    let odd = Weight4 { block_size: 48, ..weight() };
    let message = "linear4: the block size is 48, but it must be a power of two from 32 to 4096";
    z.refuses(Linear4 { weight: odd, ..good() }, message);
    let short = Weight4 { codes: z.view(383), ..weight() };
    z.refuses(Linear4 { weight: short, ..good() }, "linear4: `weight.codes` has 383 elements, expected 384");
    let short = Weight4 { scales: Scales::Plain(z.view(11)), ..weight() };
    z.refuses(Linear4 { weight: short, ..good() }, "linear4: `weight.absmax` has 11 elements, expected 12");
    let short = Weight4 { scales: Scales::Nested { codes: z.view(12), groups: z.view(0) }, ..weight() };
    z.refuses(Linear4 { weight: short, ..good() }, "linear4: `weight.nested_absmax` has 0 elements, expected 1");
    let short = Weight4 { scales: Scales::Nested { codes: z.view(13), groups: z.view(1) }, ..weight() };
    z.refuses(Linear4 { weight: short, ..good() }, "linear4: `weight.absmax` has 13 elements, expected 12");

    let good =
        || Linear4Grad::<B, f32> { d_out: z.mat(4, 6), weight: weight(), d_x: z.mat_mut(4, 128), accumulate: false };
    z.fits(good());
    z.refuses(Linear4Grad { d_out: z.mat(4, 7), ..good() }, "linear4_grad: `d_out` is [4, 7], expected [4, 6]");
    z.refuses(Linear4Grad { d_x: z.mat_mut(4, 64), ..good() }, "linear4_grad: `d_x` is [4, 64], expected [4, 128]");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("linear4", linear4_refuses)]
}
