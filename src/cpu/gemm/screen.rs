use super::{
    gemv,
    linear::linear,
    source::{Dense, Source},
};
use crate::{
    buffer::Mat,
    cpu::{
        device::Cpu,
        par,
        simd::{convert, gemv::Inputs, int8, vectorize},
    },
    element::Float,
    ops::{Linear, LinearMax, SUM_ERROR, SUMS_FIT, Screen, levels},
};
use rayon::prelude::*;

pub(in crate::cpu) fn screen<T: Float>(op: Screen<'_, Cpu, T>) {
    let Screen { weight, codes, mut bounds } = op;
    let [rows, cols] = weight.shape();
    par::with_scratch(rows * 3, |found| {
        let codes = codes.into_slice().par_chunks_mut(cols.max(1));
        par::each_with(
            codes.zip(found.par_chunks_mut(3)).enumerate().with_min_len(par::grain(cols)),
            || vec![0.0; cols],
            |wide, (i, (codes, found))| {
                vectorize(
                    #[inline(always)]
                    || {
                        convert::widen(weight.row(i), wide);
                        found.copy_from_slice(&screen_row(wide, codes));
                    },
                );
            },
        );
        for (k, out) in par::rows_mut(bounds.reborrow()).collect::<Vec<_>>().into_iter().enumerate() {
            out.iter_mut().zip(found.iter().skip(k).step_by(3)).for_each(|(out, found)| *out = *found);
        }
    });
}

/// Scale, error and norm of a row, whose elements become multiples of the scale.
#[inline(always)]
fn screen_row(w: &mut [f32], codes: &mut [i8]) -> [f32; 3] {
    let scale = unit(w, 127.0);
    let (mut missed, mut kept, mut all) = (0.0, 0.0, 0.0);
    for (w, code) in w.iter().zip(codes) {
        let level = nearest(*w, 127.0);
        *code = level as i8;
        missed += (w - level) * (w - level);
        kept += level * level;
        all += w * w;
    }
    [scale, scale * (missed.sqrt() + w.len() as f32 * SUM_ERROR * all.sqrt()), scale * kept.sqrt()]
}

/// What the largest magnitude is `levels` times; `x` becomes multiples of it.
#[inline(always)]
fn unit(x: &mut [f32], levels: f32) -> f32 {
    let unit = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / levels;
    x.iter_mut().for_each(|x| *x = if unit > 0.0 { *x / unit } else { 0.0 });
    unit
}

/// The whole number next to `x`; of NaN the least.
#[inline(always)]
fn nearest(x: f32, levels: f32) -> f32 {
    x.round_ties_even().max(-levels).min(levels)
}

/// A vector in whole numbers, of which `unit` makes it again, but for `missed`.
struct Rounded {
    levels: Vec<i16>,
    unit: f32,
    norm: f32,
    missed: f32,
}

impl Rounded {
    fn new<T: Float>(x: &[T]) -> Self {
        let most = levels(x.len());
        let mut rounded = Rounded { levels: vec![0; x.len()], unit: 0.0, norm: 0.0, missed: 0.0 };
        par::with_scratch(x.len(), |wide| {
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(x, wide);
                    rounded.unit = unit(wide, most);
                    for (x, out) in wide.iter().zip(&mut rounded.levels) {
                        let level = nearest(*x, most);
                        *out = level as i16;
                        rounded.norm += x * x;
                        rounded.missed += (x - level) * (x - level);
                    }
                },
            );
        });
        [rounded.norm, rounded.missed] = [rounded.norm, rounded.missed].map(|squares| rounded.unit * squares.sqrt());
        rounded
    }

    /// What the output of a row is not below and not above.
    #[inline(always)]
    fn bounds(&self, sum: i32, [scale, error, norm]: [f32; 3]) -> [f32; 2] {
        let near = scale * self.unit * sum as f32;
        // The norms are sums themselves, and so are rounded.
        let far = 1.001 * (self.norm * error + self.missed * norm) + near.abs() / (1 << 21) as f32 + f32::MIN_POSITIVE;
        if self.norm * (norm + error) < SUMS_FIT {
            [near - far, near + far]
        } else {
            [f32::NEG_INFINITY, f32::INFINITY]
        }
    }
}

