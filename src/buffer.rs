use crate::{Backend, Element, Result};
use std::ops::Range;

/// How a backend cuts windows out of its memory. Ranges are in elements and have been checked.
pub trait Storage {
    /// Owned memory.
    type Memory<T: Element>: Send + Sync;
    /// A read-only window.
    type Slice<'a, T: Element>: Copy + Send + Sync;
    /// A window to write through.
    type SliceMut<'a, T: Element>: Send + Sync;

    /// Elements of `memory`.
    fn memory_len<T: Element>(memory: &Self::Memory<T>) -> usize;
    /// All of `memory`.
    fn slice<T: Element>(memory: &Self::Memory<T>) -> Self::Slice<'_, T>;
    /// All of `memory`, to write.
    fn slice_mut<T: Element>(memory: &mut Self::Memory<T>) -> Self::SliceMut<'_, T>;
    /// Elements of `slice`.
    fn len<T: Element>(slice: &Self::Slice<'_, T>) -> usize;
    /// Elements of `slice`.
    fn len_mut<T: Element>(slice: &Self::SliceMut<'_, T>) -> usize;
    /// A part of `slice`.
    fn part<'a: 'a, T: Element>(slice: Self::Slice<'a, T>, range: Range<usize>) -> Self::Slice<'a, T>;
    /// `slice` in two.
    fn split<'a: 'a, T: Element>(
        slice: Self::SliceMut<'a, T>,
        mid: usize,
    ) -> (Self::SliceMut<'a, T>, Self::SliceMut<'a, T>);
    /// A shorter-lived copy of `slice`.
    fn reborrow<'a, T: Element>(slice: &'a mut Self::SliceMut<'_, T>) -> Self::SliceMut<'a, T>;
    /// `slice`, to read.
    fn freeze<'a, T: Element>(slice: &'a Self::SliceMut<'_, T>) -> Self::Slice<'a, T>;
}

/// Memory of a backend that holds `T`s.
pub struct Buf<B: Backend, T: Element>(pub(crate) B::Memory<T>);

impl<B: Backend, T: Element> Buf<B, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        B::memory_len(&self.0)
    }

    /// No elements at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it.
    pub fn view(&self) -> View<'_, B, T> {
        View(B::slice(&self.0))
    }

    /// A part of it. Panics when `range` is outside.
    pub fn at(&self, range: Range<usize>) -> View<'_, B, T> {
        self.view().at(range)
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, B, T> {
        ViewMut(B::slice_mut(&mut self.0))
    }

    /// A part of it, to write. Panics when `range` is outside.
    pub fn at_mut(&mut self, range: Range<usize>) -> ViewMut<'_, B, T> {
        self.view_mut().into_at(range)
    }

    /// A copy on the host; waits for everything that was launched before.
    pub fn to_vec(&self, backend: &B) -> Result<Vec<T>> {
        backend.download(self.view())
    }

    /// The first `rows * cols` elements as a row-major matrix.
    pub fn mat(&self, rows: usize, cols: usize) -> Mat<'_, B, T> {
        Mat::new(self.at(0..rows * cols), rows, cols)
    }

    /// The first `rows * cols` elements as a row-major matrix, to write.
    pub fn mat_mut(&mut self, rows: usize, cols: usize) -> MatMut<'_, B, T> {
        MatMut::new(self.at_mut(0..rows * cols), rows, cols)
    }
}

/// A read-only window on a [`Buf`].
pub struct View<'a, B: Backend, T: Element>(pub(crate) B::Slice<'a, T>);

impl<B: Backend, T: Element> Clone for View<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend, T: Element> Copy for View<'_, B, T> {}

impl<'a, B: Backend, T: Element> View<'a, B, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        B::len(&self.0)
    }

    /// No elements at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A part of it. Panics when `range` is outside.
    pub fn at(self, range: Range<usize>) -> Self {
        let len = self.len();
        assert!(range.start <= range.end && range.end <= len, "{range:?} of a view of {len} elements");
        View(B::part(self.0, range))
    }
}

/// A window on a [`Buf`] to write through.
pub struct ViewMut<'a, B: Backend, T: Element>(pub(crate) B::SliceMut<'a, T>);

