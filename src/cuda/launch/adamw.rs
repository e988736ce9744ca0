use super::Cuda;
use crate::{Float, Result, ops::{AdamW}};

pub(in crate::cuda) fn adamw<T: Float>(_cuda: &Cuda, _op: AdamW<'_, Cuda, T>) -> Result<()> {
    todo!()
}
