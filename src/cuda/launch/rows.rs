use super::dim;
use crate::{
    cuda::{
        device::Cuda,
        kernel::{Kernel, LaunchConfig},
        params::{ROWS_THREADS, RowsParams},
    },
    element::Float,
    error::Result,
    ops::{GatherRows, ScatterRows},
};

const GATHER_ROWS: Kernel<RowsParams> = Kernel::new("rows", "gather_rows");
const SCATTER_ROWS: Kernel<RowsParams> = Kernel::new("rows", "scatter_rows");

pub(in crate::cuda) fn gather_rows<T: Float>(cuda: &Cuda, mut op: GatherRows<'_, Cuda, T>) -> Result<()> {
    let [n_table, d] = op.table.shape();
    let n = dim(op.rows.len());
    let params = RowsParams {
        x: op.table.matrix(),
        rows: op.rows.ptr() as _,
        out: op.out.matrix(),
        n,
        n_table: dim(n_table),
        d: dim(d),
    };
    // SAFETY: `GatherRows::verify` checked the shapes; the kernel takes the last row for numbers outside the table.
    unsafe { cuda.launch(&GATHER_ROWS, T::DTYPE.suffix(), params, LaunchConfig::new(n, ROWS_THREADS)) }
}

pub(in crate::cuda) fn scatter_rows<T: Float>(cuda: &Cuda, mut op: ScatterRows<'_, Cuda, T>) -> Result<()> {
    let [n, d] = op.x.shape();
    let params = RowsParams {
        x: op.x.matrix(),
        rows: op.rows.ptr() as _,
        out: op.out.matrix(),
        n: dim(n),
        n_table: dim(op.out.shape()[0]),
        d: dim(d),
    };
    // SAFETY: `ScatterRows::verify` checked the shapes; the kernel drops row numbers outside the output.
    unsafe { cuda.launch(&SCATTER_ROWS, T::DTYPE.suffix(), params, LaunchConfig::new(dim(n), ROWS_THREADS)) }
}
