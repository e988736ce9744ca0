use super::Cuda;
use crate::{Float, Result, ops::{QkNormRope, QkNormRopeGrad}};

pub(in crate::cuda) fn qk_norm_rope<T: Float>(_cuda: &Cuda, _op: QkNormRope<'_, Cuda, T>) -> Result<()> {
    todo!()
}

pub(in crate::cuda) fn qk_norm_rope_grad<T: Float>(_cuda: &Cuda, _op: QkNormRopeGrad<'_, Cuda, T>) -> Result<()> {
    todo!()
}
