use crate::{Cpu, Float, ops::{AdamW}};

pub(super) fn adamw<T: Float>(_op: AdamW<'_, Cpu, T>) {
    todo!()
}
