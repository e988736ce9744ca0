use super::{device::Cpu, par, simd::convert};
use crate::{element::Float, ops::Noise};
use rayon::prelude::*;

pub(super) fn noise<T: Float>(op: Noise<'_, Cpu, T>) {
    let Noise { x, bound, seed, stream } = op;
    let d = x.cols;
    par::each_with(
        par::rows_mut(x).enumerate().with_min_len(par::grain(d)),
        || vec![0.0; d],
        |wide, (row, x)| {
            convert::widen(x, wide);
            for (quad, part) in wide.chunks_mut(4).enumerate() {
                let noise = Noise::<Cpu, T>::of(row as u32, quad as u32, bound, seed, stream);
                part.iter_mut().zip(noise).for_each(|(v, noise)| *v += noise);
            }
            convert::narrow(wide, x);
        },
    );
}