/// Rows that are looked at together.
const CHUNK: usize = 32;

pub(in crate::cpu) fn linear_max<T: Float>(op: LinearMax<'_, Cpu, T>) {
    let LinearMax { x, weight, codes, bounds, out } = op;
    let (n, [_, rows]) = (x.rows, out.shape());
    if !gemv::suits(n) {
        return linear(Linear { x, weight, out, accumulate: false, settled: false });
    }
    par::with_scratch(rows * n, |found| {
        let least = most(x, codes.slice(), bounds, found);
        largest(x, Dense::new(weight), &least, found);
        let found = &*found;
        par::each(par::rows_mut(out).enumerate(), |(i, out)| {
            out.iter_mut().zip(found[i..].iter().step_by(n)).for_each(|(out, found)| *out = *found);
        });
    });
}

/// Chunks of rows that are worth a task of their own.
fn grain(cols: usize) -> usize {
    par::grain(cols).div_ceil(CHUNK)
}

/// What outputs are not above goes to `found`, `[rows, n]`; what the largest of each vector is not below is given back.
fn most<T: Float>(x: Mat<'_, Cpu, T>, codes: &[i8], bounds: Mat<'_, Cpu, f32>, found: &mut [f32]) -> Vec<f32> {
    let [n, cols] = x.shape();
    let rounded: Vec<_> = (0..n).map(|i| Rounded::new(x.row(i))).collect();
    let [scale, error, norm] = [0, 1, 2].map(|i| bounds.row(i));
    par::with_scratch(bounds.cols.div_ceil(CHUNK) * n, |highest| {
        let chunks = found.par_chunks_mut(CHUNK * n).zip(highest.par_chunks_mut(n)).enumerate();
        par::each(chunks.with_min_len(grain(cols)), |(chunk, (found, highest))| {
            let (first, m) = (chunk * CHUNK, found.len() / n);
            let codes = &codes[first * cols..(first + m) * cols];
            for (i, (x, highest)) in rounded.iter().zip(highest).enumerate() {
                let (mut sums, mut least, mut most) = ([0; CHUNK], [f32::NEG_INFINITY; CHUNK], [0.0; CHUNK]);
                int8::dots(codes, &x.levels, &mut sums[..m]);
                let [scale, error, norm] = [scale, error, norm].map(|of_rows| &of_rows[first..first + m]);
                vectorize(
                    #[inline(always)]
                    || {
                        for (j, ((scale, error), norm)) in scale.iter().zip(error).zip(norm).enumerate() {
                            [least[j], most[j]] = x.bounds(sums[j], [*scale, *error, *norm]);
                        }
                    },
                );
                *highest = least.iter().fold(f32::NEG_INFINITY, |highest, least| highest.max(*least));
                found[i..].iter_mut().step_by(n).zip(most).for_each(|(found, most)| *found = most);
            }
        });
        let of = |i: usize| highest[i..].iter().step_by(n).fold(f32::NEG_INFINITY, |most, one| most.max(*one));
        (0..n).map(of).collect()
    })
}

/// Outputs in the place of what they are not above, or minus infinity where that is below `least` for all vectors.
fn largest<T: Float>(x: Mat<'_, Cpu, T>, weight: Dense<'_, T>, least: &[f32], found: &mut [f32]) {
    let [n, cols] = x.shape();
    let read = |i, out: &mut [f32]| Dense::new(x).read(i, 0..cols, out);
    let inputs = Inputs::new(n, cols, read, |exact| weight.order(exact));
    par::each(found.par_chunks_mut(CHUNK * n).enumerate().with_min_len(grain(cols)), |(chunk, found)| {
        for (i, found) in found.chunks_exact_mut(n).enumerate() {
            let row = chunk * CHUNK + i;
            if found.iter().zip(least).all(|(most, least)| most < least) {
                found.fill(f32::NEG_INFINITY);
            } else {
                weight.dots(row..row + 1, &inputs, found);
            }
        }
    });
}
