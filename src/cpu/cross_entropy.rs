use super::{
    device::Cpu,
    math, par,
    simd::{convert, vectorize},
};
use crate::{element::Float, ops::CrossEntropy};
use rayon::prelude::*;

pub(super) fn cross_entropy<T: Float>(op: CrossEntropy<'_, Cpu, T>) {
    let CrossEntropy { logits, labels, losses, grad_scale } = op;
    let vocab = logits.cols;
    let rows = par::rows_mut(logits)
        .zip(labels.slice())
        .zip(losses.into_slice().par_iter_mut())
        .with_min_len(par::grain(vocab));
    par::each_with(
        rows,
        || vec![0.0; vocab],
        |x, ((logits, &label), loss)| {
            let label = label as usize;
            *loss = 0.0;
            if label >= vocab {
                if grad_scale.is_some() {
                    logits.fill(T::default());
                }
                return;
            }
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(logits, x);
                    let (max, target) = (math::max(x), x[label]);
                    x.iter_mut().for_each(|x| *x = math::exp(*x - max));
                    let sum = math::sum(x);
                    *loss = sum.ln() + (max - target);
                    if let Some(scale) = grad_scale {
                        let share = 1.0 / sum;
                        x.iter_mut().for_each(|x| *x *= share);
                        x[label] -= 1.0;
                        x.iter_mut().for_each(|x| *x *= scale);
                        convert::narrow(x, logits);
                    }
                },
            );
        },
    );
}
