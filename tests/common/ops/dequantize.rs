use crate::common::{
    cases::{self, Product, Quantization},
    close::Close,
    make::Make,
    quantized::Quantized,
    setup::{Check, Setup},
    tensor::{Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{Dequantize, Op},
};

pub struct Decode<B: Backend, T: Float> {
    weight: Quantized<B>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Decode<B, T> {
    type Case = (Product, Quantization);

    fn name((Product { outputs, inputs, .. }, quantization): &Self::Case) -> String {
        format!("dequantize {} {outputs} x {inputs} {quantization:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, (case, quantization): &Self::Case) -> Self {
        let Product { outputs, inputs, layout, .. } = *case;
        Decode {
            weight: Quantized::random(make, [outputs, inputs], *quantization, layout),
            out: make.output([1, outputs * inputs], layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        Dequantize { weight: self.weight.weight(), out: self.out.view_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    /// To the bit: one product and one rounding.
    fn compare(&mut self, close: &Close<'_, B>) {
        for (i, (got, want)) in self.out.now().iter().zip(self.weight.decoded::<T>()).enumerate() {
            assert!(*got == want, "{}: element {i} is {got:?}, expected {want:?}", close.name);
        }
    }
}

fn dequantize<B: Backend>(backend: &B) {
    cases::quantized_products().iter().for_each(|case| check_each!(Decode, backend, case));
    // More blocks than one nested group has.
    check_each!(Decode, backend, &(Product::new(0, 300, 2047), Quantization::DEFAULT));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("dequantize", dequantize)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let ([.., [rows, cols]], q) = (model.projections(), Quantization::DEFAULT);
    let cost = [Quantized::<B>::bytes(q, [rows, cols]) + 2 * rows * cols, rows * cols];
    vec![Work::new::<Decode<B, bf16>>("dequantize", format!("{rows} x {cols}"), cost, (Product::new(0, rows, cols), q))]
}

fn dequantize_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let op = Dequantize::<B, f32> { weight: z.weight(), out: z.out(767) };
    z.refuses(op, "dequantize: `out` has 767 elements, expected 768");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("dequantize", dequantize_refuses)]
}
