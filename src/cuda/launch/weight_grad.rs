use super::Cuda;
use crate::{Float, Result, ops::WeightGrad};

pub(in crate::cuda) fn weight_grad<T: Float>(_cuda: &Cuda, _op: WeightGrad<'_, Cuda, T>) -> Result<()> {
    todo!()
}
