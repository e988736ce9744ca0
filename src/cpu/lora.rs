use crate::{Cpu, Float, ops::{Lora, LoraGrad}};

pub(super) fn lora<T: Float>(_op: Lora<'_, Cpu, T>) {
    todo!()
}

pub(super) fn lora_grad<T: Float>(_op: LoraGrad<'_, Cpu, T>) {
    todo!()
}
