use super::Cuda;
use crate::{Float, Result, ops::{CacheAppend, DecodeAttention}};

pub(in crate::cuda) fn cache_append<T: Float>(_cuda: &Cuda, _op: CacheAppend<'_, Cuda, T>) -> Result<()> {
    todo!()
}

pub(in crate::cuda) fn decode_attention<T: Float>(_cuda: &Cuda, _op: DecodeAttention<'_, Cuda, T>) -> Result<()> {
    todo!()
}
