//! Memory for the cases of an op, by what it is for.

use super::{
    random::Random,
    tensor::{Layout, Tensor},
};
use halfbyte::{Backend, Element, Float};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Fences around everything, and values that are hard on kernels.
    Suite,
    /// Fences, and values at which a formula can be differentiated.
    Gradients,
    /// Speed: large, without fences, a short pattern of values over and over.
    Bench,
}

/// Makes the inputs and outputs of one case.
pub struct Make<'a, B: Backend> {
    pub backend: &'a B,
    pub random: Random,
    pub purpose: Purpose,
}

/// Elements of the pattern that benches repeat: a prime.
const PATTERN: usize = 8191;

impl<'a, B: Backend> Make<'a, B> {
    /// The same name draws the same values.
    pub fn new(backend: &'a B, purpose: Purpose, name: &str) -> Self {
        Make { backend, random: Random::new(name), purpose }
    }

    fn tiled<T: Element>(&self, pattern: &[T], shape: [usize; 2]) -> Tensor<B, T> {
        let len = shape[0] * shape[1];
        let mut host = pattern.repeat(len.div_ceil(pattern.len()));
        host.truncate(len);
        Tensor::bare(self.backend.upload(&host).unwrap(), shape)
    }

    /// Normal with mean 0.
    pub fn normal<T: Float>(&self, shape: [usize; 2], layout: Layout, deviation: f32) -> Tensor<B, T> {
        self.normal_but(shape, layout, deviation, |_| {})
    }

    /// Normal with mean 0 but, in the suite, for what `edit` makes of it.
    pub fn normal_but<T: Float>(
        &self,
        shape: [usize; 2],
        layout: Layout,
        deviation: f32,
        edit: impl FnOnce(&mut [f32]),
    ) -> Tensor<B, T> {
        if self.purpose == Purpose::Bench {
            let pattern = self.random.normal(PATTERN, deviation);
            return self.tiled(&pattern.into_iter().map(T::from_f32).collect::<Vec<T>>(), shape);
        }
        let mut values = self.random.normal(shape[0] * shape[1], deviation);
        if self.purpose == Purpose::Suite {
            edit(&mut values);
        }
        Tensor::of(self.backend, shape, layout, &values)
    }

    pub fn bytes(&self, len: usize, layout: Layout) -> Tensor<B, u8> {
        match self.purpose {
            Purpose::Bench => self.tiled(&self.random.bytes(PATTERN), [1, len]),
            _ => self.flat(layout, self.random.bytes(len)),
        }
    }

    /// Signed bytes, all of them.
    pub fn codes(&self, shape: [usize; 2], layout: Layout) -> Tensor<B, i8> {
        let codes = |len| self.random.bytes(len).into_iter().map(u8::cast_signed).collect::<Vec<_>>();
        match self.purpose {
            Purpose::Bench => self.tiled(&codes(PATTERN), shape),
            _ => Tensor::new(self.backend, shape, layout, codes(shape[0] * shape[1])),
        }
    }

    /// One row of these values.
    pub fn flat<T: Element>(&self, layout: Layout, values: Vec<T>) -> Tensor<B, T> {
        Tensor::flat(self.backend, layout, values)
    }

    /// An output that must be overwritten.
    pub fn output<T: Element>(&self, shape: [usize; 2], layout: Layout) -> Tensor<B, T> {
        match self.purpose {
            Purpose::Bench => Tensor::bare(self.backend.zeros(shape[0] * shape[1]).unwrap(), shape),
            _ => Tensor::poisoned(self.backend, shape, layout),
        }
    }

    /// An output that is added to where `accumulate`, and otherwise overwritten.
    pub fn sum<T: Float>(&self, shape: [usize; 2], layout: Layout, accumulate: bool) -> Tensor<B, T> {
        let before = self.random.normal(if self.is_bench() { 0 } else { shape[0] * shape[1] }, 1.0);
        if accumulate && !self.is_bench() {
            Tensor::of(self.backend, shape, layout, &before)
        } else {
            self.output(shape, layout)
        }
    }

    pub fn is_bench(&self) -> bool {
        self.purpose == Purpose::Bench
    }
}
