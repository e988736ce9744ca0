//! What each op should give: plain loops over exact inputs in f64, from the formulas in `src/ops`, with a bound on
//! what f32 arithmetic may do to the result. No code of either backend is used, nor clever order of sums.

use super::num::{Num, sum_error};
use halfbyte::{Float, ops::AdamWStep};

/// `a[i, :] · b[j, :]` of row-major matrices of `k` columns.
pub fn row_by_row(a: &[f64], b: &[f64], k: usize, i: usize, j: usize) -> Num {
    Num::dot(rows(a, b, k, i, j))
}

/// The factors of [`row_by_row`].
pub fn rows<'a>(
    a: &'a [f64],
    b: &'a [f64],
    k: usize,
    i: usize,
    j: usize,
) -> impl Iterator<Item = (f64, f64)> + Clone + 'a {
    a[i * k..(i + 1) * k].iter().copied().zip(b[j * k..(j + 1) * k].iter().copied())
}

/// `a[i, :] · b[:, j]`, `b` with `cols` columns.
pub fn row_by_column(a: &[f64], b: &[f64], k: usize, cols: usize, i: usize, j: usize) -> Num {
    Num::dot(row_and_column(a, b, k, cols, i, j))
}

/// The factors of [`row_by_column`].
pub fn row_and_column<'a>(
    a: &'a [f64],
    b: &'a [f64],
    k: usize,
    cols: usize,
    i: usize,
    j: usize,
) -> impl Iterator<Item = (f64, f64)> + Clone + 'a {
    (0..k).map(move |l| (a[i * k + l], b[l * cols + j]))
}

/// `a[:, i] · b[:, j]`.
pub fn column_by_column(a: &[f64], b: &[f64], [a_cols, b_cols]: [usize; 2], i: usize, j: usize) -> Num {
    let n = a.len().checked_div(a_cols).unwrap_or(0);
    Num::dot((0..n).map(|l| (a[l * a_cols + i], b[l * b_cols + j])))
}

/// `x · weightᵀ` of rows of `k`, flat.
pub fn product(x: &[f64], weight: &[f64], k: usize) -> Vec<f64> {
    let (n, outputs) = (x.len() / k, weight.len() / k);
    (0..n * outputs).map(|i| row_by_row(x, weight, k, i / outputs, i % outputs).v).collect()
}

/// `sum(d · out)`: the loss whose gradient with respect to `out` is `d`.
pub fn weighted(d: &[f64], out: impl IntoIterator<Item = f64>) -> f64 {
    d.iter().zip(out).map(|(d, out)| d * out).sum()
}

/// `h / sqrt(mean(h²) + eps) · weight`, and its rounded-off parts.
pub fn rms_norm(h: &[f64], weight: &[f64], eps: f32) -> Vec<Num> {
    let r = inverse_rms(h, eps);
    h.iter().zip(weight).map(|(&h, &w)| Num::from(h) * r * Num::from(w)).collect()
}

/// `1 / sqrt(mean(h²) + eps)`.
fn inverse_rms(h: &[f64], eps: f32) -> Num {
    let mean = Num::dot(h.iter().map(|&h| (h, h))) / Num::from(h.len() as f64);
    (mean + Num::from(eps)).sqrt().recip()
}

/// `r · (g - x · r² · mean(g · x))` with `g = d_out · weight`, where `d_out` may carry errors.
pub fn rms_norm_grad(x: &[f64], weight: &[f64], eps: f32, d_out: &[Num]) -> Vec<Num> {
    let r = inverse_rms(x, eps);
    let g: Vec<Num> = d_out.iter().zip(weight).map(|(&d, &w)| d * Num::from(w)).collect();
    let sum = Num::sum(g.iter().zip(x).map(|(&g, &x)| g * Num::from(x)));
    let mean = sum / Num::from(x.len() as f64);
    g.iter().zip(x).map(|(&g, &x)| r * (g - Num::from(x) * (r * r * mean))).collect()
}

/// Rotates the halves of `u` by the angles whose cosines and sines these are (the sines negated to rotate back).
pub fn rotate(u: &[Num], cos: &[f64], sin: &[f64]) -> Vec<Num> {
    let half = u.len() / 2;
    let [cos, sin] = [cos, sin].map(|t| t.iter().map(|&v| Num::from(v)).collect::<Vec<_>>());
    let first = (0..half).map(|i| u[i] * cos[i] - u[i + half] * sin[i]);
    let second = (0..half).map(|i| u[i + half] * cos[i] + u[i] * sin[i]);
    first.chain(second).collect()
}

/// `silu(gate) · up`.
pub fn swiglu(gate: impl Into<Num>, up: impl Into<Num>) -> Num {
    let gate: Num = gate.into();
    gate * gate.sigmoid() * up.into()
}

/// The gradients of [`swiglu`] times `d_out`: of the gate, of the other factor.
pub fn swiglu_grad(gate: f64, up: f64, d_out: f64) -> [Num; 2] {
    let [gate, up, d_out] = [gate, up, d_out].map(Num::from);
    let s = gate.sigmoid();
    let one = Num::from(1.0);
    [d_out * up * s * (one + gate * (one - s)), d_out * gate * s]
}

