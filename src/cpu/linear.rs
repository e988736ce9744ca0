use crate::{Cpu, Float, ops::{Linear, LinearGrad, WeightGrad}};

pub(super) fn linear<T: Float, O: Float>(_op: Linear<'_, Cpu, T, O>) {
    todo!()
}

pub(super) fn linear_grad<T: Float>(_op: LinearGrad<'_, Cpu, T>) {
    todo!()
}

pub(super) fn weight_grad<T: Float>(_op: WeightGrad<'_, Cpu, T>) {
    todo!()
}
