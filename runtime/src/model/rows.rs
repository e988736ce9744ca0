//! Buffers that know their shape.

use crate::{Error, Result};
use halfbyte::{Backend, Buf, Element, Mat, MatMut, View, ViewMut};

/// A buffer `[capacity, cols]` with a row for each token (or sequence); as many rows as are in hand are in use.
pub(super) struct Rows<B: Backend, T: Element> {
    buf: Buf<B, T>,
    cols: usize,
}

impl<B: Backend, T: Element> Rows<B, T> {
    /// Zeros.
    pub fn new(backend: &B, capacity: usize, cols: usize) -> Result<Self> {
        Ok(Rows { buf: zeros(backend, &[capacity, cols])?, cols })
    }

    /// The first `n` rows.
    pub fn rows(&self, n: usize) -> Mat<'_, B, T> {
        self.buf.mat(n, self.cols)
    }

    /// The first `n` rows, to write.
    pub fn rows_mut(&mut self, n: usize) -> MatMut<'_, B, T> {
        self.buf.mat_mut(n, self.cols)
    }

    /// The elements of the first `n` rows.
    pub fn flat(&self, n: usize) -> View<'_, B, T> {
        self.buf.at(0..n * self.cols)
    }

    /// The elements of the first `n` rows, to write.
    pub fn flat_mut(&mut self, n: usize) -> ViewMut<'_, B, T> {
        self.buf.at_mut(0..n * self.cols)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.buf.len() * size_of::<T>()
    }
}

/// A buffer of this shape, the one place where sizes are multiplied before memory is asked for.
pub(super) fn zeros<B: Backend, T: Element>(backend: &B, shape: &[usize]) -> Result<Buf<B, T>> {
    let bytes = shape.iter().try_fold(size_of::<T>(), |bytes, &size| bytes.checked_mul(size));
    match bytes {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(backend.zeros(bytes / size_of::<T>())?),
        _ => {
            let want = format!("{} bytes each are more than memory can hold; ask for fewer tokens", size_of::<T>());
            Err(Error::setting("the shape of a buffer", format!("{shape:?}"), want))
        }
    }
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