/// `ln sum exp(x)`.
fn log_sum_exp(x: &[f64]) -> Num {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = Num::sum(x.iter().map(|&x| (Num::from(x) - Num::from(top)).exp()));
    Num::from(top) + sum.ln()
}

/// The loss of one row, in nats, and its gradient times `scale`; none where `label` is outside.
pub fn cross_entropy(logits: &[f64], label: usize, scale: f64) -> Option<(Num, impl Fn(usize) -> Num)> {
    let target = *logits.get(label)?;
    let lse = log_sum_exp(logits);
    let gradient = move |column: usize| {
        let p = (Num::from(logits[column]) - lse).exp();
        Num::from(scale) * (p - Num::from(f64::from(u8::from(column == label))))
    };
    Some((lse - Num::from(target), gradient))
}

/// What [`attention`] works on: rows of one head.
pub struct Head<'a> {
    pub q: &'a [f64],
    /// The keys that the query sees, one after the other.
    pub k: &'a [f64],
    pub v: &'a [f64],
    pub scale: f32,
}

/// `scale · q·k` for each key that the query sees.
pub fn scores(head: &Head) -> Vec<Num> {
    let d = head.q.len();
    let dot = |k: &[f64]| Num::dot(head.q.iter().copied().zip(k.iter().copied()));
    head.k.chunks_exact(d).map(|k| Num::from(head.scale) * dot(k)).collect()
}

/// One row of attention, and its `lse`. Probabilities are rounded to `T` before they are multiplied with the values.
pub fn attention<T: Float>(head: &Head) -> (Vec<Num>, Num) {
    let d = head.q.len();
    let scores = scores(head);
    let top = scores.iter().map(|s| s.v).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<Num> = scores.iter().map(|&s| (s - Num::from(top)).exp()).collect();
    let total = Num::sum(weights.iter().copied());
    let rounded: Vec<Num> = weights.iter().map(|w| w.rounded::<T>()).collect();
    let column = |c: usize| Num::sum(rounded.iter().zip(head.v.chunks_exact(d)).map(|(&p, v)| p * Num::from(v[c])));
    ((0..d).map(|c| column(c) / total).collect(), Num::from(top) + total.ln())
}

/// `p` and `ds` of one query and one key: `exp(score - lse)` and `p · (d_out·v - delta)`, rounded to `T` as both are
/// before they are multiplied with matrices.
pub fn attention_grad<T: Float>(score: Num, lse: f64, d_out: &[f64], v: &[f64], delta: Num) -> [Num; 2] {
    let p = (score - Num::from(lse)).exp();
    let d_p = Num::dot(d_out.iter().copied().zip(v.iter().copied()));
    [p.rounded::<T>(), (p * (d_p - delta)).rounded::<T>()]
}

/// Sums of rows, to which terms are added one by one. `size` and `count` of each give its rounding error at the end.
pub struct RowSums {
    sum: Vec<Num>,
    size: Vec<f64>,
    count: Vec<f64>,
}

impl RowSums {
    pub fn zeros(len: usize) -> Self {
        RowSums { sum: vec![Num::ZERO; len], size: vec![0.0; len], count: vec![0.0; len] }
    }

    /// Adds `factor · row` at `at`.
    pub fn add(&mut self, at: usize, factor: Num, row: &[f64]) {
        for (i, &x) in (at..).zip(row) {
            let (v, err) = (factor.v * x, factor.err * x.abs());
            self.sum[i] = Num { v: self.sum[i].v + v, err: self.sum[i].err + err };
            self.size[i] += v.abs();
            self.count[i] += 1.0;
        }
    }

    pub fn times(self, scale: Num) -> Vec<Num> {
        let terms = self.sum.into_iter().zip(self.size).zip(self.count);
        terms.map(|((sum, size), n)| scale * Num { err: sum.err + sum_error(n) * size, ..sum }).collect()
    }
}

/// `[weight, m, v]` after one step of AdamW, from the same and the (scaled) gradient.
pub fn adamw(step: &AdamWStep, [w, m, v]: [Num; 3], g: Num) -> [Num; 3] {
    let AdamWStep { lr, betas: [b1, b2], eps, weight_decay, count } = *step;
    let w = w - Num::from(lr * weight_decay) * w;
    let m = Num::from(b1) * m + Num::from(1.0 - b1) * g;
    let v = Num::from(b2) * v + Num::from(1.0 - b2) * g * g;
    // Corrections that are computed in f32, where they are differences from 1.
    let correction = |b: f64| Num { v: 1.0 - b.powi(count as i32), err: f64::from(f32::EPSILON) * f64::from(count) };
    let root = v.sqrt() / correction(b2).sqrt() + Num::from(eps);
    let change = Num::from(lr) / correction(b1) * m / root;
    [w - change, m, v]
}
