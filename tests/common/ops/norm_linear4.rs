use super::{linear4::exactness, lora_linear::Inputs};
use crate::common::{
    cases::{self, Adapted, Product, Quantization},
    close::Close,
    make::Make,
    num::Num,
    oracle,
    quantized::Quantized,
    random::property,
    setup::{Check, Setup, check_some},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float, Result,
    ops::{NormLinear4, Op},
};
use proptest::prelude::*;

const EPS: f32 = 1e-6;

/// The last: whether SwiGLU follows.
type Case = (Adapted, bool);

pub struct Forward<B: Backend, T: Float> {
    inputs: Inputs<B, T>,
    gated: bool,
    x: Tensor<B, T>,
    norm: Tensor<B, f32>,
    normed: Tensor<B, T>,
    out: Tensor<B, T>,
    half: Tensor<B, T>,
    xa: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Forward<B, T> {
    type Case = Case;

    fn name((case, gated): &Case) -> String {
        format!("norm_linear4 {} {case:?} gated: {gated}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, (case, gated): &Case) -> Self {
        let Product { n, outputs, inputs, layout, .. } = case.product;
        let all = Inputs::new(make, case);
        Forward {
            gated: *gated,
            x: make.normal([n, inputs], layout, 3.0),
            norm: make.normal([1, inputs], Layout::Packed, 1.0),
            normed: make.output([n, inputs], layout),
            out: make.output([n, outputs], layout),
            half: make.output([n, outputs / 2], layout),
            xa: all.zeros(make),
            inputs: all,
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        NormLinear4 {
            x: self.x.mat(),
            norm: self.norm.view(),
            eps: EPS,
            normed: self.normed.mat_mut(),
            weight: self.inputs.weight.weight4(),
            parts: &self.inputs.parts(),
            xa: self.xa.mat_mut(),
            out: self.out.mat_mut(),
            gated: self.gated.then(|| self.half.mat_mut()),
        }
        .run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        let last: &mut dyn Output<B> = if self.gated { &mut self.half } else { &mut self.out };
        vec![&mut self.normed, &mut self.xa, last]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Product { outputs, inputs, .. } = self.inputs.case.product;
        let (x, norm) = (self.x.to_f64(), self.norm.to_f64());
        let want: Vec<Num> = x.chunks(inputs).flat_map(|h| oracle::rms_norm(h, &norm, EPS)).collect();
        close.all("normed", self.normed.now(), inputs, |i, j| want[i * inputs + j]);

        // From here on, of what was rounded.
        let normed: Vec<f64> = self.normed.now().iter().map(|v| f64::from(v.to_f32())).collect();
        let Inputs { adapters, columns, weight, .. } = &self.inputs;
        close.some("xa", self.xa.now(), *columns, |i, j| {
            let Some(it) = adapters.iter().find(|it| it.xa.contains(&j)) else { return Num::ZERO };
            oracle::row_by_row(&normed, &it.a.to_f64(), inputs, i, j - it.xa.start)
        });
        let (weight, xa) = (weight.exact(), self.xa.now_f64());
        let added = self.inputs.added(&xa);
        let case = &self.inputs.case;
        let exactness = exactness::<B, T>(close.backend, &case.product, &case.quantization);
        let out = |i, j| {
            let base = exactness.dot::<T>(oracle::rows(&normed, &weight, inputs, i, j));
            added(i, j).map_or(base, |added| base.rounded::<T>() + added)
        };
        if self.gated {
            let of = |i, j| out(i, j).rounded::<T>();
            let f = outputs / 2;
            close.some("gated", self.half.now(), f, |i, j| oracle::swiglu(of(i, j), of(i, f + j)));
        } else {
            close.some("out", self.out.now(), outputs, out);
        }
    }
}

fn norm_linear4<B: Backend>(backend: &B) {
    for case in cases::normed_products() {
        check_some::<B, Forward<B, bf16>>(backend, &case, 1500);
        check_some::<B, Forward<B, f16>>(backend, &case, 1500);
        check_some::<B, Forward<B, f32>>(backend, &case, 500);
    }
    let any = (cases::any_product(), cases::any_quantization(), any::<bool>());
    property(24, any, |(product, quantization, gated)| {
        let product = Product { accumulate: false, outputs: 2 * product.outputs, ..product };
        let case = Adapted { product, quantization, adapters: &[], ..cases::stack() };
        check_each!(Forward, backend, &(case, gated), 1000);
    });
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("norm_linear4", norm_linear4)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let [qkv, _, gate_up, _] = model.projections();
    let work = |([outputs, inputs], gated): ([usize; 2], bool)| {
        let (product, q) = (Product::new(1, outputs, inputs), Quantization::DEFAULT);
        let bytes = Quantized::<B>::bytes(q, [outputs, inputs]) + 8 * inputs + 2 * outputs;
        let case = Adapted { product, quantization: q, adapters: &[], ..cases::stack() };
        Work::new::<Forward<B, bf16>>("norm_linear4", product.shape(), [bytes, product.flops()], (case, gated))
    };
    [(qkv, false), (gate_up, true)].map(work).into()
}

fn norm_linear4_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || NormLinear4::<B, f32> {
        x: z.mat(4, 128),
        norm: z.view(128),
        eps: EPS,
        normed: z.mat_mut(4, 128),
        weight: z.weight(),
        parts: &[],
        xa: z.mat_mut(4, 0),
        out: z.mat_mut(4, 6),
        gated: Some(z.mat_mut(4, 3)),
    };
    z.fits(good());
    z.refuses(NormLinear4 { x: z.mat(4, 127), ..good() }, "norm_linear4: `x` is [4, 127], expected [4, 128]");
    z.refuses(NormLinear4 { norm: z.view(127), ..good() }, "norm_linear4: `norm` has 127 elements, expected 128");
    let normed = z.mat_mut(3, 128);
    z.refuses(NormLinear4 { normed, ..good() }, "norm_linear4: `normed` is [3, 128], expected [4, 128]");
    z.refuses(NormLinear4 { out: z.mat_mut(4, 5), ..good() }, "norm_linear4: `out` is [4, 5], expected [4, 6]");
    let gated = Some(z.mat_mut(4, 6));
    z.refuses(NormLinear4 { gated, ..good() }, "norm_linear4: `gated` is [4, 6], expected [4, 3]");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("norm_linear4", norm_linear4_refuses)]
}
