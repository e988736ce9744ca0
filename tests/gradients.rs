//! The gradient ops against central differences of the oracle's forward formulas, in f64, at tiny shapes.
//!
//! The loss is `sum(d_out · out)`, so that its gradient with respect to an input is what the gradient op gives.
mod common;

use common::{
    cases::{FORMATS, Pack, Product, Quantization},
    oracle::{self, Head},
    quantized::Quantized,
    random::Random,
    tensor::{Layout, Tensor},
};
use halfbyte::{
    Backend,
    ops::{
        Attention, AttentionGrad, CrossEntropy, Dropout, Heads, Linear4Grad, LinearGrad, Lora, LoraGrad, Op,
        QkNormRopeGrad, RmsNormGrad, SwigluGrad, WeightGrad,
    },
};

/// Half the distance of the two points of a difference. What is left out is about its square, 1e-8; f64 adds 1e-12.
const STEP: f64 = 1e-4;

/// Of the largest element: f32 sums of at most 100 terms (100 eps = 1.2e-5), approximate exponentials, and [`STEP`].
const TOLERANCE: f64 = 3e-5;

/// `got` is the gradient of `loss` at `x`.
fn check(name: &str, got: &[f32], x: &[f64], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(got.len(), x.len(), "{name}");
    let mut point = x.to_vec();
    let mut difference = |i: usize| {
        let mut at = |v: f64| {
            point[i] = v;
            loss(&point)
        };
        let slope = (at(x[i] + STEP) - at(x[i] - STEP)) / (2.0 * STEP);
        point[i] = x[i];
        slope
    };
    let want: Vec<f64> = (0..x.len()).map(&mut difference).collect();
    let size = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
    assert!(size > 1e-3, "{name}: the gradient is {size} at most, too small to see anything");
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= TOLERANCE * size, "{name}: element {i} is {got}, the difference says {want}");
    }
}

/// `sum(d · out)`.
fn weighted(d: &[f64], out: impl IntoIterator<Item = f64>) -> f64 {
    d.iter().zip(out).map(|(d, out)| d * out).sum()
}

/// A normal f32 matrix.
fn normal<B: Backend>(backend: &B, random: &Random, shape: [usize; 2]) -> Tensor<B, f32> {
    Tensor::of(backend, shape, Layout::Packed, &random.normal(shape[0] * shape[1], 1.0))
}

fn zeros<B: Backend>(backend: &B, shape: [usize; 2]) -> Tensor<B, f32> {
    Tensor::of(backend, shape, Layout::Packed, &vec![0.0; shape[0] * shape[1]])
}

/// `x · weightᵀ`, flat.
fn product(x: &[f64], weight: &[f64], k: usize) -> Vec<f64> {
    let (n, outputs) = (x.len() / k, weight.len() / k);
    (0..n * outputs).map(|i| oracle::row_by_row(x, weight, k, i / outputs, i % outputs).v).collect()
}

const PRODUCT: Product = Product::new(5, 7, 11);

fn linear_grad<B: Backend>(backend: &B) {
    let Product { n, outputs, inputs, .. } = PRODUCT;
    let random = Random::new("linear_grad");
    let x = normal(backend, &random, [n, inputs]);
    let weight = normal(backend, &random, [outputs, inputs]);
    let d_out = normal(backend, &random, [n, outputs]);
    let (mut d_x, mut d_weight) = (zeros(backend, [n, inputs]), zeros(backend, [outputs, inputs]));
    let op = LinearGrad { d_out: d_out.mat(), weight: weight.view(), d_x: d_x.mat_mut(), accumulate: false };
    op.run(backend).unwrap();
    WeightGrad { x: x.mat(), d_out: d_out.mat(), d_weight: d_weight.view_mut() }.run(backend).unwrap();
    let (x, weight, d_out) = (x.to_f64(), weight.to_f64(), d_out.to_f64());
    let loss = |x: &[f64], weight: &[f64]| weighted(&d_out, product(x, weight, inputs));
    check("linear: x", &d_x.read(backend, "d_x"), &x, |x| loss(x, &weight));
    check("linear: weight", &d_weight.read(backend, "d_weight"), &weight, |weight| loss(&x, weight));
}

