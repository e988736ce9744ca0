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
    now: Vec<T>,
    shape: [usize; 2],
    layout: Layout,
    margin: usize,
}

fn fence<T: Element>() -> T {
    bytemuck::pod_read_unaligned(&vec![0xff; size_of::<T>()])
}

fn bytes<T: Element>(value: &T) -> &[u8] {
    bytemuck::bytes_of(value)
}

impl<B: Backend, T: Element> Tensor<B, T> {
    pub fn new(backend: &B, shape: [usize; 2], layout: Layout, values: Vec<T>) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1]);
        let buf = backend.zeros(0).unwrap();
        let mut tensor = Tensor { buf, values, now: Vec::new(), shape, layout, margin: MARGIN };
        tensor.restore(backend);
        tensor
    }

    /// Memory without a fence, of which no copy is kept on the host: for benches.
    pub fn bare(buf: Buf<B, T>, shape: [usize; 2]) -> Self {
        assert_eq!(buf.len(), shape[0] * shape[1]);
        Tensor { buf, values: Vec::new(), now: Vec::new(), shape, layout: Layout::Packed, margin: 0 }
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
        self.margin + self.layout.gaps()[0]
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

    /// What it held when it was last fetched as an [`Output`].
    pub fn now(&self) -> &[T] {
        &self.now
    }

    pub fn mat(&self) -> Mat<'_, B, T> {
        let ([rows, cols], stride) = (self.shape, self.stride());
        let first = self.layout.gaps()[0];
        Mat::new(self.buf.at(self.margin..self.margin + rows * stride), rows, stride).columns(first..first + cols)
    }

    pub fn mat_mut(&mut self) -> MatMut<'_, B, T> {
        let ([rows, cols], stride) = (self.shape, self.stride());
        let first = self.layout.gaps()[0];
        let all = self.margin..self.margin + rows * stride;
        MatMut::new(self.buf.at_mut(all), rows, stride).columns(first..first + cols)
    }

    /// The only row, or all rows of a packed matrix.
    pub fn view(&self) -> View<'_, B, T> {
        assert!(self.shape[0] == 1 || self.layout == Layout::Packed);
        self.buf.at(self.start()..self.start() + self.shape[0] * self.shape[1])
    }

    /// As [`Tensor::view`].
    pub fn view_mut(&mut self) -> ViewMut<'_, B, T> {
        assert!(self.shape[0] == 1 || self.layout == Layout::Packed);
        let (start, len) = (self.start(), self.shape[0] * self.shape[1]);
        self.buf.at_mut(start..start + len)
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

    /// What it held when it was last fetched.
    pub fn floats(&self) -> Vec<f32> {
        self.now.iter().map(|v| v.to_f32()).collect()
    }

    /// The same, exactly.
    pub fn now_f64(&self) -> Vec<f64> {
        self.now.iter().map(|v| f64::from(v.to_f32())).collect()
    }

    /// What was added to it since.
    pub fn gained(&self) -> Vec<f32> {
        self.now.iter().zip(&self.values).map(|(now, before)| now.to_f32() - before.to_f32()).collect()
    }

    /// All it held at first.
    pub fn to_f64(&self) -> Vec<f64> {
        self.values.iter().map(|v| f64::from(v.to_f32())).collect()
    }
}

/// What an op writes to.
pub trait Output<B: Backend> {
    /// Reads it, as [`Tensor::read`], for [`Tensor::now`].
    fn fetch(&mut self, backend: &B, name: &str);

    /// The bytes that were fetched.
    fn bytes(&self) -> &[u8];

    /// Puts back what it held at first, in fresh memory.
    fn restore(&mut self, backend: &B);
}

impl<B: Backend, T: Element> Output<B> for Tensor<B, T> {
    fn fetch(&mut self, backend: &B, name: &str) {
        self.now = self.read(backend, name);
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.now)
    }

    fn restore(&mut self, backend: &B) {
        let mut host = vec![fence(); self.start() + self.shape[0] * self.stride() + self.margin];
        for (i, value) in self.values.iter().enumerate() {
            host[self.position(i)] = *value;
        }
        self.buf = backend.upload(&host).unwrap();
    }
}
