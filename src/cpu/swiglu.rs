use crate::{Cpu, Float, ops::{Swiglu, SwigluGrad}};

pub(super) fn swiglu<T: Float>(_op: Swiglu<'_, Cpu, T>) {
    todo!()
}

pub(super) fn swiglu_grad<T: Float>(_op: SwigluGrad<'_, Cpu, T>) {
    todo!()
}
