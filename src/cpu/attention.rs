use crate::{Cpu, Float, ops::{Attention, AttentionGrad}};

pub(super) fn attention<T: Float>(_op: Attention<'_, Cpu, T>) {
    todo!()
}

pub(super) fn attention_grad<T: Float>(_op: AttentionGrad<'_, Cpu, T>) {
    todo!()
}
