//! Sequences for which a GPU has kernels of its own: so long that the cases of both backends have none.

use crate::common::{
    cases::Pack,
    ops::attention::Gradient,
    setup::{Check, check},
    tensor::Layout,
};
use half::{bf16, f16};
use halfbyte::{Cuda, ops::Heads};

/// Groups of one and of three query heads are not shared by CTAs, and tiles of the last sequences are not whole. The last case
/// has a group of two, and so many empty sequences beside that two CTAs of a GPU of 132 multiprocessors share it.
fn attention_grad(backend: &Cuda) {
    let heads = |q, kv, dim| Heads { q, kv, dim };
    let pack = |heads, lengths: &[usize]| Pack { heads, lengths: lengths.to_vec(), layout: Layout::Slice };
    check::<Cuda, Gradient<Cuda, bf16>>(backend, &pack(heads(3, 1, 128), &[1536, 0, 65, 190]));
    check::<Cuda, Gradient<Cuda, f16>>(backend, &pack(heads(1, 1, 128), &[77, 1, 1601]));
    check::<Cuda, Gradient<Cuda, bf16>>(backend, &pack(heads(2, 2, 64), &[1663, 129]));
    check::<Cuda, Gradient<Cuda, bf16>>(backend, &pack(heads(2, 1, 64), &[vec![2050], vec![0; 60]].concat()));
}

pub fn checks() -> Vec<Check<Cuda>> {
    vec![("attention_grad", attention_grad)]
}
