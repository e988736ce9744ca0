mod cache;

use crate::common::{
    close::Close,
    make::Make,
    num::Num,
    oracle,
    setup::{Check, Difference, Setup, differentiate},
    tensor::{LAYOUTS, Layout, Output, Tensor},
    work::{Model, Work},
    zeros::{HEADS, NO_DIM, NO_HEADS, Zeros},
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{CacheRows, Heads, Op, QkNormRope, QkNormRopeGrad},
};

const EPS: f32 = 1e-6;

#[derive(Debug, Clone, Copy)]
pub struct Case {
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

/// What both ops read.
struct Inputs<B: Backend, T: Float> {
    case: Case,
    /// Rows of the tables.
    rows: usize,
    cos: Tensor<B, f32>,
    sin: Tensor<B, f32>,
    positions: Tensor<B, u32>,
    qkv: Tensor<B, T>,
    weights: [Tensor<B, f32>; 2],
}

impl<B: Backend, T: Float> Inputs<B, T> {
    fn op<'a>(
        &'a self,
        q: &'a mut Tensor<B, T>,
        k: &'a mut Tensor<B, T>,
        cache: Option<CacheRows<'a, B, T>>,
    ) -> QkNormRope<'a, B, T> {
        let Inputs { case, cos, sin, positions, qkv, weights, .. } = self;
        QkNormRope {
            qkv: qkv.mat(),
            heads: case.heads,
            q_weight: weights[0].view(),
            k_weight: weights[1].view(),
            eps: EPS,
            positions: positions.view(),
            cos: cos.view(),
            sin: sin.view(),
            q: q.mat_mut(),
            k: k.mat_mut(),
            cache,
        }
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Case { n, heads: Heads { q, kv, dim }, layout } = *case;
        let width = (q + 2 * kv) * dim;
        // In tests some positions are beyond the last row, which they take.
        let (rows, beyond) = if make.is_bench() { (4096, 0) } else { (50, 5) };
        let angles = make.random.uniform(rows * dim / 2);
        let table = |f: fn(f32) -> f32| {
            make.flat(Layout::Packed, angles.iter().map(|a| f(a * std::f32::consts::TAU)).collect())
        };
        Inputs {
            case: *case,
            rows,
            cos: table(f32::cos),
            sin: table(f32::sin),
            positions: make.flat(Layout::Packed, make.random.below(n, (rows + beyond) as u32)),
            qkv: make.normal([n, width], layout, 1.0),
            weights: [(); 2].map(|()| make.normal([1, dim], Layout::Packed, 1.0)),
        }
    }

    /// Rows of cosines and sines for token `i`.
    fn angles(&self, i: usize) -> [Vec<f64>; 2] {
        let half = self.case.heads.dim / 2;
        let row = (self.positions.values()[i] as usize).min(self.rows - 1) * half;
        [&self.cos, &self.sin].map(|t| (row..row + half).map(|j| t.at(0, j)).collect())
    }

    /// The weight of the norm of head `h`: queries first, then keys.
    fn weight(&self, h: usize) -> Vec<f64> {
        self.weights[usize::from(h >= self.case.heads.q)].to_f64()
    }

    /// Head `h` of token `i`.
    fn head(&self, i: usize, h: usize) -> Vec<f64> {
        let dim = self.case.heads.dim;
        (h * dim..(h + 1) * dim).map(|j| self.qkv.at(i, j)).collect()
    }

    /// What becomes of `head` as head `h` of token `i`.
    fn rotated(&self, head: &[f64], i: usize, h: usize) -> Vec<Num> {
        let [cos, sin] = self.angles(i);
        oracle::rotate(&oracle::rms_norm(head, &self.weight(h), EPS), &cos, &sin)
    }
}

