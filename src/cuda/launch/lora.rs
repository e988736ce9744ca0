use super::Cuda;
use crate::{Float, Result, ops::{Lora, LoraGrad}};

pub(in crate::cuda) fn lora<T: Float>(_cuda: &Cuda, _op: Lora<'_, Cuda, T>) -> Result<()> {
    todo!()
}

pub(in crate::cuda) fn lora_grad<T: Float>(_cuda: &Cuda, _op: LoraGrad<'_, Cuda, T>) -> Result<()> {
    todo!()
}
