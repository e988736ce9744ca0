//! Arguments that fit or do not: what ops refuse.

use halfbyte::{
    Backend, Element, Mat, MatMut, View, ViewMut,
    ops::{Heads, Launch, Op},
    quant::{Format, Scales, Weight4},
};

/// Views of zeros that live as long as the test.
pub struct Zeros<'a, B: Backend>(pub &'a B);

impl<B: Backend> Zeros<'_, B> {
    pub fn out<T: Element>(&self, len: usize) -> ViewMut<'static, B, T> {
        Box::leak(Box::new(self.0.zeros(len).unwrap())).view_mut()
    }

    pub fn view<T: Element>(&self, len: usize) -> View<'static, B, T> {
        Box::leak(Box::new(self.0.zeros(len).unwrap())).view()
    }

    pub fn mat<T: Element>(&self, rows: usize, cols: usize) -> Mat<'static, B, T> {
        Mat::new(self.view(rows * cols), rows, cols)
    }

    pub fn mat_mut<T: Element>(&self, rows: usize, cols: usize) -> MatMut<'static, B, T> {
        MatMut::new(self.out(rows * cols), rows, cols)
    }

    /// `[6, 128]`, NF4, blocks of 64.
    pub fn weight(&self) -> Weight4<'static, B> {
        let scales = Scales::Plain(self.view(12));
        Weight4 { format: Format::Nf4, block_size: 64, rows: 6, cols: 128, codes: self.view(384), scales }
    }

    /// The op as it is fits; that is what makes the refusals below refusals of one argument.
    pub fn fits<O: Op<B> + Launch<B>>(&self, op: O) {
        if let Err(e) = op.check(self.0) {
            panic!("{e}");
        }
    }

    pub fn refuses<O: Op<B> + Launch<B>>(&self, op: O, message: &str) {
        let error = op.run(self.0).expect_err(message);
        assert_eq!(error.to_string(), message);
    }
}

pub const HEADS: Heads = Heads { q: 4, kv: 2, dim: 32 };
pub const NO_HEADS: &str = "heads is 4 / 3, but kv heads must divide the query heads";
pub const NO_DIM: &str = "the head dimension is 48, but it must be 32, 64 or 128";
