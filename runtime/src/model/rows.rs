//! Buffers that know their shape.

use crate::error::Result;
use halfbyte::{Backend, Buf, Element, Mat, MatMut, View, ViewMut, elements};

/// A buffer `[capacity, cols]` with a row for each token (or sequence); as many rows as are in hand are in use.
pub(super) struct Rows<B: Backend, T: Element> {
    buf: Buf<B, T>,
    cols: usize,
    /// Columns behind these.
    room: usize,
}

impl<B: Backend, T: Element> Rows<B, T> {
    /// Zeros.
    pub fn new(backend: &B, capacity: usize, cols: usize) -> Result<Self> {
        Self::with_room(backend, capacity, cols, 0)
    }

    /// Zeros, with `room` more columns for what an operand of a product takes along.
    pub fn with_room(backend: &B, capacity: usize, cols: usize, room: usize) -> Result<Self> {
        Ok(Rows { buf: zeros(backend, &[capacity, cols + room])?, cols, room })
    }

    /// Zeros in the host's memory.
    pub fn on_host(backend: &B, capacity: usize, cols: usize) -> Result<Self> {
        Ok(Rows { buf: backend.zeros_on_host(elements::<T>(&[capacity, cols])?)?, cols, room: 0 })
    }

    /// The first `n` rows.
    pub fn rows(&self, n: usize) -> Mat<'_, B, T> {
        self.buf.mat(n, self.cols + self.room).columns(0..self.cols)
    }

    /// The first `n` rows, to write.
    pub fn rows_mut(&mut self, n: usize) -> MatMut<'_, B, T> {
        let cols = self.cols;
        self.wide_mut(n).columns(0..cols)
    }

    /// The first `n` rows with the room behind them.
    pub fn wide_mut(&mut self, n: usize) -> MatMut<'_, B, T> {
        self.buf.mat_mut(n, self.cols + self.room)
    }

    /// The elements of the first `n` rows, room included.
    pub fn flat(&self, n: usize) -> View<'_, B, T> {
        self.buf.at(0..n * (self.cols + self.room))
    }

    /// The elements of the first `n` rows, room included, to write.
    pub fn flat_mut(&mut self, n: usize) -> ViewMut<'_, B, T> {
        self.buf.at_mut(0..n * (self.cols + self.room))
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.buf.len() * size_of::<T>()
    }
}

/// A buffer of this shape.
pub(super) fn zeros<B: Backend, T: Element>(backend: &B, shape: &[usize]) -> Result<Buf<B, T>> {
    Ok(backend.zeros(elements::<T>(shape)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use halfbyte::Cpu;

    #[test]
    fn a_size_that_overflows_is_an_error_that_names_it() {
        let size = 1 << 40;
        let error = Rows::<_, f32>::new(&Cpu::new(), size, size).err().unwrap().to_string();
        assert!(error.contains("[1099511627776, 1099511627776]"), "{error}");
        // 2^62 elements can be counted, their bytes cannot.
        assert!(Rows::<_, f32>::new(&Cpu::new(), 1 << 31, 1 << 31).is_err());
    }
}
