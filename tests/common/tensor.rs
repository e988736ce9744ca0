//! Memory of a backend with a fence around it.

use halfbyte::{Backend, Buf, Element, Float, Mat, MatMut, View, ViewMut};

/// Elements before and after everything.
const MARGIN: usize = 64;

/// How a matrix lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Without gaps.
    Packed,
    /// Columns of a wider matrix, rows 16 bytes apart from another's.
    Slice,
    /// Columns of a wider matrix whose rows begin anywhere.
    Odd,
}

pub const LAYOUTS: [Layout; 3] = [Layout::Packed, Layout::Slice, Layout::Odd];

impl Layout {
    /// Columns before, columns after.
    fn gaps(self) -> [usize; 2] {
        match self {
            Layout::Packed => [0, 0],
            Layout::Slice => [8, 24],
            Layout::Odd => [1, 2],
        }
    }
}

/// A matrix inside memory whose every other byte is 0xff: NaN as a float, too large as an index. A kernel that reads
/// outside spreads NaN; one that writes outside is found by [`Tensor::read`].
pub struct Tensor<B: Backend, T: Element> {
    buf: Buf<B, T>,
    values: Vec<T>,
    shape: [usize; 2],
    layout: Layout,
}

fn fence<T: Element>() -> T {
    bytemuck::pod_read_unaligned(&vec![0xff; size_of::<T>()])
}

fn bytes<T: Element>(value: &T) -> &[u8] {
    bytemuck::bytes_of(value)
}

impl<B: Backend, T: Element> Tensor<B, T> {
    pub fn new(backend: &B, shape: [usize; 2], layout: Layout, values: Vec<T>) -> Self {
        let [rows, cols] = shape;
        assert_eq!(values.len(), rows * cols);
        let mut tensor = Tensor { buf: backend.zeros(0).unwrap(), values, shape, layout };
        let mut host = vec![fence(); tensor.start() + rows * tensor.stride() + MARGIN];
        for (i, value) in tensor.values.iter().enumerate() {
            host[tensor.position(i)] = *value;
        }
        tensor.buf = backend.upload(&host).unwrap();
        tensor
    }

    /// An output that must be overwritten: NaN.
    pub fn poisoned(backend: &B, shape: [usize; 2], layout: Layout) -> Self {
        Self::new(backend, shape, layout, vec![fence(); shape[0] * shape[1]])
    }

    /// One row.
    pub fn flat(backend: &B, layout: Layout, values: Vec<T>) -> Self {
        Self::new(backend, [1, values.len()], layout, values)
    }

    pub fn poisoned_flat(backend: &B, len: usize, layout: Layout) -> Self {
        Self::poisoned(backend, [1, len], layout)
    }

    fn start(&self) -> usize {
        MARGIN + self.layout.gaps()[0]
    }

    fn stride(&self) -> usize {
        self.shape[1] + self.layout.gaps().iter().sum::<usize>()
    }

    fn position(&self, i: usize) -> usize {
        self.start() + i / self.shape[1] * self.stride() + i % self.shape[1]
    }

    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// What it held at first.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    pub fn mat(&self) -> Mat<'_, B, T> {
        let ([rows, cols], stride) = (self.shape, self.stride());
        let first = self.layout.gaps()[0];
        Mat::new(self.buf.at(MARGIN..MARGIN + rows * stride), rows, stride).columns(first..first + cols)
    }

    pub fn mat_mut(&mut self) -> MatMut<'_, B, T> {
        let ([rows, cols], stride) = (self.shape, self.stride());
        let first = self.layout.gaps()[0];
        MatMut::new(self.buf.at_mut(MARGIN..MARGIN + rows * stride), rows, stride).columns(first..first + cols)
    }

    /// The only row, or all rows of a packed matrix.
    pub fn view(&self) -> View<'_, B, T> {
        assert!(self.shape[0] == 1 || self.layout == Layout::Packed);
        self.buf.at(self.start()..self.start() + self.values.len())
    }

    /// As [`Tensor::view`].
    pub fn view_mut(&mut self) -> ViewMut<'_, B, T> {
        assert!(self.shape[0] == 1 || self.layout == Layout::Packed);
        let start = self.start();
        self.buf.at_mut(start..start + self.values.len())
    }

    /// What it holds now, row by row. Fails when something outside it was written.
    pub fn read(&self, backend: &B, name: &str) -> Vec<T> {
        let host = self.buf.to_vec(backend).unwrap();
        let mut inside = vec![false; host.len()];
        (0..self.values.len()).for_each(|i| inside[self.position(i)] = true);
        for (at, (value, inside)) in host.iter().zip(&inside).enumerate() {
            let kept = *inside || bytes(value).iter().all(|&b| b == 0xff);
            assert!(kept, "{name}: {value:?} was written at {at} of the memory around it (starts at {})", self.start());
        }
        (0..self.values.len()).map(|i| host[self.position(i)]).collect()
    }
}

impl<B: Backend, T: Float> Tensor<B, T> {
    /// Rounded to `T`.
    pub fn of(backend: &B, shape: [usize; 2], layout: Layout, values: &[f32]) -> Self {
        Self::new(backend, shape, layout, values.iter().map(|&v| T::from_f32(v)).collect())
    }

    /// Element (`row`, `col`) of what it held at first.
    pub fn at(&self, row: usize, col: usize) -> f64 {
        f64::from(self.values[row * self.shape[1] + col].to_f32())
    }

    /// All it held at first.
    pub fn to_f64(&self) -> Vec<f64> {
        self.values.iter().map(|v| f64::from(v.to_f32())).collect()
    }
}

/// Outputs of one run, to compare two runs to the bit.
pub trait Bits {
    fn bits(&self) -> Vec<&[u8]>;
}

impl<T: Element> Bits for Vec<T> {
    fn bits(&self) -> Vec<&[u8]> {
        vec![bytemuck::cast_slice(self)]
    }
}

macro_rules! bits_of_tuples {
    ($($name:ident: $t:ident),*) => {
        impl<$($t: Bits),*> Bits for ($($t,)*) {
            fn bits(&self) -> Vec<&[u8]> {
                let ($($name,)*) = self;
                [$($name.bits()),*].concat()
            }
        }
    };
}

bits_of_tuples!(a: A, b: B);
bits_of_tuples!(a: A, b: B, c: C);
bits_of_tuples!(a: A, b: B, c: C, d: D);

/// Runs twice on fresh memory; both must give the same bits.
pub fn twice<R: Bits>(name: &str, mut run: impl FnMut() -> R) -> R {
    let (first, second) = (run(), run());
    assert!(first.bits() == second.bits(), "{name}: two runs differ");
    first
}
