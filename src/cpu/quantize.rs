use crate::{Cpu, Float, ops::{NestAbsmax, Quantize}};

pub(super) fn quantize<T: Float>(_op: Quantize<'_, Cpu, T>) {
    todo!()
}

pub(super) fn nest_absmax(_op: NestAbsmax<'_, Cpu>) {
    todo!()
}
