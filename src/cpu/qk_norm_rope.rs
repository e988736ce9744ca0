use crate::{Cpu, Float, ops::{QkNormRope, QkNormRopeGrad}};

pub(super) fn qk_norm_rope<T: Float>(_op: QkNormRope<'_, Cpu, T>) {
    todo!()
}

pub(super) fn qk_norm_rope_grad<T: Float>(_op: QkNormRopeGrad<'_, Cpu, T>) {
    todo!()
}
