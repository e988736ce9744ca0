use crate::common::{
    self,
    close::compare,
    num::Num,
    oracle,
    random::Random,
    tensor::{LAYOUTS, Layout, Tensor, twice},
};
use halfbyte::{
    Backend, Float,
    ops::{Heads, Op, QkNormRope, QkNormRopeGrad},
};

const EPS: f32 = 1e-6;
/// Rows of the tables.
const POSITIONS: usize = 50;

#[derive(Debug, Clone, Copy)]
struct Case {
    n: usize,
    heads: Heads,
    layout: Layout,
}

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, dim) in [32, 64, 128].into_iter().enumerate() {
        for (j, (q, kv)) in [(1, 1), (2, 1), (4, 1), (4, 2), (3, 3), (32, 8)].into_iter().enumerate() {
            for (l, n) in [0, 1, 3, 8, 37].into_iter().enumerate() {
                cases.push(Case { n, heads: Heads { q, kv, dim }, layout: LAYOUTS[(i + j + l) % 3] });
            }
        }
    }
    cases
}

struct Inputs<B: Backend, T: Float> {
    qkv: Tensor<B, T>,
    weights: [Tensor<B, f32>; 2],
    positions: Tensor<B, u32>,
    cos: Tensor<B, f32>,
    sin: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Inputs<B, T> {
    fn new(backend: &B, case: &Case, random: &Random) -> Self {
        let Case { n, heads: Heads { q, kv, dim }, layout } = *case;
        let width = (q + 2 * kv) * dim;
        let angles = random.uniform(POSITIONS * dim / 2);
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|a| f(a * std::f32::consts::TAU)).collect();
            Tensor::of(backend, [1, values.len()], Layout::Packed, &values)
        };
        // Some beyond the last row of the tables, which they take.
        let positions = random.below(n, POSITIONS as u32 + 5);
        Inputs {
            qkv: Tensor::of(backend, [n, width], layout, &random.normal(n * width, 1.0)),
            weights: [(); 2].map(|()| Tensor::of(backend, [1, dim], Layout::Packed, &random.normal(dim, 1.0))),
            positions: Tensor::flat(backend, Layout::Packed, positions),
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }

    /// Rows of cosines and sines for token `i`.
    fn angles(&self, i: usize, dim: usize) -> [Vec<f64>; 2] {
        let row = (self.positions.values()[i] as usize).min(POSITIONS - 1) * dim / 2;
        [&self.cos, &self.sin].map(|t| (row..row + dim / 2).map(|j| t.at(0, j)).collect())
    }

    /// Head `h` of token `i`, queries first, then keys, and the weight of its norm.
    fn head(&self, case: &Case, i: usize, h: usize) -> (Vec<f64>, Vec<f64>) {
        let dim = case.heads.dim;
        let head = (h * dim..(h + 1) * dim).map(|j| self.qkv.at(i, j)).collect();
        (head, self.weights[usize::from(h >= case.heads.q)].to_f64())
    }
}

fn forward<B: Backend, T: Float>(backend: &B, case: &Case) {
    let Case { n, heads, layout } = *case;
    let Heads { q: q_heads, kv, dim } = heads;
    let name = format!("qk_norm_rope {} {case:?}", T::DTYPE.suffix());
    let inputs = Inputs::<B, T>::new(backend, case, &Random::new(&name));
    let (q, k) = twice(&name, || {
        let mut q = Tensor::<B, T>::poisoned(backend, [n, q_heads * dim], layout);
        let mut k = Tensor::<B, T>::poisoned(backend, [n, kv * dim], layout);
        let op = QkNormRope {
            qkv: inputs.qkv.mat(),
            heads,
            q_weight: inputs.weights[0].view(),
            k_weight: inputs.weights[1].view(),
            eps: EPS,
            positions: inputs.positions.view(),
            cos: inputs.cos.view(),
            sin: inputs.sin.view(),
            q: q.mat_mut(),
            k: k.mat_mut(),
        };
        op.run(backend).unwrap();
        (q.read(backend, &name), k.read(backend, &name))
    });
    let want = |i: usize, h: usize| {
        let ((head, weight), [cos, sin]) = (inputs.head(case, i, h), inputs.angles(i, dim));
        oracle::rotate(&oracle::rms_norm(&head, &weight, EPS), &cos, &sin)
    };
    let heads = |from: usize, count: usize| -> Vec<Num> {
        (0..n * count).flat_map(|i| want(i / count, from + i % count)).collect()
    };
    let (want_q, want_k) = (heads(0, q_heads), heads(q_heads, kv));
    compare(&format!("{name}: q"), &q, q_heads * dim, |i, j| want_q[i * q_heads * dim + j]);
    compare(&format!("{name}: k"), &k, kv * dim, |i, j| want_k[i * kv * dim + j]);
}

fn gradient<B: Backend, T: Float>(backend: &B, case: &Case) {
    let Case { n, heads, layout } = *case;
    let Heads { q: q_heads, kv, dim } = heads;
    let name = format!("qk_norm_rope_grad {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let inputs = Inputs::<B, T>::new(backend, case, &random);
    let [d_q, d_k] = [q_heads * dim, kv * dim]
        .map(|width| Tensor::<B, T>::of(backend, [n, width], layout, &random.normal(n * width, 1.0)));
    let width = (q_heads + kv) * dim;
    let got = twice(&name, || {
        let mut d_qk = Tensor::<B, T>::poisoned(backend, [n, width], layout);
        let op = QkNormRopeGrad {
            qkv: inputs.qkv.mat(),
            heads,
            q_weight: inputs.weights[0].view(),
            k_weight: inputs.weights[1].view(),
            eps: EPS,
            positions: inputs.positions.view(),
            cos: inputs.cos.view(),
            sin: inputs.sin.view(),
            d_q: d_q.mat(),
            d_k: d_k.mat(),
            d_qk: d_qk.mat_mut(),
        };
        op.run(backend).unwrap();
        d_qk.read(backend, &name)
    });
    let want = |i: usize, h: usize| {
        let ((head, weight), [cos, sin]) = (inputs.head(case, i, h), inputs.angles(i, dim));
        let (d, first) = if h < q_heads { (&d_q, h * dim) } else { (&d_k, (h - q_heads) * dim) };
        let d: Vec<Num> = (first..first + dim).map(|j| d.at(i, j).into()).collect();
        let back: Vec<f64> = sin.iter().map(|s| -s).collect();
        oracle::rms_norm_grad(&head, &weight, EPS, &oracle::rotate(&d, &cos, &back))
    };
    let count = q_heads + kv;
    let want: Vec<Num> = (0..n * count).flat_map(|i| want(i / count, i % count)).collect();
    compare(&name, &got, width, |i, j| want[i * width + j]);
}

fn qk_norm_rope<B: Backend>(backend: &B) {
    for case in all() {
        each_float!(forward::<B>(backend, &case));
    }
}

fn qk_norm_rope_grad<B: Backend>(backend: &B) {
    for case in all() {
        each_float!(gradient::<B>(backend, &case));
    }
}

backends!(qk_norm_rope, qk_norm_rope_grad);