impl<'a, B: Backend, T: Element> ViewMut<'a, B, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        B::len_mut(&self.0)
    }

    /// No elements at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `[0, mid)` and `[mid, len)`. Panics when `mid` is outside.
    pub fn split(self, mid: usize) -> (Self, Self) {
        let len = self.len();
        assert!(mid <= len, "{mid} of a view of {len} elements");
        let (a, b) = B::split(self.0, mid);
        (ViewMut(a), ViewMut(b))
    }

    /// A part of it. Panics when `range` is outside.
    pub fn into_at(self, range: Range<usize>) -> Self {
        let len = self.len();
        assert!(range.start <= range.end && range.end <= len, "{range:?} of a view of {len} elements");
        self.split(range.start).1.split(range.end - range.start).0
    }

    /// A part of it, for a while. Panics when `range` is outside.
    pub fn at_mut(&mut self, range: Range<usize>) -> ViewMut<'_, B, T> {
        self.reborrow().into_at(range)
    }

    /// The same window, for a while.
    pub fn reborrow(&mut self) -> ViewMut<'_, B, T> {
        ViewMut(B::reborrow(&mut self.0))
    }

    /// The same window, to read.
    pub fn view(&self) -> View<'_, B, T> {
        View(B::freeze(&self.0))
    }
}

/// A row-major matrix: row `i` is elements `i * stride .. i * stride + cols` of the view.
pub struct Mat<'a, B: Backend, T: Element> {
    pub(crate) view: View<'a, B, T>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
}

impl<B: Backend, T: Element> Clone for Mat<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend, T: Element> Copy for Mat<'_, B, T> {}

/// Elements from the first to the last of a matrix.
pub(crate) fn span(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * stride + cols }
}

impl<'a, B: Backend, T: Element> Mat<'a, B, T> {
    /// `view` as `rows` rows without gaps. Panics when it has not `rows * cols` elements.
    pub fn new(view: View<'a, B, T>, rows: usize, cols: usize) -> Self {
        assert_eq!(view.len(), rows * cols, "a view for {rows} x {cols}");
        Mat { view, rows, cols, stride: cols }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Some columns of every row. Panics when `range` is outside.
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.cols, "columns {range:?} of {}", self.cols);
        let cols = range.end - range.start;
        let start = if self.rows == 0 { 0 } else { range.start };
        let view = self.view.at(start..start + span(self.rows, cols, self.stride));
        Mat { view, rows: self.rows, cols, stride: self.stride }
    }

    /// Some rows. Panics when `range` is outside.
    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let rows = range.end - range.start;
        let start = if rows == 0 { 0 } else { range.start * self.stride };
        let view = self.view.at(start..start + span(rows, self.cols, self.stride));
        Mat { view, rows, cols: self.cols, stride: self.stride }
    }
}

/// A row-major matrix to write: row `i` is elements `i * stride .. i * stride + cols` of the view.
pub struct MatMut<'a, B: Backend, T: Element> {
    pub(crate) view: ViewMut<'a, B, T>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
}

impl<'a, B: Backend, T: Element> MatMut<'a, B, T> {
    /// `view` as `rows` rows without gaps. Panics when it has not `rows * cols` elements.
    pub fn new(view: ViewMut<'a, B, T>, rows: usize, cols: usize) -> Self {
        assert_eq!(view.len(), rows * cols, "a view for {rows} x {cols}");
        MatMut { view, rows, cols, stride: cols }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Some columns of every row. Panics when `range` is outside.
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.cols, "columns {range:?} of {}", self.cols);
        let cols = range.end - range.start;
        let start = if self.rows == 0 { 0 } else { range.start };
        let view = self.view.into_at(start..start + span(self.rows, cols, self.stride));
        MatMut { view, rows: self.rows, cols, stride: self.stride }
    }

    /// Some rows. Panics when `range` is outside.
    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let rows = range.end - range.start;
        let start = if rows == 0 { 0 } else { range.start * self.stride };
        let view = self.view.into_at(start..start + span(rows, self.cols, self.stride));
        MatMut { view, rows, cols: self.cols, stride: self.stride }
    }

    /// The same matrix, for a while.
    pub fn reborrow(&mut self) -> MatMut<'_, B, T> {
        MatMut { view: self.view.reborrow(), rows: self.rows, cols: self.cols, stride: self.stride }
    }

    /// From its first to its last element, gaps included.
    pub fn into_view(self) -> ViewMut<'a, B, T> {
        self.view
    }

    /// The same matrix, to read.
    pub fn mat(&self) -> Mat<'_, B, T> {
        Mat { view: self.view.view(), rows: self.rows, cols: self.cols, stride: self.stride }
    }
}
