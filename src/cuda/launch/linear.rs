use super::Cuda;
use crate::{Float, Result, ops::{Linear, LinearGrad}};

pub(in crate::cuda) fn linear<T: Float, O: Float>(_cuda: &Cuda, _op: Linear<'_, Cuda, T, O>) -> Result<()> {
    todo!()
}

pub(in crate::cuda) fn linear_grad<T: Float>(_cuda: &Cuda, _op: LinearGrad<'_, Cuda, T>) -> Result<()> {
    todo!()
}
