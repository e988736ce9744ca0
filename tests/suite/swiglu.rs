use crate::common::{
    self,
    cases::{self, Rows},
    close::compare,
    oracle,
    random::{Random, property},
    tensor::{Tensor, twice},
};
use halfbyte::{
    Backend, Float,
    ops::{Op, Swiglu, SwigluGrad},
};

/// Normal numbers, and some where the exponential overflows or vanishes.
fn gates(random: &Random, n: usize, f: usize) -> Vec<f32> {
    let mut values = random.normal(n * 2 * f, 2.0);
    let extremes = [100.0, -100.0, 0.0, 20.0, -20.0, -88.0, 1e-4];
    values.iter_mut().step_by(11).zip(extremes.into_iter().cycle()).for_each(|(v, e)| *v = e);
    values
}

fn forward<B: Backend, T: Float>(backend: &B, case: &Rows) {
    let Rows { n, d: f, layout, .. } = *case;
    let name = format!("swiglu {} {case:?}", T::DTYPE.suffix());
    let gate_up = Tensor::<B, T>::of(backend, [n, 2 * f], layout, &gates(&Random::new(&name), n, f));
    let got = twice(&name, || {
        let mut out = Tensor::<B, T>::poisoned(backend, [n, f], layout);
        Swiglu { gate_up: gate_up.mat(), out: out.mat_mut() }.run(backend).unwrap();
        out.read(backend, &name)
    });
    compare(&name, &got, f, |i, j| oracle::swiglu(gate_up.at(i, j), gate_up.at(i, f + j)));
}

fn gradient<B: Backend, T: Float>(backend: &B, case: &Rows) {
    let Rows { n, d: f, layout, .. } = *case;
    let name = format!("swiglu_grad {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let gate_up = Tensor::<B, T>::of(backend, [n, 2 * f], layout, &gates(&random, n, f));
    let d_out = Tensor::<B, T>::of(backend, [n, f], layout, &random.normal(n * f, 1.0));
    let got = twice(&name, || {
        let mut d_gate_up = Tensor::<B, T>::poisoned(backend, [n, 2 * f], layout);
        let op = SwigluGrad { gate_up: gate_up.mat(), d_out: d_out.mat(), d_gate_up: d_gate_up.mat_mut() };
        op.run(backend).unwrap();
        d_gate_up.read(backend, &name)
    });
    compare(&name, &got, 2 * f, |i, j| {
        let column = j % f;
        oracle::swiglu_grad(gate_up.at(i, column), gate_up.at(i, f + column), d_out.at(i, column))[j / f]
    });
}

fn swiglu<B: Backend>(backend: &B) {
    for case in cases::rows() {
        each_float!(forward::<B>(backend, &case));
    }
    property(24, cases::any_rows(), |case| each_float!(forward::<B>(backend, &case)));
}

fn swiglu_grad<B: Backend>(backend: &B) {
    for case in cases::rows() {
        each_float!(gradient::<B>(backend, &case));
    }
    property(24, cases::any_rows(), |case| each_float!(gradient::<B>(backend, &case)));
}

backends!(swiglu, swiglu_grad);
