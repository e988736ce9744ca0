use super::Cuda;
use crate::{Float, Result, ops::{GatherRows, ScatterRows}};

pub(in crate::cuda) fn gather_rows<T: Float>(_cuda: &Cuda, _op: GatherRows<'_, Cuda, T>) -> Result<()> {
    todo!()
}

pub(in crate::cuda) fn scatter_rows<T: Float>(_cuda: &Cuda, _op: ScatterRows<'_, Cuda, T>) -> Result<()> {
    todo!()
}
