//! Windows with rows and columns.

use super::{Storage, View, ViewMut};
use crate::element::Element;
use std::ops::Range;

/// A row-major matrix: row `i` is elements `i * stride .. i * stride + cols` of the view.
pub struct Mat<'a, B: Storage, T: Element> {
    pub(crate) view: View<'a, B, T>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
}

impl<B: Storage, T: Element> Clone for Mat<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Storage, T: Element> Copy for Mat<'_, B, T> {}

/// Elements of a matrix without gaps. Panics when there are more than can be counted.
pub(super) fn area(rows: usize, cols: usize) -> usize {
    rows.checked_mul(cols).unwrap_or_else(|| panic!("a matrix of {rows} x {cols} is larger than memory"))
}

fn assert_strided(len: usize, [rows, cols, stride]: [usize; 3]) {
    assert!(stride >= cols, "rows of {cols} elements, {stride} apart");
    let whole = rows.saturating_sub(1).checked_mul(stride).and_then(|before| before.checked_add(cols));
    let want = if rows == 0 { Some(0) } else { whole };
    assert_eq!(Some(len), want, "a view for {rows} rows of {cols}, {stride} apart");
}

/// Elements from the first to the last of a matrix that lies in memory.
fn span(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * stride + cols }
}

impl<'a, B: Storage, T: Element> Mat<'a, B, T> {
    /// `view` as `rows` rows without gaps. Panics when it has not `rows * cols` elements.
    pub fn new(view: View<'a, B, T>, rows: usize, cols: usize) -> Self {
        assert_eq!(view.len(), area(rows, cols), "a view for {rows} x {cols}");
        Mat { view, rows, cols, stride: cols }
    }

    /// `view` as `rows` rows that begin `stride` elements apart. Panics when rows overlap, or the view does not end where
    /// the last row does.
    pub fn with_stride(view: View<'a, B, T>, rows: usize, cols: usize, stride: usize) -> Self {
        assert_strided(view.len(), [rows, cols, stride]);
        Mat { view, rows, cols, stride }
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
pub struct MatMut<'a, B: Storage, T: Element> {
    pub(crate) view: ViewMut<'a, B, T>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
}

impl<'a, B: Storage, T: Element> MatMut<'a, B, T> {
    /// `view` as `rows` rows without gaps. Panics when it has not `rows * cols` elements.
    pub fn new(view: ViewMut<'a, B, T>, rows: usize, cols: usize) -> Self {
        assert_eq!(view.len(), area(rows, cols), "a view for {rows} x {cols}");
        MatMut { view, rows, cols, stride: cols }
    }

    /// `view` as `rows` rows that begin `stride` elements apart. Panics when rows overlap, or the view does not end where
    /// the last row does.
    pub fn with_stride(view: ViewMut<'a, B, T>, rows: usize, cols: usize, stride: usize) -> Self {
        assert_strided(view.len(), [rows, cols, stride]);
        MatMut { view, rows, cols, stride }
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
