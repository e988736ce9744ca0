//! The largest singular values of a weight, with their vectors.

use crate::error::Result;
use halfbyte::{
    Backend, Buf, Cpu, host,
    ops::{Linear, LinearGrad, Op},
    rng::{normal, philox},
};
use rayon::prelude::*;

/// Sets these random numbers apart from other uses ("svd").
const STREAM: u32 = 0x0073_7664;
/// Vectors beyond those that are asked for, so that the last of these is as good as the first.
const SPARE: usize = 8;
/// The most vectors that a search without an end of its own looks among. All there are of a matrix that is no larger.
const MOST: usize = 512;
/// How far `W v` may be from `σ u`, as a share of the largest singular value.
const CLOSE: f64 = 4e-6;

/// How long to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// Until the vectors are found, to within 4e-6 of the largest singular value, or are the best among 512.
    Exact,
    /// For so many products with `W` and its transpose after the first.
    Steps(usize),
}

impl Search {
    /// Whether what was found after so many products, among so many vectors, is good enough.
    fn ends(self, products: usize, vectors: usize) -> bool {
        match self {
            Search::Exact => vectors >= MOST,
            Search::Steps(steps) => products > steps,
        }
    }
}

/// `W ≈ Σ σ u vᵀ`, the largest first.
#[derive(Debug)]
pub(super) struct Principal {
    /// Singular values. Fewer than were asked for where the rest are zero.
    pub values: Vec<f64>,
    /// A vector of as many numbers as `W` has rows for each.
    pub left: Vec<Vec<f32>>,
    /// One of as many numbers as it has columns.
    pub right: Vec<Vec<f32>>,
}

/// A matrix `[rows, cols]` in the CPU's memory.
pub(super) struct Weight<'a> {
    pub cpu: &'a Cpu,
    pub buf: Buf<Cpu, f32>,
    pub rows: usize,
    pub cols: usize,
}

impl Weight<'_> {
    /// `x Wᵀ`, for vectors of as many numbers as there are columns.
    fn forward(&self, x: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        let Weight { cpu, buf, rows, cols } = self;
        let (x, n) = (cpu.upload(&x.concat())?, x.len());
        let mut out = cpu.zeros(n * rows)?;
        let (x, weight) = (x.mat(n, *cols), buf.mat(*rows, *cols));
        Linear { x, weight, out: out.mat_mut(n, *rows), accumulate: false, settled: false }.run(*cpu)?;
        Ok(cpu.download(out.view())?.chunks(*rows).map(<[f32]>::to_vec).collect())
    }

    /// `y W`, for vectors of as many numbers as there are rows.
    fn backward(&self, y: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        let Weight { cpu, buf, rows, cols } = self;
        let (y, n) = (cpu.upload(&y.concat())?, y.len());
        let mut out = cpu.zeros(n * cols)?;
        let (d_out, weight) = (y.mat(n, *rows), buf.mat(*rows, *cols));
        LinearGrad { d_out, weight, d_x: out.mat_mut(n, *cols), accumulate: false }.run(*cpu)?;
        Ok(cpu.download(out.view())?.chunks(*cols).map(<[f32]>::to_vec).collect())
    }

    /// `W - scale · B A`, of `A [r, cols]` and `B [rows, r]`.
    pub fn minus(mut self, a: &[f32], b: &[f32], scale: f32) -> Result<Vec<f32>> {
        let Weight { cpu, rows, cols, .. } = self;
        let (r, scaled) = (a.len() / cols, host::collect(b.len(), b.iter().map(|b| -scale * b))?);
        let (scaled, a) = (cpu.upload(&scaled)?, cpu.upload(a)?);
        let (d_out, weight) = (scaled.mat(rows, r), a.mat(r, cols));
        LinearGrad { d_out, weight, d_x: self.buf.mat_mut(rows, cols), accumulate: true }.run(cpu)?;
        Ok(cpu.download(self.buf.view())?)
    }

    /// The `r` largest singular values and their vectors, by a block Krylov iteration (Musco and Musco, "Randomized
    /// block Krylov methods for stronger and faster approximate singular value decomposition", 2015).
    pub fn principal(&self, r: usize, search: Search) -> Result<Principal> {
        let most = self.rows.min(self.cols);
        let mut block = orthonormal(&[], self.forward(&self.random((r + SPARE).min(most))?)?);
        let (mut basis, mut images) = (Vec::new(), Vec::new());
        let (mut step, mut look) = (0, 3 * block.len());
        loop {
            step += 1;
            let image = self.backward(&block)?;
            basis.append(&mut block);
            if !search.ends(step, basis.len()) {
                block = orthonormal(&basis, self.forward(&image)?);
                block.truncate(most - basis.len());
            }
            images.extend(image);
            // To look costs more than a product, the more the more vectors there are.
            if block.is_empty() || search == Search::Exact && basis.len() >= look {
                look = basis.len() * 3 / 2;
                let principal = among(&basis, &images, r);
                if block.is_empty() || self.is_close(&principal)? {
                    return Ok(principal);
                }
            }
        }
    }

    /// Whether `W v` is `σ u`. `u W` is `σ v` by how they are made.
    fn is_close(&self, Principal { values, left, right }: &Principal) -> Result<bool> {
        let images = self.forward(right)?;
        let far = |((image, u), s): ((&Vec<f32>, &Vec<f32>), &f64)| {
            let off = |(x, u): (&f32, &f32)| (f64::from(*x) - s * f64::from(*u)).powi(2);
            image.iter().zip(u).map(off).sum::<f64>().sqrt()
        };
        let bound = CLOSE * values.first().copied().unwrap_or_default();
        Ok(images.iter().zip(left).zip(values).all(|pair| far(pair) <= bound))
    }

    /// `n` vectors of as many normal numbers as there are columns.
    fn random(&self, n: usize) -> Result<Vec<Vec<f32>>> {
        let quad = |row: usize, i: usize| philox([i as u32, row as u32, 0, STREAM], 0);
        let numbers = |row| {
            let normals = (0..self.cols.div_ceil(4)).flat_map(move |i| {
                let [a, b, c, d] = quad(row, i);
                [normal(a, b), normal(c, d)]
            });
            Ok(host::collect(self.cols, normals.flatten().take(self.cols))?)
        };
        (0..n).map(numbers).collect()
    }
}

