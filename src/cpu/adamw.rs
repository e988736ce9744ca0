use super::{
    device::Cpu,
    par,
    simd::{convert, vectorize},
};
use crate::{
    element::Float,
    ops::{AdamW, AdamW8bit, Clip, Factors, Moment8},
    quant::{BLOCK8, Map8},
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
    let AdamW { weights, grads, m, v, compute, step, clip } = op;
    let Some(grad_scale) = grad_scale(clip) else { return };
    let Factors { decay, betas: [beta1, beta2], new, rate, root, eps } = step.factors();
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
                    *m = beta1 * *m + new[0] * g;
                    *v = beta2 * *v + new[1] * g * g;
                    *w = *w * decay - rate * *m / (v.sqrt() / root + eps);
                }
                convert::narrow(w, compute);
            },
        );
    });
}

/// The blocks of a moment.
fn blocks(moment: Moment8<'_, Cpu>) -> impl IndexedParallelIterator<Item = (&mut [u8], &mut f32)> {
    let Moment8 { codes, absmax } = moment;
    codes.into_slice().par_chunks_mut(BLOCK8).zip(absmax.into_slice())
}

pub(super) fn adamw8bit<T: Float>(op: AdamW8bit<'_, Cpu, T>) {
    let AdamW8bit { weights, grads, m, v, compute, step, clip } = op;
    let Some(grad_scale) = grad_scale(clip) else { return };
    let factors = step.factors();
    let weights = weights.into_slice().par_chunks_mut(BLOCK8).zip(compute.into_slice().par_chunks_mut(BLOCK8));
    let all = weights.zip(grads.slice().par_chunks(BLOCK8)).zip(blocks(m)).zip(blocks(v));
    par::each(all.with_min_len(CHUNK / BLOCK8), |((((w, compute), g), m), v)| {
        let mut wide = [[0.0; BLOCK8]; 2];
        let [wide_m, wide_v] = wide.each_mut().map(|wide| &mut wide[..w.len()]);
        Map8::Signed.decode(m.0, *m.1, wide_m);
        Map8::Unsigned.decode(v.0, *v.1, wide_v);
        vectorize(
            #[inline(always)]
            || {
                step8(factors, grad_scale, w, g, wide_m, wide_v);
                convert::narrow(w, compute);
            },
        );
        *m.1 = Map8::Signed.encode(wide_m, m.0);
        *v.1 = Map8::Unsigned.encode(wide_v, v.0);
    });
}

/// The operations that are fused are those that PyTorch's CPU kernels fuse.
#[inline(always)]
fn step8(factors: Factors, grad_scale: f32, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let Factors { decay, betas: [beta1, beta2], new, rate, root, eps } = factors;
    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
        let g = grad_scale * g;
        *m = new[0].mul_add(g, beta1 * *m);
        *v = (new[1] * g).mul_add(g, beta2 * *v);
        *w = *w * decay - rate * *m / (v.sqrt() / root + eps);
    }
}
