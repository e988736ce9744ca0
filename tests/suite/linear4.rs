use super::linear::{output, stored};
use crate::common::{
    self,
    cases::{self, Product, Quantization},
    close::compare_some,
    num::{Num, unit},
    oracle,
    quantized::Quantized,
    random::{Random, property},
    tensor::{Tensor, twice},
};
use half::{bf16, f16};
use halfbyte::{
    Backend, DType, Float,
    ops::{Dequantize, Linear4, Linear4Grad, Op},
};

type Case = (Product, Quantization);

/// Up to this many tokens a kernel may multiply the sum over a block with its scale, in place of each weight.
const FEW: usize = 16;

fn exact<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| f64::from(v.to_f32())).collect()
}

fn forward<B: Backend, T: Float, O: Float>(backend: &B, (case, quantization): &Case, most: usize) {
    let Product { n, outputs, inputs, layout, .. } = *case;
    let name = format!("linear4 {} {} {case:?} {quantization:?}", T::DTYPE.suffix(), O::DTYPE.suffix());
    let random = Random::new(&name);
    let x = Tensor::<B, T>::of(backend, [n, inputs], layout, &random.normal(n * inputs, 1.0));
    let weight = Quantized::random(backend, &random, [outputs, inputs], *quantization, layout);
    let old = random.normal(n * outputs, 1.0);
    let got = twice(&name, || {
        let mut out = output::<B, O>(backend, [n, outputs], case, &old);
        let op = Linear4 { x: x.mat(), weight: weight.weight(), out: out.mat_mut(), accumulate: case.accumulate };
        op.run(backend).unwrap();
        out.read(backend, &name)
    });
    let (x, weight) = (x.to_f64(), exact(&weight.decoded::<T>()));
    compare_some(&name, &got, outputs, most, |i, j| {
        let mut product = oracle::row_by_row(&x, &weight, inputs, i, j);
        if n <= FEW && T::DTYPE != DType::F32 {
            // The oracle's weight is off by half an ulp, the kernel's code by another half.
            let size: f64 = (0..inputs).map(|k| (x[i * inputs + k] * weight[j * inputs + k]).abs()).sum();
            product.err += 2.0 * unit::<T>() * size;
        }
        stored::<O>(case, &old, i * outputs + j, product)
    });
}

/// Outputs of the compute type, and f32.
fn forwards<B: Backend, T: Float>(backend: &B, case: &Case, most: usize) {
    forward::<B, T, T>(backend, case, most);
    if T::DTYPE != f32::DTYPE {
        forward::<B, T, f32>(backend, case, most);
    }
}