fn linear4_grad<B: Backend>(backend: &B) {
    let Product { n, outputs, inputs, .. } = Product::new(5, 7, 40);
    for format in FORMATS {
        let random = Random::new("linear4_grad");
        let quantization = Quantization { format, block_size: 32, nested: true };
        let weight = Quantized::random(backend, &random, [outputs, inputs], quantization, Layout::Packed);
        let (x, d_out) = (normal(backend, &random, [n, inputs]), normal(backend, &random, [n, outputs]));
        let mut d_x = zeros(backend, [n, inputs]);
        let op = Linear4Grad { d_out: d_out.mat(), weight: weight.weight(), d_x: d_x.mat_mut(), accumulate: false };
        op.run(backend).unwrap();
        let decoded: Vec<f64> = weight.decoded::<f32>().into_iter().map(f64::from).collect();
        let d_out = d_out.to_f64();
        check("linear4: x", &d_x.read(backend, "d_x"), &x.to_f64(), |x| weighted(&d_out, product(x, &decoded, inputs)));
    }
}

fn lora_grad<B: Backend>(backend: &B) {
    for dropout in [None, Some(Dropout { p: 0.4, seed: 11, stream: 1 << 40 })] {
        lora_grad_with(backend, dropout);
    }
}

fn lora_grad_with<B: Backend>(backend: &B, dropout: Option<Dropout>) {
    let (Product { n, outputs, inputs, .. }, rank, scale) = (PRODUCT, 3, 0.5);
    let random = Random::new("lora_grad");
    let x = normal(backend, &random, [n, inputs]);
    let (a, b) = (normal(backend, &random, [rank, inputs]), normal(backend, &random, [outputs, rank]));
    let d_out = normal(backend, &random, [n, outputs]);
    let (mut xa, mut out) = (zeros(backend, [n, rank]), zeros(backend, [n, outputs]));
    let (xm, av, bv) = (x.mat(), a.view(), b.view());
    Lora { x: xm, a: av, b: bv, scale, dropout, xa: xa.mat_mut(), out: out.mat_mut() }.run(backend).unwrap();
    let (mut d_xa, mut d_x) = (zeros(backend, [n, rank]), zeros(backend, [n, inputs]));
    let (mut d_a, mut d_b) = (zeros(backend, [rank, inputs]), zeros(backend, [outputs, rank]));
    let op = LoraGrad {
        x: xm,
        a: av,
        b: bv,
        scale,
        dropout,
        xa: xa.mat(),
        d_out: d_out.mat(),
        d_xa: d_xa.mat_mut(),
        d_a: d_a.view_mut(),
        d_b: d_b.view_mut(),
        d_x: Some(d_x.mat_mut()),
    };
    op.run(backend).unwrap();
    let factor = |i: usize| match &dropout {
        None => 1.0,
        Some(d) => f64::from(u8::from(d.keep((i / inputs) as u32, (i % inputs / 4) as u32)[i % inputs % 4])) / 0.6,
    };
    let (x, a, b, d_out) = (x.to_f64(), a.to_f64(), b.to_f64(), d_out.to_f64());
    let loss = |x: &[f64], a: &[f64], b: &[f64]| {
        let dropped: Vec<f64> = x.iter().enumerate().map(|(i, x)| x * factor(i)).collect();
        weighted(&d_out, product(&product(&dropped, a, inputs), b, rank)) * f64::from(scale)
    };
    check("lora: x", &d_x.read(backend, "d_x"), &x, |x| loss(x, &a, &b));
    check("lora: a", &d_a.read(backend, "d_a"), &a, |a| loss(&x, a, &b));
    check("lora: b", &d_b.read(backend, "d_b"), &b, |b| loss(&x, &a, b));
}

fn rms_norm_grad<B: Backend>(backend: &B) {
    let ([n, d], eps) = ([3, 13], 1e-5);
    let random = Random::new("rms_norm_grad");
    let (x, d_out, weight) =
        (normal(backend, &random, [n, d]), normal(backend, &random, [n, d]), normal(backend, &random, [1, d]));
    let mut d_x = zeros(backend, [n, d]);
    let (xm, weight_view, d_out_mat) = (x.mat(), weight.view(), d_out.mat());
    let op = RmsNormGrad { x: xm, weight: weight_view, eps, d_out: d_out_mat, d_x: d_x.mat_mut(), accumulate: false };
    op.run(backend).unwrap();
    let (weight, d_out) = (weight.to_f64(), d_out.to_f64());
    check("rms_norm: x", &d_x.read(backend, "d_x"), &x.to_f64(), |x| {
        weighted(&d_out, x.chunks(d).flat_map(|h| oracle::rms_norm(h, &weight, eps)).map(|v| v.v))
    });
}

