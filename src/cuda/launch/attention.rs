use super::Cuda;
use crate::{Float, Result, ops::{Attention, AttentionGrad}};

pub(in crate::cuda) fn attention<T: Float>(_cuda: &Cuda, _op: Attention<'_, Cuda, T>) -> Result<()> {
    todo!()
}

pub(in crate::cuda) fn attention_grad<T: Float>(_cuda: &Cuda, _op: AttentionGrad<'_, Cuda, T>) -> Result<()> {
    todo!()
}