/// The vectors made orthogonal to those of `basis`, which are orthonormal, and to one another; without those of which
/// nothing is left.
fn orthonormal(basis: &[Vec<f32>], mut block: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    // Of a vector that is a sum of others, rounding leaves about 1e-7.
    const NOTHING: f64 = 1e-5;
    // Once more, for what rounding left.
    for _ in 0..2 {
        let before: Vec<f64> = block.iter().map(|x| dot(x, x).sqrt()).collect();
        block.par_iter_mut().for_each(|x| remove(x, basis));
        let mut new: Vec<Vec<f32>> = Vec::new();
        for (mut x, before) in block.into_iter().zip(before) {
            remove(&mut x, &new);
            let norm = dot(&x, &x).sqrt();
            if norm > NOTHING * before {
                x.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
                new.push(x);
            }
        }
        block = new;
    }
    block
}

/// Takes away what lies along other vectors, which are orthonormal.
fn remove(x: &mut [f32], others: &[Vec<f32>]) {
    for other in others {
        let along = dot(x, other) as f32;
        x.iter_mut().zip(other).for_each(|(x, other)| *x -= along * other);
    }
}

/// In eight sums, which vectorise.
fn dot<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += (*a).into() * (*b).into();
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| (*a).into() * (*b).into());
    sums.into_iter().chain(rest).sum()
}

/// What is best among the sums of `basis`, whose products with `W` are `images`.
fn among(basis: &[Vec<f32>], images: &[Vec<f32>], r: usize) -> Principal {
    let row = |i: usize| images[..=i].iter().map(|x| dot(x, &images[i])).collect();
    let half: Vec<Vec<f64>> = (0..images.len()).into_par_iter().map(row).collect();
    let at = |i: usize, j: usize| half[i.max(j)][i.min(j)];
    let gram = (0..half.len()).map(|i| (0..half.len()).map(|j| at(i, j)).collect()).collect();
    let mut principal = Principal { values: Vec::new(), left: Vec::new(), right: Vec::new() };
    for (square, weights) in eigen(gram).into_iter().take(r) {
        let value = square.sqrt();
        if !value.is_normal() {
            break;
        }
        principal.left.push(sum(basis, &weights, 1.0));
        principal.right.push(sum(images, &weights, 1.0 / value));
        principal.values.push(value);
    }
    principal
}

/// `scale · Σ w x`
fn sum(vectors: &[Vec<f32>], weights: &[f64], scale: f64) -> Vec<f32> {
    let mut total = vec![0.0; vectors[0].len()];
    for (x, w) in vectors.iter().zip(weights) {
        total.iter_mut().zip(x).for_each(|(total, x)| *total += w * f64::from(*x));
    }
    total.into_iter().map(|x| (scale * x) as f32).collect()
}