fn qk_norm_rope_grad<B: Backend>(backend: &B) {
    let (n, heads, eps) = (2, Heads { q: 2, kv: 1, dim: 32 }, 1e-5);
    let (width, dim) = (4 * 32, heads.dim);
    let random = Random::new("qk_norm_rope_grad");
    let qkv = normal(backend, &random, [n, width]);
    let [q_weight, k_weight] = [(); 2].map(|()| normal(backend, &random, [1, dim]));
    let angles = random.uniform(5 * dim / 2);
    let table = |f: fn(f32) -> f32| -> Vec<f32> { angles.iter().map(|a| f(*a * 6.0)).collect() };
    let [cos, sin] = [f32::cos, f32::sin].map(|f| Tensor::<B, f32>::flat(backend, Layout::Packed, table(f)));
    let positions = Tensor::flat(backend, Layout::Packed, vec![4, 1]);
    let (d_q, d_k) = (normal(backend, &random, [n, 2 * dim]), normal(backend, &random, [n, dim]));
    let mut d_qk = zeros(backend, [n, 3 * dim]);
    let op = QkNormRopeGrad {
        qkv: qkv.mat(),
        heads,
        q_weight: q_weight.view(),
        k_weight: k_weight.view(),
        eps,
        positions: positions.view(),
        cos: cos.view(),
        sin: sin.view(),
        d_q: d_q.mat(),
        d_k: d_k.mat(),
        d_qk: d_qk.mat_mut(),
    };
    op.run(backend).unwrap();
    let weights = [q_weight.to_f64(), q_weight.to_f64(), k_weight.to_f64()];
    let (cos, sin) = (cos.to_f64(), sin.to_f64());
    // The gradient's rows hold queries and keys only; so do the points at which the loss is taken.
    let qk: Vec<f64> = (0..n * 3 * dim).map(|i| qkv.at(i / (3 * dim), i % (3 * dim))).collect();
    let d: Vec<f64> = (0..n)
        .flat_map(|i| (0..3 * dim).map(move |j| (i, j)))
        .map(|(i, j)| if j < 2 * dim { d_q.at(i, j) } else { d_k.at(i, j - 2 * dim) })
        .collect();
    check("qk_norm_rope: qkv", &d_qk.read(backend, "d_qk"), &qk, |qk| {
        let heads = qk.chunks(dim).enumerate().flat_map(|(h, head)| {
            let row = positions.values()[h / 3] as usize * dim / 2;
            let angles = row..row + dim / 2;
            oracle::rotate(&oracle::rms_norm(head, &weights[h % 3], eps), &cos[angles.clone()], &sin[angles])
        });
        weighted(&d, heads.map(|v| v.v))
    });
}

/// The outputs of packed attention in f64, flat.
fn attention_of(pack: &Pack, scale: f32, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let Heads { q: q_heads, kv, dim } = pack.heads;
    let mut out = Vec::new();
    for i in 0..pack.n() {
        for h in 0..q_heads {
            let group = h / (q_heads / kv);
            let rows = |x: &[f64]| -> Vec<f64> {
                let row = |j: usize| x[(j * kv + group) * dim..(j * kv + group + 1) * dim].to_vec();
                (pack.start_of(i)..=i).flat_map(row).collect()
            };
            let query = &q[(i * q_heads + h) * dim..(i * q_heads + h + 1) * dim];
            let (row, _) = oracle::attention::<f32>(&Head { q: query, k: &rows(k), v: &rows(v), scale });
            out.extend(row.into_iter().map(|v| v.v));
        }
    }
    out
}