fn gradient<B: Backend, T: Float>(backend: &B, (case, quantization): &Case, most: usize) {
    let Product { n, outputs, inputs, layout, .. } = *case;
    let name = format!("linear4_grad {} {case:?} {quantization:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let d_out = Tensor::<B, T>::of(backend, [n, outputs], layout, &random.normal(n * outputs, 1.0));
    let weight = Quantized::random(backend, &random, [outputs, inputs], *quantization, layout);
    let old = random.normal(n * inputs, 1.0);
    let got = twice(&name, || {
        let mut d_x = output::<B, T>(backend, [n, inputs], case, &old);
        let accumulate = case.accumulate;
        Linear4Grad { d_out: d_out.mat(), weight: weight.weight(), d_x: d_x.mat_mut(), accumulate }
            .run(backend)
            .unwrap();
        d_x.read(backend, &name)
    });
    let (d_out, weight) = (d_out.to_f64(), exact(&weight.decoded::<T>()));
    compare_some(&name, &got, inputs, most, |i, j| {
        stored::<T>(case, &old, i * inputs + j, oracle::row_by_column(&d_out, &weight, outputs, inputs, i, j))
    });
}

fn decode<B: Backend, T: Float>(backend: &B, (case, quantization): &Case) {
    let Product { outputs, inputs, layout, .. } = *case;
    let name = format!("dequantize {} {outputs} x {inputs} {quantization:?}", T::DTYPE.suffix());
    let weight = Quantized::random(backend, &Random::new(&name), [outputs, inputs], *quantization, layout);
    let got = twice(&name, || {
        let mut out = Tensor::<B, T>::poisoned_flat(backend, outputs * inputs, layout);
        Dequantize { weight: weight.weight(), out: out.view_mut() }.run(backend).unwrap();
        out.read(backend, &name)
    });
    // To the bit: one product and one rounding.
    for (i, (got, want)) in got.iter().zip(weight.decoded::<T>()).enumerate() {
        assert!(*got == want, "{name}: element {i} is {got:?}, expected {want:?}");
    }
}

fn linear4<B: Backend>(backend: &B) {
    for case in cases::quantized_products() {
        each_float!(forwards::<B>(backend, &case, 3000));
    }
    let any = (cases::any_product(), cases::any_quantization());
    property(24, any, |case| each_float!(forwards::<B>(backend, &case, 2000)));
}

fn linear4_grad<B: Backend>(backend: &B) {
    for case in cases::quantized_products() {
        each_float!(gradient::<B>(backend, &case, 3000));
    }
    let any = (cases::any_product(), cases::any_quantization());
    property(24, any, |case| each_float!(gradient::<B>(backend, &case, 2000)));
}

fn dequantize<B: Backend>(backend: &B) {
    for case in cases::quantized_products() {
        each_float!(decode::<B>(backend, &case));
    }
    // More blocks than one nested group has.
    let large = (Product::new(0, 300, 2047), Quantization::DEFAULT);
    each_float!(decode::<B>(backend, &large));
}

fn linear4_large<B: Backend>(backend: &B) {
    for (i, case) in cases::large_products(backend.name().starts_with("cpu")).into_iter().enumerate() {
        let all = Quantization::all();
        for quantization in [Quantization::DEFAULT, all[(5 + 7 * i) % all.len()]] {
            forward::<B, bf16, bf16>(backend, &(case, quantization), 2000);
            gradient::<B, bf16>(backend, &(case, quantization), 2000);
        }
        let fp4 = Quantization { format: halfbyte::quant::Format::Fp4, nested: false, ..Quantization::DEFAULT };
        forward::<B, f16, f32>(backend, &(Product { accumulate: true, ..case }, fp4), 2000);
    }
}

/// The decoded weight times a vector, by the op that decodes and the one that does not.
fn linear4_is_linear_of_the_decoded_weight<B: Backend>(backend: &B) {
    let case = Product::new(40, 96, 320);
    for quantization in Quantization::all() {
        each_float!(same_as_linear::<B>(backend, &case, quantization));
    }
}

fn same_as_linear<B: Backend, T: Float>(backend: &B, case: &Product, quantization: Quantization) {
    let Product { n, outputs, inputs, layout, .. } = *case;
    let name = format!("linear4 and linear {} {quantization:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let x = Tensor::<B, T>::of(backend, [n, inputs], layout, &random.normal(n * inputs, 1.0));
    let weight = Quantized::random(backend, &random, [outputs, inputs], quantization, layout);
    let mut decoded = Tensor::<B, T>::poisoned_flat(backend, outputs * inputs, layout);
    Dequantize { weight: weight.weight(), out: decoded.view_mut() }.run(backend).unwrap();
    let decoded_host = exact(&decoded.read(backend, &name));
    let [mut a, mut b] = [(); 2].map(|()| Tensor::<B, f32>::poisoned(backend, [n, outputs], layout));
    Linear4 { x: x.mat(), weight: weight.weight(), out: a.mat_mut(), accumulate: false }.run(backend).unwrap();
    halfbyte::ops::Linear { x: x.mat(), weight: decoded.view(), out: b.mat_mut(), accumulate: false }
        .run(backend)
        .unwrap();
    let (a, b, x) = (a.read(backend, &name), b.read(backend, &name), x.to_f64());
    compare_some(&name, &a, outputs, a.len(), |i, j| {
        // Twice the error of one sum.
        let err = 2.0 * oracle::row_by_row(&x, &decoded_host, inputs, i, j).err;
        Num { v: f64::from(b[i * outputs + j]), err }
    });
}

backends!(linear4, linear4_grad, dequantize, linear4_large, linear4_is_linear_of_the_decoded_weight);
