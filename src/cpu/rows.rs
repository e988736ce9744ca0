use super::{device::Cpu, par};
use crate::{
    element::Float,
    ops::{GatherRows, ScatterRows},
};
use rayon::prelude::*;

pub(super) fn gather_rows<T: Float>(op: GatherRows<'_, Cpu, T>) {
    let GatherRows { table, rows, out } = op;
    let last = table.rows - 1;
    let grain = par::grain(table.cols);
    par::each(par::rows_mut(out).zip(rows.slice()).with_min_len(grain), |(out, &row)| {
        out.copy_from_slice(table.row((row as usize).min(last)));
    });
}

pub(super) fn scatter_rows<T: Float>(op: ScatterRows<'_, Cpu, T>) {
    let ScatterRows { x, rows, out } = op;
    let (n, stride, cols) = (out.rows, out.stride, out.cols);
    let out = out.view.into_slice();
    for (i, row) in rows.slice().iter().map(|&row| row as usize).enumerate().filter(|(_, row)| *row < n) {
        out[row * stride..][..cols].copy_from_slice(x.row(i));
    }
}
