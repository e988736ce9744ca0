use super::Cuda;
use crate::{Float, Result, ops::{Linear4, Linear4Grad}};

pub(in crate::cuda) fn linear4<T: Float, O: Float>(_cuda: &Cuda, _op: Linear4<'_, Cuda, T, O>) -> Result<()> {
    todo!()
}

pub(in crate::cuda) fn linear4_grad<T: Float>(_cuda: &Cuda, _op: Linear4Grad<'_, Cuda, T>) -> Result<()> {
    todo!()
}
