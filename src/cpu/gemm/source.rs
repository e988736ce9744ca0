//! What matrix products read: anything that can give f32 pieces of its rows.

use crate::{
    buffer::{Mat, View},
    cpu::{
        device::Cpu,
        math,
        simd::{
            convert, decode,
            fixed::Limit,
            gemv::{self, Inputs, Order},
            vectorize,
        },
    },
    element::{DType, Float},
    ops::Dropout,
    quant::Weight4,
};
use std::{marker::PhantomData, ops::Range};

/// Columns of a row that are read at once where there is no kernel for its products.
const PIECE: usize = 1024;

/// A matrix that is read in pieces of rows.
pub(in crate::cpu) trait Source: Sync {
    /// Rows and columns.
    fn shape(&self) -> [usize; 2];
    /// Some columns of one row; `out` is as long as `cols`.
    fn read(&self, row: usize, cols: Range<usize>, out: &mut [f32]);
    /// Some columns of one row as words in fixed point. False, and nothing done, where these are made of what is read.
    fn read_fixed(&self, _row: usize, _cols: Range<usize>, _limit: Limit, _out: &mut [f32]) -> bool {
        false
    }
    /// Whether all elements are exact in bf16.
    fn exact(&self) -> bool;
    /// How [`dots`](Self::dots) reads vectors, which may be exact in bf16.
    fn order(&self, _exact: bool) -> Order {
        Order::Plain
    }
    /// `out[j, i] = x[i] · self[rows.start + j]`.
    fn dots(&self, rows: Range<usize>, x: &Inputs, out: &mut [f32]) {
        dots(self, rows, x, out);
    }
}

/// `out[j, i] = x[i] · weight[rows.start + j]`, piece by piece.
fn dots<S: Source + ?Sized>(weight: &S, rows: Range<usize>, x: &Inputs, out: &mut [f32]) {
    let mut piece = [0.0; PIECE];
    out.fill(0.0);
    for (row, out) in rows.zip(out.chunks_exact_mut(x.n)) {
        for start in (0..x.cols).step_by(PIECE) {
            let cols = start..x.cols.min(start + PIECE);
            let piece = &mut piece[..cols.len()];
            weight.read(row, cols.clone(), piece);
            for (out, x) in out.iter_mut().zip(x.wide().chunks_exact(x.stride)) {
                *out += math::dot(&x[cols.clone()], piece);
            }
        }
    }
}

/// A dense matrix, perhaps with dropout.
pub(in crate::cpu) struct Dense<'a, T: Float> {
    pub(in crate::cpu) mat: Mat<'a, Cpu, T>,
    pub(in crate::cpu) dropout: Option<Dropout>,
}

impl<'a, T: Float> Dense<'a, T> {
    /// A matrix as it is.
    pub(in crate::cpu) fn new(mat: Mat<'a, Cpu, T>) -> Self {
        Dense { mat, dropout: None }
    }

    /// A vector as a matrix of `rows` rows without gaps.
    pub(in crate::cpu) fn of(view: View<'a, Cpu, T>, rows: usize, cols: usize) -> Self {
        Dense::new(Mat::new(view, rows, cols))
    }
}

impl<T: Float> Source for Dense<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.mat.shape()
    }

    fn read(&self, row: usize, cols: Range<usize>, out: &mut [f32]) {
        let first = cols.start;
        vectorize(
            #[inline(always)]
            || convert::widen(&self.mat.row(row)[cols], out),
        );
        if let Some(dropout) = &self.dropout {
            drop_elements(dropout, row, first, out);
        }
    }

    fn exact(&self) -> bool {
        T::DTYPE == DType::Bf16 && self.dropout.is_none()
    }

    fn order(&self, exact: bool) -> Order {
        if self.dropout.is_some() { Order::Plain } else { gemv::order::<T>(exact) }
    }

    fn dots(&self, rows: Range<usize>, x: &Inputs, out: &mut [f32]) {
        if !gemv::dots(self.mat, rows.clone(), x, out) {
            dots(self, rows, x, out);
        }
    }
}

/// Zeroes the dropped ones of `x`, which is row `row` from column `first` on, and scales the others.
pub(in crate::cpu) fn drop_elements(dropout: &Dropout, row: usize, first: usize, x: &mut [f32]) {
    let scale = dropout.scale();
    let mut keep = [true; 8];
    for (i, x) in x.iter_mut().enumerate() {
        let col = first + i;
        if i == 0 || col.is_multiple_of(8) {
            keep = dropout.keep(row as u32, (col / 8) as u32);
        }
        *x = if keep[col % 8] { *x * scale } else { 0.0 };
    }
}

/// A 4-bit weight, decoded to `T`.
pub(in crate::cpu) struct Quantized<'a, T> {
    weight: Weight4<'a, Cpu>,
    sizes: [u8; 16],
    compute: PhantomData<fn() -> T>,
}

impl<'a, T: Float> Quantized<'a, T> {
    pub(in crate::cpu) fn new(weight: Weight4<'a, Cpu>) -> Self {
        Quantized { weight, sizes: decode::sizes(weight.format.codes()), compute: PhantomData }
    }
}

impl<T: Float> Source for Quantized<'_, T> {
    fn shape(&self) -> [usize; 2] {
        [self.weight.rows, self.weight.cols]
    }

    fn read(&self, row: usize, cols: Range<usize>, out: &mut [f32]) {
        decode::decode::<T>(&self.weight, row * self.weight.cols + cols.start, out);
    }

    fn read_fixed(&self, row: usize, cols: Range<usize>, limit: Limit, out: &mut [f32]) -> bool {
        let first = row * self.weight.cols + cols.start;
        limit == Limit::Sum && decode::decode_fixed::<T>(&self.weight, &self.sizes, first, cols.len(), out)
    }

    fn exact(&self) -> bool {
        T::DTYPE == DType::Bf16
    }

    fn order(&self, exact: bool) -> Order {
        gemv::order4::<T>(&self.weight, exact)
    }

    fn dots(&self, rows: Range<usize>, x: &Inputs, out: &mut [f32]) {
        if !gemv::dots4(&self.weight, rows.clone(), x, out) {
            dots(self, rows, x, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_depends_on_the_position_alone() {
        let dropout = Dropout { p: 0.25, seed: 3, stream: 1 << 33 };
        let mut row = vec![1.0; 4000];
        drop_elements(&dropout, 5, 0, &mut row);
        for first in [1, 2, 3, 4, 1023] {
            let mut piece = vec![1.0; 77];
            drop_elements(&dropout, 5, first, &mut piece);
            assert_eq!(piece, row[first..first + 77], "from column {first}");
        }
        for (col, x) in row.iter().enumerate() {
            let kept = dropout.keep(5, col as u32 / 8)[col % 8];
            assert_eq!(*x, if kept { dropout.scale() } else { 0.0 }, "column {col}");
        }
        // Six standard deviations of a binomial count.
        let kept = row.iter().filter(|x| **x > 0.0).count() as f64;
        assert!((kept - 3000.0).abs() <= 6.0 * (4000.0 * 0.25 * 0.75f64).sqrt(), "{kept}");
    }
}
