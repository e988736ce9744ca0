use crate::common::{
    self,
    cases::{self, Product},
    close::{compare, compare_some},
    num::Num,
    oracle,
    random::{Random, property},
    tensor::{Layout, Tensor, twice},
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float,
    ops::{Linear, LinearGrad, Op, WeightGrad},
};

/// An output that is added to, or poisoned.
pub fn output<B: Backend, O: Float>(backend: &B, shape: [usize; 2], case: &Product, before: &[f32]) -> Tensor<B, O> {
    if case.accumulate {
        Tensor::of(backend, shape, case.layout, before)
    } else {
        Tensor::poisoned(backend, shape, case.layout)
    }
}

/// `product`, or the sum of it and what was there: by contract the product may be rounded on the way.
pub fn stored<O: Float>(case: &Product, before: &[f32], i: usize, product: Num) -> Num {
    if case.accumulate {
        Num::from(f64::from(O::from_f32(before[i]).to_f32())) + product.rounded::<O>()
    } else {
        product
    }
}

fn forward<B: Backend, T: Float, O: Float>(backend: &B, case: &Product, most: usize) {
    let Product { n, outputs, inputs, layout, .. } = *case;
    let name = format!("linear {} {} {case:?}", T::DTYPE.suffix(), O::DTYPE.suffix());
    let random = Random::new(&format!("{case:?}"));
    let x = Tensor::<B, T>::of(backend, [n, inputs], layout, &random.normal(n * inputs, 1.0));
    let weight = Tensor::<B, T>::of(backend, [1, outputs * inputs], layout, &random.normal(outputs * inputs, 0.05));
    let old = random.normal(n * outputs, 1.0);
    let got = twice(&name, || {
        let mut out = output::<B, O>(backend, [n, outputs], case, &old);
        let op = Linear { x: x.mat(), weight: weight.view(), out: out.mat_mut(), accumulate: case.accumulate };
        op.run(backend).unwrap();
        out.read(backend, &name)
    });
    let (x, weight) = (x.to_f64(), weight.to_f64());
    compare_some(&name, &got, outputs, most, |i, j| {
        stored::<O>(case, &old, i * outputs + j, oracle::row_by_row(&x, &weight, inputs, i, j))
    });
}

/// Outputs of the compute type, and f32.
fn forwards<B: Backend, T: Float>(backend: &B, case: &Product, most: usize) {
    forward::<B, T, T>(backend, case, most);
    if T::DTYPE != f32::DTYPE {
        forward::<B, T, f32>(backend, case, most);
    }
}

fn gradient<B: Backend, T: Float>(backend: &B, case: &Product, most: usize) {
    let Product { n, outputs, inputs, layout, .. } = *case;
    let name = format!("linear_grad {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&format!("{case:?}"));
    let d_out = Tensor::<B, T>::of(backend, [n, outputs], layout, &random.normal(n * outputs, 1.0));
    let weight = Tensor::<B, T>::of(backend, [1, outputs * inputs], layout, &random.normal(outputs * inputs, 0.05));
    let old = random.normal(n * inputs, 1.0);
    let got = twice(&name, || {
        let mut d_x = output::<B, T>(backend, [n, inputs], case, &old);
        let op =
            LinearGrad { d_out: d_out.mat(), weight: weight.view(), d_x: d_x.mat_mut(), accumulate: case.accumulate };
        op.run(backend).unwrap();
        d_x.read(backend, &name)
    });
    let (d_out, weight) = (d_out.to_f64(), weight.to_f64());
    compare_some(&name, &got, inputs, most, |i, j| {
        stored::<T>(case, &old, i * inputs + j, oracle::row_by_column(&d_out, &weight, outputs, inputs, i, j))
    });
}

fn weight_gradient<B: Backend, T: Float>(backend: &B, case: &Product) {
    let Product { n, outputs, inputs, layout, .. } = *case;
    let name = format!("weight_grad {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&format!("{case:?}"));
    let x = Tensor::<B, T>::of(backend, [n, inputs], layout, &random.normal(n * inputs, 1.0));
    let d_out = Tensor::<B, T>::of(backend, [n, outputs], layout, &random.normal(n * outputs, 1.0));
    let old = random.normal(outputs * inputs, 1.0);
    let got = twice(&name, || {
        let mut d_weight = Tensor::<B, f32>::of(backend, [1, outputs * inputs], layout, &old);
        WeightGrad { x: x.mat(), d_out: d_out.mat(), d_weight: d_weight.view_mut() }.run(backend).unwrap();
        d_weight.read(backend, &name)
    });
    let (x, d_out) = (x.to_f64(), d_out.to_f64());
    compare(&name, &got, inputs, |i, j| {
        Num::from(old[i * inputs + j]) + oracle::column_by_column(&d_out, &x, [outputs, inputs], i, j)
    });
}

fn linear<B: Backend>(backend: &B) {
    for case in cases::products() {
        each_float!(forwards::<B>(backend, &case, 4000));
    }
    property(24, cases::any_product(), |case| each_float!(forwards::<B>(backend, &case, 2000)));
}

fn linear_grad<B: Backend>(backend: &B) {
    for case in cases::products() {
        each_float!(gradient::<B>(backend, &case, 4000));
    }
    property(24, cases::any_product(), |case| each_float!(gradient::<B>(backend, &case, 2000)));
}

fn weight_grad<B: Backend>(backend: &B) {
    for case in cases::products() {
        each_float!(weight_gradient::<B>(backend, &case));
    }
    property(24, cases::any_product(), |case| each_float!(weight_gradient::<B>(backend, &case)));
}

fn linear_large<B: Backend>(backend: &B) {
    for case in cases::large_products(backend.name().starts_with("cpu")) {
        forward::<B, bf16, bf16>(backend, &case, 2000);
        gradient::<B, bf16>(backend, &case, 2000);
        // 4097 outputs: rows of the output begin anywhere.
        let odd = Product { outputs: 4097, layout: Layout::Odd, accumulate: true, ..case };
        forward::<B, f16, f32>(backend, &odd, 2000);
    }
}

backends!(linear, linear_grad, weight_grad, linear_large);
