//! Codes lie row by row, or in [planes](crate::cpu::simd::planes), [`GROUP`] rows at a time: their upper planes, then their lower
//! ones. Fewer rows at the end of what is read have upper planes alone, for there may have been more.

use super::{
    gemv,
    linear::linear,
    source::{Dense, Source},
};
use crate::{
    cpu::{
        device::Cpu,
        par,
        simd::{
            convert,
            gemv::Inputs,
            int8,
            planes::{self, Halves},
            vectorize,
        },
    },
    element::Float,
    ops::{Linear, LinearMax, MARGIN, SUM_ERROR, SUMS_FIT, Screen, levels},
};
use rayon::prelude::*;

/// Rows whose planes lie together.
const GROUP: usize = 256;

/// Where the planes of a row of a group begin.
fn places(rows: usize, cols: usize, row: usize) -> [usize; 2] {
    [row * (cols / 4 * 3), rows * (cols / 4 * 3) + row * (cols / 4)]
}

/// The codes of [`Screen`], row by row.
pub fn screen_codes(codes: &[i8], cols: usize) -> Vec<i8> {
    let mut all = codes.to_vec();
    if planes::suit(cols) {
        for (all, group) in all.chunks_mut(GROUP * cols).zip(codes.chunks(GROUP * cols)) {
            let rows = group.len() / cols;
            for (row, all) in all.chunks_exact_mut(cols).enumerate() {
                let [upper, lower] = places(rows, cols, row);
                planes::join(&group[upper..][..cols / 4 * 3], &group[lower..][..cols / 4], all);
            }
        }
    }
    all
}

pub(in crate::cpu) fn screen<T: Float>(op: Screen<'_, Cpu, T>) {
    let Screen { weight, codes, mut bounds } = op;
    let [rows, cols] = weight.shape();
    par::with_scratch(rows * 3, |found| {
        let groups = codes.into_slice().par_chunks_mut(GROUP * cols.max(1)).zip(found.par_chunks_mut(GROUP * 3));
        par::each_with(
            groups.enumerate(),
            || (vec![0.0; cols], vec![0; cols]),
            |(wide, row), (i, (codes, found))| {
                let n = found.len() / 3;
                for (j, found) in found.chunks_exact_mut(3).enumerate() {
                    vectorize(
                        #[inline(always)]
                        || {
                            convert::widen(weight.row(i * GROUP + j), wide);
                            found.copy_from_slice(&screen_row(wide, row));
                        },
                    );
                    put(row, codes, n, j);
                }
            },
        );
        for (k, out) in par::rows_mut(bounds.reborrow()).collect::<Vec<_>>().into_iter().enumerate() {
            out.iter_mut().zip(found.iter().skip(k).step_by(3)).for_each(|(out, found)| *out = *found);
        }
    });
}

/// Puts the codes of row `j` into its group of `n`.
fn put(row: &[i8], group: &mut [i8], n: usize, j: usize) {
    let cols = row.len();
    if planes::suit(cols) {
        let (uppers, lowers) = group.split_at_mut(places(n, cols, 0)[1]);
        let [upper, lower] = [(uppers, 3), (lowers, 1)].map(|(plane, part)| {
            let len = cols / 4 * part;
            &mut plane[j * len..][..len]
        });
        planes::split(row, upper, lower);
    } else {
        group[j * cols..][..cols].copy_from_slice(row);
    }
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
    /// The same levels, and their sum.
    halves: Halves,
    sum: f32,
    unit: f32,
    norm: f32,
    missed: f32,
}

impl Rounded {
    fn new<T: Float>(x: &[T]) -> Self {
        let most = levels(x.len()).min(planes::LARGEST);
        let (levels, halves) = (vec![0; x.len()], Halves::new(&[]));
        let mut rounded = Rounded { levels, halves, sum: 0.0, unit: 0.0, norm: 0.0, missed: 0.0 };
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
        rounded.halves = Halves::new(&rounded.levels);
        rounded.sum = rounded.halves.sum as f32;
        [rounded.norm, rounded.missed] = [rounded.norm, rounded.missed].map(|squares| rounded.unit * squares.sqrt());
        rounded
    }

