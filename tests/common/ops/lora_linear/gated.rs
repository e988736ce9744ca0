//! The product of what SwiGLU makes first: the op of its own, and the product of that.

use super::Forward;
use crate::common::{
    cases::{self, Adapted, Product},
    close::Close,
    make::Make,
    setup::{Setup, check_some},
    tensor::{Layout, Output, Tensor},
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float, Result,
    ops::{Op, Swiglu},
};

pub struct Gated<B: Backend, T: Float> {
    forward: Forward<B, T>,
    gate_up: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Gated<B, T> {
    type Case = Adapted;

    fn name(case: &Adapted) -> String {
        format!("{} behind SwiGLU", Forward::<B, T>::name(case))
    }

    fn new(make: &Make<B>, case: &Adapted) -> Self {
        let Product { n, inputs, layout, .. } = case.product;
        Gated { forward: Forward::new(make, case), gate_up: make.normal([n, 2 * inputs], layout, 1.0) }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        self.forward.run_of(backend, Some(self.gate_up.mat()))
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        self.forward.outputs()
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Product { n, inputs, .. } = self.forward.inputs.case.product;
        let mut x = Tensor::<B, T>::poisoned(close.backend, [n, inputs], Layout::Packed);
        Swiglu { gate_up: self.gate_up.mat(), out: x.mat_mut() }.run(close.backend).unwrap();
        let want = x.read(close.backend, close.name);
        let columns = inputs + self.forward.inputs.case.room;
        let got = self.forward.x.read(close.backend, close.name);
        let got = got.chunks(columns).flat_map(|row| &row[..inputs]);
        assert!(got.eq(&want), "{}: SwiGLU's output differs from the op's", close.name);
        self.forward.compare_of(&want.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>(), close);
    }
}

pub fn check<B: Backend>(backend: &B) {
    // So many tokens that CTAs of 16 are nearly as many as the multiprocessors of a GPU, or twice as many.
    let many = if backend.name().starts_with("cpu") { 40 } else { 2090 };
    let one = |n: usize, inputs: usize, r: usize| {
        let adapters: &'static [_] = if r == 16 { &[(16, 0, 40)] } else { &[(3, 0, 40)] };
        Adapted { product: Product::new(n, 40, inputs), adapters, ..cases::stack() }
    };
    let large = [one(many, 200, 16), one(2 * many, 3072, 3), Adapted { dropout: Some(0.2), ..one(many, 832, 16) }];
    // Of the cases of many tokens, which take long, one; the product of itself has them all.
    let some = |case: &Adapted| case.product.n < 1000 || case.adapters.len() == 3 && case.dropout.is_none();
    for case in cases::adapted().into_iter().filter(some).chain(large) {
        check_some::<B, Gated<B, bf16>>(backend, &case, 400);
        check_some::<B, Gated<B, f16>>(backend, &case, 200);
        check_some::<B, Gated<B, f32>>(backend, &case, 200);
    }
}
