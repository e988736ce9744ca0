use crate::common::{
    self,
    cases::{self, Rows},
    close::compare,
    num::Num,
    oracle,
    random::{Random, property},
    tensor::{Layout, Tensor, twice},
};
use halfbyte::{
    Backend, Float,
    ops::{Op, RmsNorm, RmsNormGrad},
};

const EPS: f32 = 1e-6;

fn forward<B: Backend, T: Float>(backend: &B, case: &Rows) {
    let Rows { n, d, layout, add } = *case;
    let name = format!("rms_norm {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let x = Tensor::<B, T>::of(backend, [n, d], layout, &random.normal(n * d, 1.0));
    let residual = Tensor::<B, T>::of(backend, [n, d], layout, &random.normal(n * d, 1.0));
    let weight = Tensor::<B, f32>::of(backend, [1, d], Layout::Packed, &random.normal(d, 1.0));
    let (sum, out) = twice(&name, || {
        let mut sum = Tensor::<B, T>::poisoned(backend, [n, d], layout);
        let mut out = Tensor::<B, T>::poisoned(backend, [n, d], layout);
        let add = add.then(|| (residual.mat(), sum.mat_mut()));
        RmsNorm { x: x.mat(), add, weight: weight.view(), eps: EPS, out: out.mat_mut() }.run(backend).unwrap();
        (sum.read(backend, &name), out.read(backend, &name))
    });
    let mut h: Vec<T> = x.values().to_vec();
    if add {
        for (i, (h, r)) in h.iter_mut().zip(residual.values()).enumerate() {
            *h = T::from_f32(h.to_f32() + r.to_f32());
            assert!(sum[i] == *h, "{name}: the sum at {i} is {:?}, expected {h:?}", sum[i]);
        }
    }
    let h: Vec<f64> = h.iter().map(|v| f64::from(v.to_f32())).collect();
    let weight = weight.to_f64();
    let want: Vec<Num> = h.chunks(d).flat_map(|h| oracle::rms_norm(h, &weight, EPS)).collect();
    compare(&name, &out, d, |i, j| want[i * d + j]);
}

fn gradient<B: Backend, T: Float>(backend: &B, case: &Rows) {
    let Rows { n, d, layout, add } = *case;
    let name = format!("rms_norm_grad {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let x = Tensor::<B, T>::of(backend, [n, d], layout, &random.normal(n * d, 1.0));
    let d_out = Tensor::<B, T>::of(backend, [n, d], layout, &random.normal(n * d, 1.0));
    let weight = Tensor::<B, f32>::of(backend, [1, d], Layout::Packed, &random.normal(d, 1.0));
    let old = random.normal(n * d, 1.0);
    let got = twice(&name, || {
        let mut d_x = match add {
            true => Tensor::<B, T>::of(backend, [n, d], layout, &old),
            false => Tensor::poisoned(backend, [n, d], layout),
        };
        let (x, d_out, weight) = (x.mat(), d_out.mat(), weight.view());
        RmsNormGrad { x, weight, eps: EPS, d_out, d_x: d_x.mat_mut(), accumulate: add }.run(backend).unwrap();
        d_x.read(backend, &name)
    });
    let (x, d_out, weight) = (x.to_f64(), d_out.to_f64(), weight.to_f64());
    let rows = x.chunks(d).zip(d_out.chunks(d));
    let want: Vec<Num> = rows
        .flat_map(|(x, d_out)| {
            let d_out: Vec<Num> = d_out.iter().map(|&v| v.into()).collect();
            oracle::rms_norm_grad(x, &weight, EPS, &d_out)
        })
        .collect();
    compare(&name, &got, d, |i, j| {
        let before = if add { T::from_f32(old[i * d + j]).to_f32().into() } else { Num::ZERO };
        before + want[i * d + j]
    });
}

fn rms_norm<B: Backend>(backend: &B) {
    for case in cases::rows() {
        each_float!(forward::<B>(backend, &case));
    }
    property(24, cases::any_rows(), |case| each_float!(forward::<B>(backend, &case)));
}

fn rms_norm_grad<B: Backend>(backend: &B) {
    for case in cases::rows() {
        each_float!(gradient::<B>(backend, &case));
    }
    property(24, cases::any_rows(), |case| each_float!(gradient::<B>(backend, &case)));
}

backends!(rms_norm, rms_norm_grad);
