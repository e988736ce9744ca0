use super::{
    linear::{backward, forward},
    source::{Coded, Dense},
};
use crate::{
    Cpu, Float,
    ops::{Linear4, Linear4Grad},
};

pub(super) fn linear4<T: Float, O: Float>(op: Linear4<'_, Cpu, T, O>) {
    let Linear4 { x, weight, out, accumulate } = op;
    forward(Dense::new(x), Coded::<T>::new(weight), out, accumulate);
}

pub(super) fn linear4_grad<T: Float>(op: Linear4Grad<'_, Cpu, T>) {
    let Linear4Grad { d_out, weight, d_x, accumulate } = op;
    backward(Dense::new(d_out), Coded::<T>::new(weight), d_x, accumulate);
}