/// Eigenvalues and eigenvectors of a symmetric matrix that has no negative ones, the largest first: its rows are rotated
/// in pairs until each is orthogonal to all others (one-sided Jacobi; Hestenes, 1958). They are then eigenvectors, as
/// long as their eigenvalues.
fn eigen(mut rows: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    const SWEEPS: usize = 60;
    const ORTHOGONAL: f64 = 1e-15;
    let largest = rows.iter().map(|row| dot(row, row)).fold(0.0, f64::max);
    for _ in 0..SWEEPS {
        let mut turned = false;
        for i in 1..rows.len() {
            let (before, after) = rows.split_at_mut(i);
            for a in before {
                let b = &mut after[0];
                let (aa, bb, ab) = (dot(a, a), dot(b, b), dot(a, b));
                if ab.abs() <= ORTHOGONAL * (aa * bb).sqrt().max(ORTHOGONAL * largest) {
                    continue;
                }
                turned = true;
                let zeta = (bb - aa) / (2.0 * ab);
                let tan = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cos = (1.0 + tan * tan).sqrt().recip();
                for (a, b) in a.iter_mut().zip(b.iter_mut()) {
                    (*a, *b) = (cos * (*a - tan * *b), cos * (*b + tan * *a));
                }
            }
        }
        if !turned {
            break;
        }
    }
    let mut pairs: Vec<(f64, Vec<f64>)> = rows.into_iter().map(|row| (dot(&row, &row).sqrt(), row)).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs.iter_mut().for_each(|(value, row)| row.iter_mut().for_each(|x| *x /= value.max(f64::MIN_POSITIVE)));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Σ σ u vᵀ` with `σ = 1, 0.9, 0.81, …` of orthonormal `u` and `v`.
    fn weight(cpu: &Cpu, rows: usize, cols: usize, rank: usize) -> (Weight<'_>, Vec<Vec<f32>>) {
        let blank = |rows, cols| Weight { cpu, buf: cpu.zeros(rows * cols).unwrap(), rows, cols };
        let of = |len: usize| {
            let mut random = blank(1, len).random(rank).unwrap();
            // Not those that a search begins with.
            random.iter_mut().for_each(|x| x.reverse());
            orthonormal(&[], random)
        };
        let (u, v) = (of(rows), of(cols));
        let mut all = vec![0.0; rows * cols];
        for (k, (u, v)) in u.iter().zip(&v).enumerate() {
            let value = 0.9_f64.powi(k as i32);
            for (at, x) in all.iter_mut().enumerate() {
                *x += (value * f64::from(u[at / cols]) * f64::from(v[at % cols])) as f32;
            }
        }
        (Weight { cpu, buf: cpu.upload(&all).unwrap(), rows, cols }, v)
    }

    #[test]
    fn principal_values_and_vectors_are_found() {
        let cpu = Cpu::new();
        for (rows, cols, rank) in [(96, 40, 30), (40, 96, 40), (700, 600, 400), (5, 3, 2)] {
            let (w, v) = weight(&cpu, rows, cols, rank);
            let found = w.principal(6.min(rank), Search::Exact).unwrap();
            assert_eq!(found.values.len(), 6.min(rank));
            for (k, (value, right)) in found.values.iter().zip(&found.right).enumerate() {
                let want = 0.9_f64.powi(k as i32);
                // A vector is as near as CLOSE over what its value is apart from the next, a tenth of it.
                assert!((value - want).abs() <= 2.0 * CLOSE, "{rows}x{cols}: {value}, not {want}");
                assert!((dot(right, &v[k]).abs() - 1.0).abs() <= 1e-6, "{rows}x{cols}, vector {k}");
            }
        }
    }

    #[test]
    fn what_is_taken_is_what_is_left() {
        let cpu = Cpu::new();
        let (w, _) = weight(&cpu, 24, 16, 3);
        let found = w.principal(8, Search::Exact).unwrap();
        // Rank 3: the rest would be rounding.
        assert!(found.values.len() >= 3 && found.values[3..].iter().all(|&value| value <= 1e-6), "{:?}", found.values);
        let scaled = |vectors: &[Vec<f32>]| -> Vec<f32> {
            let all = vectors.iter().zip(&found.values);
            all.flat_map(|(x, s)| x.iter().map(|x| (f64::from(*x) * s.sqrt()) as f32)).collect()
        };
        let (a, left, r) = (scaled(&found.right), scaled(&found.left), found.values.len());
        let b: Vec<f32> = (0..24 * r).map(|at| left[at % r * 24 + at / r]).collect();
        let rest = w.minus(&a, &b, 1.0).unwrap();
        assert!(rest.iter().all(|x| x.abs() <= 1e-5), "{rest:?}");
    }

    #[test]
    fn few_steps_are_near() {
        let cpu = Cpu::new();
        let (w, _) = weight(&cpu, 300, 200, 150);
        let error = |steps| (w.principal(4, Search::Steps(steps)).unwrap().values[3] - 0.9_f64.powi(3)).abs();
        assert!(error(0) > error(1) && error(4) < 1e-3, "{} {} {}", error(0), error(1), error(4));
    }

    #[test]
    fn zeros_have_no_principal_part() {
        let cpu = Cpu::new();
        let w = Weight { cpu: &cpu, buf: cpu.zeros(24).unwrap(), rows: 4, cols: 6 };
        assert!(w.principal(2, Search::Exact).unwrap().values.is_empty());
    }
}
