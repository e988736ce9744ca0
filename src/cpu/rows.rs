use crate::{Cpu, Float, ops::{GatherRows, ScatterRows}};

pub(super) fn gather_rows<T: Float>(_op: GatherRows<'_, Cpu, T>) {
    todo!()
}

pub(super) fn scatter_rows<T: Float>(_op: ScatterRows<'_, Cpu, T>) {
    todo!()
}