    /// What the output of a row is not below and not above, by the sum of products with its codes, or with what these are taken
    /// for, which misses them by no more than `taken`.
    #[inline(always)]
    fn bounds(&self, sum: f32, [scale, error, norm]: [f32; 3], taken: f32) -> [f32; 2] {
        let [near, size] = [sum, sum.abs() + self.sum.abs()].map(|sum| scale * self.unit * sum);
        let [error, norm] = [error, norm].map(|norm| norm + scale * taken);
        // The norms are sums themselves, and so are rounded.
        let far = 1.001 * (self.norm * error + self.missed * norm) + size / (1 << 21) as f32 + f32::MIN_POSITIVE;
        if self.norm * (norm + error) < SUMS_FIT {
            [near - far, near + far]
        } else {
            [f32::NEG_INFINITY, f32::INFINITY]
        }
    }
}

/// Rows that are looked at together; a group is a multiple.
const CHUNK: usize = 32;

pub(in crate::cpu) fn linear_max<T: Float>(op: LinearMax<'_, Cpu, T>) {
    let LinearMax { x, weight, codes, bounds, k, out } = op;
    let (n, [_, rows]) = (x.rows, out.shape());
    if !gemv::suits(n) {
        return linear(Linear { x, weight, out, accumulate: false, settled: false });
    }
    let (cols, exact) = (x.cols, Dense::new(weight));
    let read = |i, out: &mut [f32]| Dense::new(x).read(i, 0..cols, out);
    let inputs = Inputs::new(n, cols, read, |is_exact| exact.order(is_exact));
    let screened = Screened {
        codes: codes.slice(),
        bounds: [0, 1, 2].map(|i| bounds.row(i)),
        x: (0..n).map(|i| Rounded::new(x.row(i))).collect(),
        cols,
    };
    par::with_scratch(rows * n, |found| {
        let chunks = screened.most(found, k);
        let least = least(&exact, rows, &inputs, &chunks, k);
        screened.largest(&exact, &inputs, &least, found);
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

/// What the `k` largest outputs of each vector are not below, a little less: the last of as many among some chunks of rows.
fn least<T: Float>(weight: &Dense<'_, T>, rows: usize, inputs: &Inputs, chunks: &[usize], k: usize) -> Vec<f32> {
    let n = inputs.n;
    let mut outputs = vec![f32::NEG_INFINITY; chunks.len() * CHUNK * n];
    par::each(outputs.par_chunks_mut(CHUNK * n).zip(chunks), |(outputs, chunk)| {
        let rows = chunk * CHUNK..rows.min((chunk + 1) * CHUNK);
        weight.dots(rows.clone(), inputs, &mut outputs[..rows.len() * n]);
    });
    let of = |i: usize| {
        let outputs = outputs[i..].iter().step_by(n).map(|x| if x.is_nan() { f32::NEG_INFINITY } else { *x });
        let least = kth_largest(outputs.collect(), k);
        least * if least > 0.0 { 1.0 - MARGIN } else { 1.0 + MARGIN }
    };
    (0..n).map(of).collect()
}

/// Minus infinity where there are fewer.
fn kth_largest(mut all: Vec<f32>, k: usize) -> f32 {
    match all.len() {
        n if n < k => f32::NEG_INFINITY,
        _ => *all.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1,
    }
}

/// A weight's codes and bounds, and the vectors.
struct Screened<'a> {
    codes: &'a [i8],
    bounds: [&'a [f32]; 3],
    x: Vec<Rounded>,
    cols: usize,
}

impl Screened<'_> {
    /// What outputs are not above, by what is read first of their rows, goes to `found`, `[rows, n]`; given back are, for each
    /// vector, the `k` chunks of rows with the outputs that are known to be largest.
    fn most(&self, found: &mut [f32], k: usize) -> Vec<usize> {
        let n = self.x.len();
        par::with_scratch(found.len().div_ceil(CHUNK * n) * n, |highest| {
            let chunks = found.par_chunks_mut(CHUNK * n).zip(highest.par_chunks_mut(n)).enumerate();
            par::each(chunks.with_min_len(grain(self.cols)), |(chunk, (found, highest))| {
                for (i, (x, highest)) in self.x.iter().zip(highest).enumerate() {
                    let (mut least, mut most) = ([f32::NEG_INFINITY; CHUNK], [0.0; CHUNK]);
                    self.chunk(x, chunk * CHUNK, &mut least[..found.len() / n], &mut most);
                    *highest = least.iter().fold(f32::NEG_INFINITY, |highest, least| highest.max(*least));
                    found[i..].iter_mut().step_by(n).zip(most).for_each(|(found, most)| *found = most);
                }
            });
            let highest = &*highest;
            let best = |i: usize| {
                let mut chunks: Vec<_> = (0..highest.len() / n).collect();
                let of = |chunk: &usize| highest[chunk * n + i];
                if k < chunks.len() {
                    chunks.select_nth_unstable_by(k - 1, |a, b| of(b).total_cmp(&of(a)));
                    chunks.truncate(k);
                }
                chunks
            };
            let mut chunks: Vec<_> = (0..n).flat_map(best).collect();
            chunks.sort_unstable();
            chunks.dedup();
            chunks
        })
    }

    /// What the outputs of rows from `first` on are not below and not above.
    fn chunk(&self, x: &Rounded, first: usize, least: &mut [f32], most: &mut [f32]) {
        let (m, mut sums) = (least.len(), [0; CHUNK]);
        let (base, taken) = if planes::suit(self.cols) {
            let start = first / GROUP * GROUP * self.cols + places(GROUP, self.cols, first % GROUP)[0];
            planes::dots(&self.codes[start..][..m * (self.cols / 4 * 3)], &x.halves, &mut sums[..m]);
            (0.5 * x.sum, planes::MISSED * (self.cols as f32).sqrt())
        } else {
            int8::dots(&self.codes[first * self.cols..][..m * self.cols], &x.levels, &mut sums[..m]);
            (0.0, 0.0)
        };
        let [scale, error, norm] = self.bounds.map(|of_rows| &of_rows[first..first + m]);
        vectorize(
            #[inline(always)]
            || {
                for (j, ((scale, error), norm)) in scale.iter().zip(error).zip(norm).enumerate() {
                    [least[j], most[j]] = x.bounds(sums[j] as f32 + base, [*scale, *error, *norm], taken);
                }
            },
        );
    }

    /// Outputs in the place of what they are not above, or minus infinity where that is below `least` for all vectors.
    fn largest<T: Float>(&self, weight: &Dense<'_, T>, inputs: &Inputs, least: &[f32], found: &mut [f32]) {
        let n = self.x.len();
        let chunks = found.par_chunks_mut(CHUNK * n).enumerate().with_min_len(grain(self.cols));
        par::each_with(
            chunks,
            || vec![0; self.cols],
            |codes, (chunk, found)| {
                for (i, found) in found.chunks_exact_mut(n).enumerate() {
                    let row = chunk * CHUNK + i;
                    let below = |found: &[f32]| found.iter().zip(least).all(|(most, least)| most < least);
                    if !below(found) {
                        self.look_again(row, codes, found);
                    }
                    if below(found) {
                        found.fill(f32::NEG_INFINITY);
                    } else {
                        weight.dots(row..row + 1, inputs, found);
                    }
                }
            },
        );
    }

    /// What the outputs of a row are not above by all that its codes say, where that is more than was read.
    fn look_again(&self, row: usize, codes: &mut [i8], found: &mut [f32]) {
        let cols = self.cols;
        let group = self.codes[row / GROUP * GROUP * cols..].get(..GROUP * cols);
        let Some(group) = group.filter(|_| planes::suit(cols)) else { return };
        let [upper, lower] = places(GROUP, cols, row % GROUP);
        planes::join(&group[upper..][..cols / 4 * 3], &group[lower..][..cols / 4], codes);
        let bounds = self.bounds.map(|of_rows| of_rows[row]);
        for (x, found) in self.x.iter().zip(found) {
            let mut sum = [0];
            int8::dots(codes, &x.levels, &mut sum);
            [_, *found] = x.bounds(sum[0] as f32, bounds, 0.0);
        }
    }
}
