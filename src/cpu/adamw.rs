use super::{
    device::Cpu,
    par,
    simd::{convert, vectorize},
};
use crate::{
    element::Float,
    ops::{AdamW, Clip},
};
use rayon::prelude::*;

/// Elements that one task updates.
const CHUNK: usize = 4096;

/// What gradients are multiplied by; none where the step is halted.
fn grad_scale(clip: Clip<'_, Cpu>) -> Option<f32> {
    let Clip { norm, loss, max_norm, loss_scale, halted } = clip;
    let (norm, loss, halted) = (norm.slice()[0], loss.slice()[0], &mut halted.into_slice()[0]);
    if *halted != 0 || !norm.is_finite() || !loss.is_finite() {
        *halted = 1;
        return None;
    }
    let clip = if max_norm > 0.0 { (max_norm / (norm / loss_scale + 1e-6)).min(1.0) } else { 1.0 };
    Some(clip / loss_scale)
}

pub(super) fn adamw<T: Float>(op: AdamW<'_, Cpu, T>) {
    let AdamW { weights, grads, m, v, compute, lr, betas: [beta1, beta2], eps, weight_decay, step, clip } = op;
    let Some(grad_scale) = grad_scale(clip) else { return };
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(step));
    let rate = (f64::from(lr) / correction(beta1)) as f32;
    let root = correction(beta2).sqrt() as f32;
    let keep = 1.0 - lr * weight_decay;
    let state = weights
        .into_slice()
        .par_chunks_mut(CHUNK)
        .zip(m.into_slice().par_chunks_mut(CHUNK))
        .zip(v.into_slice().par_chunks_mut(CHUNK));
    let all = state.zip(grads.slice().par_chunks(CHUNK)).zip(compute.into_slice().par_chunks_mut(CHUNK));
    par::each(all.with_min_len(2), |((((w, m), v), g), compute)| {
        vectorize(
            #[inline(always)]
            || {
                for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
                    let g = grad_scale * g;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    *w = *w * keep - rate * *m / (v.sqrt() / root + eps);
                }
                convert::narrow(w, compute);
            },
        );
    });
}