pub struct Forward<B: Backend, T: Float> {
    inputs: Inputs<B, T>,
    q: Tensor<B, T>,
    k: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Forward<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("qk_norm_rope {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Case { n, heads: Heads { q, kv, dim }, layout } = *case;
        Forward {
            inputs: Inputs::new(make, case),
            q: make.output([n, q * dim], layout),
            k: make.output([n, kv * dim], layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        self.inputs.op(&mut self.q, &mut self.k, None).run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.q, &mut self.k]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Case { n, heads: Heads { q, kv, dim }, .. } = self.inputs.case;
        let want = |i: usize, h: usize| self.inputs.rotated(&self.inputs.head(i, h), i, h);
        let heads = |from: usize, count: usize| -> Vec<Num> {
            (0..n * count).flat_map(|i| want(i / count, from + i % count)).collect()
        };
        let (want_q, want_k) = (heads(0, q), heads(q, kv));
        close.all("q", self.q.now(), q * dim, |i, j| want_q[i * q * dim + j]);
        close.all("k", self.k.now(), kv * dim, |i, j| want_k[i * kv * dim + j]);
    }
}

pub struct Gradient<B: Backend, T: Float> {
    inputs: Inputs<B, T>,
    d_q: Tensor<B, T>,
    d_k: Tensor<B, T>,
    d_qk: Tensor<B, T>,
}

impl<B: Backend, T: Float> Gradient<B, T> {
    /// The gradient of head `h` of token `i`.
    fn d_head(&self, i: usize, h: usize) -> Vec<f64> {
        let Heads { q, dim, .. } = self.inputs.case.heads;
        let (d, first) = if h < q { (&self.d_q, h * dim) } else { (&self.d_k, (h - q) * dim) };
        (first..first + dim).map(|j| d.at(i, j)).collect()
    }

    /// Tokens and heads of the gradient, in the order of its elements.
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> + use<B, T> {
        let Case { n, heads: Heads { q, kv, .. }, .. } = self.inputs.case;
        (0..n).flat_map(move |i| (0..q + kv).map(move |h| (i, h)))
    }
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("qk_norm_rope_grad {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Case { n, heads: Heads { q, kv, dim }, layout } = *case;
        Gradient {
            inputs: Inputs::new(make, case),
            d_q: make.normal([n, q * dim], layout, 1.0),
            d_k: make.normal([n, kv * dim], layout, 1.0),
            d_qk: make.output([n, (q + kv) * dim], layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Inputs { case, cos, sin, positions, qkv, weights, .. } = &self.inputs;
        let op = QkNormRopeGrad {
            qkv: qkv.mat(),
            heads: case.heads,
            q_weight: weights[0].view(),
            k_weight: weights[1].view(),
            eps: EPS,
            positions: positions.view(),
            cos: cos.view(),
            sin: sin.view(),
            d_q: self.d_q.mat(),
            d_k: self.d_k.mat(),
            d_qk: self.d_qk.mat_mut(),
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.d_qk]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let want = |(i, h): (usize, usize)| {
            let [cos, sin] = self.inputs.angles(i);
            let back: Vec<f64> = sin.iter().map(|s| -s).collect();
            let d: Vec<Num> = self.d_head(i, h).into_iter().map(Num::from).collect();
            let d = oracle::rotate(&d, &cos, &back);
            oracle::rms_norm_grad(&self.inputs.head(i, h), &self.inputs.weight(h), EPS, &d)
        };
        let (want, [_, width]) = (self.heads().flat_map(want).collect::<Vec<Num>>(), self.d_qk.shape());
        close.all("d_qk", self.d_qk.now(), width, |i, j| want[i * width + j]);
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        // The gradient's rows hold queries and keys only; so do the points at which the loss is taken.
        let at = self.heads().flat_map(|(i, h)| self.inputs.head(i, h)).collect();
        let d: Vec<f64> = self.heads().flat_map(|(i, h)| self.d_head(i, h)).collect();
        let loss = move |qk: &[f64]| {
            let heads = self.heads().zip(qk.chunks(self.inputs.case.heads.dim));
            let outs = heads.flat_map(|((i, h), head)| self.inputs.rotated(head, i, h));
            oracle::weighted(&d, outs.map(|v| v.v))
        };
        vec![Difference { part: "qkv", got: self.d_qk.floats(), at, loss: Box::new(loss) }]
    }
}

fn qk_norm_rope<B: Backend>(backend: &B) {
    all().iter().for_each(|case| check_each!(Forward, backend, case));
}

fn qk_norm_rope_grad<B: Backend>(backend: &B) {
    all().iter().for_each(|case| check_each!(Gradient, backend, case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("qk_norm_rope", qk_norm_rope),
        ("qk_norm_rope_into_a_cache", cache::qk_norm_rope_into_a_cache),
        ("qk_norm_rope_into_8_bits", cache::qk_norm_rope_into_8_bits),
        ("qk_norm_rope_grad", qk_norm_rope_grad),
    ]
}

const TINY: Case = Case { n: 2, heads: Heads { q: 2, kv: 1, dim: 32 }, layout: Layout::Packed };

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("qk_norm_rope_grad", |backend| differentiate::<B, Gradient<B, f32>>(backend, &TINY))]
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let heads = model.heads;
    let qk = (heads.q + heads.kv) * heads.dim;
    let mut works = Vec::new();
    for n in [1, model.step_tokens()] {
        let (case, shape, len) = (Case { n, heads, layout: Layout::Packed }, format!("{n} x {qk}"), n * qk);
        works.push(Work::new::<Forward<B, bf16>>("qk_norm_rope", shape.clone(), [4 * len, 10 * len], case));
        works.push(Work::new::<Gradient<B, bf16>>("qk_norm_rope_grad", shape, [6 * len, 20 * len], case));
    }
    works
}

/// What is not refused.
fn good<'a, B: Backend>(z: &Zeros<'a, B>) -> QkNormRope<'a, B, f32> {
    QkNormRope::<B, f32> {
        qkv: z.mat(3, 256),
        heads: HEADS,
        q_weight: z.view(32),
        k_weight: z.view(32),
        eps: 1e-6,
        positions: z.view(3),
        cos: z.view(160),
        sin: z.view(160),
        q: z.mat_mut(3, 128),
        k: z.mat_mut(3, 64),
        cache: None,
    }
}

