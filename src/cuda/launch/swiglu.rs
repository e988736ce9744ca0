use super::Cuda;
use crate::{Float, Result, ops::{Swiglu, SwigluGrad}};

pub(in crate::cuda) fn swiglu<T: Float>(_cuda: &Cuda, _op: Swiglu<'_, Cuda, T>) -> Result<()> {
    todo!()
}

pub(in crate::cuda) fn swiglu_grad<T: Float>(_cuda: &Cuda, _op: SwigluGrad<'_, Cuda, T>) -> Result<()> {
    todo!()
}
