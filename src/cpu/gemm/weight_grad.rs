use super::{blocked, epilogue::store, operand::ByColumn, source::Dense};
use crate::{buffer::MatMut, cpu::device::Cpu, element::Float, ops::WeightGrad};

pub(in crate::cpu) fn weight_grad<T: Float>(op: WeightGrad<'_, Cpu, T>) {
    let WeightGrad { x, d_out, d_weight } = op;
    let d_weight = MatMut::new(d_weight, d_out.cols, x.cols);
    let (d_out, x) = (ByColumn(Dense::new(d_out)), ByColumn(Dense::new(x)));
    blocked::multiply(
        &d_out,
        &x,
        d_weight,
        #[inline(always)]
        |_, _, sums, out| store(true, 1.0, sums, out),
    );
}