fn qk_norm_rope_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || good(&z);
    z.fits(good());
    let heads = |q, kv, dim| Heads { q, kv, dim };
    z.refuses(QkNormRope { heads: heads(4, 3, 32), ..good() }, &format!("qk_norm_rope: {NO_HEADS}"));
    z.refuses(QkNormRope { heads: heads(4, 2, 48), ..good() }, &format!("qk_norm_rope: {NO_DIM}"));
    z.refuses(QkNormRope { qkv: z.mat(3, 255), ..good() }, "qk_norm_rope: `qkv` is [3, 255], expected [3, 256]");
    z.refuses(QkNormRope { q_weight: z.view(31), ..good() }, "qk_norm_rope: `q_weight` has 31 elements, expected 32");
    z.refuses(QkNormRope { k_weight: z.view(31), ..good() }, "qk_norm_rope: `k_weight` has 31 elements, expected 32");
    z.refuses(QkNormRope { positions: z.view(4), ..good() }, "qk_norm_rope: `positions` has 4 elements, expected 3");
    let message = "qk_norm_rope: cos is 161, but it must hold whole rows of d / 2";
    z.refuses(QkNormRope { cos: z.view(161), ..good() }, message);
    z.refuses(QkNormRope { sin: z.view(144), ..good() }, "qk_norm_rope: `sin` has 144 elements, expected 160");
    z.refuses(QkNormRope { q: z.mat_mut(3, 64), ..good() }, "qk_norm_rope: `q` is [3, 64], expected [3, 128]");
    z.refuses(QkNormRope { k: z.mat_mut(2, 64), ..good() }, "qk_norm_rope: `k` is [2, 64], expected [3, 64]");

    let good = || QkNormRopeGrad::<B, f32> {
        qkv: z.mat(3, 256),
        heads: HEADS,
        q_weight: z.view(32),
        k_weight: z.view(32),
        eps: 1e-6,
        positions: z.view(3),
        cos: z.view(160),
        sin: z.view(160),
        d_q: z.mat(3, 128),
        d_k: z.mat(3, 64),
        d_qk: z.mat_mut(3, 192),
    };
    z.fits(good());
    z.refuses(QkNormRopeGrad { d_q: z.mat(3, 1), ..good() }, "qk_norm_rope_grad: `d_q` is [3, 1], expected [3, 128]");
    z.refuses(QkNormRopeGrad { d_k: z.mat(3, 1), ..good() }, "qk_norm_rope_grad: `d_k` is [3, 1], expected [3, 64]");
    let message = "qk_norm_rope_grad: `d_qk` is [3, 256], expected [3, 192]";
    z.refuses(QkNormRopeGrad { d_qk: z.mat_mut(3, 256), ..good() }, message);
    let message = "qk_norm_rope_grad: cos is 0, but it must hold whole rows of d / 2";
    z.refuses(QkNormRopeGrad { cos: z.view(0), ..good() }, message);
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("qk_norm_rope", qk_norm_rope_refuses), ("qk_norm_rope_into_a_cache", cache::refuses)]
}