fn attention_grad<B: Backend>(backend: &B) {
    let heads = Heads { q: 2, kv: 1, dim: 32 };
    let pack = Pack { heads, lengths: vec![3, 0, 4], layout: Layout::Packed };
    let (n, width, scale) = (pack.n(), 2 * heads.dim, 0.2);
    let random = Random::new("attention_grad");
    let q = normal(backend, &random, [n, width]);
    let [k, v] = [(); 2].map(|()| normal(backend, &random, [n, heads.dim]));
    let d_out = normal(backend, &random, [n, width]);
    let cu_seqlens = Tensor::flat(backend, Layout::Packed, pack.cu_seqlens());
    let (mut out, mut lse, mut delta) = (zeros(backend, [n, width]), zeros(backend, [2, n]), zeros(backend, [2, n]));
    let forward = Attention {
        q: q.mat(),
        k: k.mat(),
        v: v.mat(),
        heads,
        cu_seqlens: cu_seqlens.view(),
        max_len: pack.max_len(),
        scale,
        out: out.mat_mut(),
        lse: lse.view_mut(),
    };
    forward.run(backend).unwrap();
    let mut d_q = zeros(backend, [n, width]);
    let [mut d_k, mut d_v] = [(); 2].map(|()| zeros(backend, [n, heads.dim]));
    let op = AttentionGrad {
        q: q.mat(),
        k: k.mat(),
        v: v.mat(),
        heads,
        cu_seqlens: cu_seqlens.view(),
        max_len: pack.max_len(),
        scale,
        out: out.mat(),
        lse: lse.view(),
        d_out: d_out.mat(),
        delta: delta.view_mut(),
        d_q: d_q.mat_mut(),
        d_k: d_k.mat_mut(),
        d_v: d_v.mat_mut(),
    };
    op.run(backend).unwrap();
    let (q, k, v, d_out) = (q.to_f64(), k.to_f64(), v.to_f64(), d_out.to_f64());
    let loss = |q: &[f64], k: &[f64], v: &[f64]| weighted(&d_out, attention_of(&pack, scale, q, k, v));
    check("attention: q", &d_q.read(backend, "d_q"), &q, |q| loss(q, &k, &v));
    check("attention: k", &d_k.read(backend, "d_k"), &k, |k| loss(&q, k, &v));
    check("attention: v", &d_v.read(backend, "d_v"), &v, |v| loss(&q, &k, v));
}

fn swiglu_grad<B: Backend>(backend: &B) {
    let [n, f] = [3, 9];
    let random = Random::new("swiglu_grad");
    let (gate_up, d_out) = (normal(backend, &random, [n, 2 * f]), normal(backend, &random, [n, f]));
    let mut d_gate_up = zeros(backend, [n, 2 * f]);
    let op = SwigluGrad { gate_up: gate_up.mat(), d_out: d_out.mat(), d_gate_up: d_gate_up.mat_mut() };
    op.run(backend).unwrap();
    let d_out = d_out.to_f64();
    check("swiglu: gate_up", &d_gate_up.read(backend, "d_gate_up"), &gate_up.to_f64(), |x| {
        weighted(&d_out, x.chunks(2 * f).flat_map(|row| (0..f).map(|j| oracle::swiglu(row[j], row[f + j]).v)))
    });
}

fn cross_entropy_grad<B: Backend>(backend: &B) {
    let ([n, vocab], scale) = ([4, 17], 0.75);
    let random = Random::new("cross_entropy");
    let before = normal(backend, &random, [n, vocab]);
    let mut logits = normal(backend, &Random::new("cross_entropy"), [n, vocab]);
    let labels = Tensor::flat(backend, Layout::Packed, vec![3, halfbyte::ops::IGNORE, 16, 0]);
    let mut losses = zeros(backend, [1, n]);
    let grad_scale = Some(scale);
    let op = CrossEntropy { logits: logits.mat_mut(), labels: labels.view(), losses: losses.view_mut(), grad_scale };
    op.run(backend).unwrap();
    check("cross_entropy: logits", &logits.read(backend, "logits"), &before.to_f64(), |x| {
        let rows = x.chunks(vocab).zip(labels.values());
        let loss = |(row, label): (&[f64], &u32)| Some(oracle::cross_entropy(row, *label as usize, 1.0)?.0.v);
        rows.filter_map(loss).sum::<f64>() * f64::from(scale)
    });
}

backends!(
    linear_grad,
    linear4_grad,
    lora_grad,
    rms_norm_grad,
    qk_norm_rope_grad,
    attention_grad,
    swiglu_grad,
    cross_entropy_grad,
);
