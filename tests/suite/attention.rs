use crate::common::{
    self,
    cases::{self, Pack},
    close::compare_some,
    num::Num,
    oracle::{self, Head},
    random::{Random, property},
    tensor::{Layout, Tensor, twice},
};
use halfbyte::{
    Backend, Float,
    ops::{Attention, AttentionGrad, Heads, Op},
};

/// Queries, keys and values of packed sequences, as the backend has them and exactly.
struct Inputs<B: Backend, T: Float> {
    heads: Heads,
    pack: Pack,
    scale: f32,
    q: Tensor<B, T>,
    k: Tensor<B, T>,
    v: Tensor<B, T>,
    cu_seqlens: Tensor<B, u32>,
}

/// Columns of head `h` of row `i` in a matrix of `heads` heads.
fn head_of(x: &[f64], heads: usize, dim: usize, i: usize, h: usize) -> &[f64] {
    &x[(i * heads + h) * dim..(i * heads + h + 1) * dim]
}

/// The same head of rows `from .. to`, one after the other.
fn head_of_rows(x: &[f64], heads: usize, dim: usize, [from, to]: [usize; 2], h: usize) -> Vec<f64> {
    (from..to).flat_map(|i| head_of(x, heads, dim, i, h).iter().copied()).collect()
}

impl<B: Backend, T: Float> Inputs<B, T> {
    fn new(backend: &B, pack: &Pack, random: &Random) -> Self {
        let (Heads { q, kv, dim }, n) = (pack.heads, pack.n());
        let matrix = |heads: usize, deviation| {
            let values = random.normal(n * heads * dim, deviation);
            Tensor::of(backend, [n, heads * dim], pack.layout, &values)
        };
        Inputs {
            heads: pack.heads,
            pack: pack.clone(),
            scale: (dim as f32).powf(-0.5),
            q: matrix(q, 1.5),
            k: matrix(kv, 1.0),
            v: matrix(kv, 1.0),
            cu_seqlens: Tensor::flat(backend, Layout::Packed, pack.cu_seqlens()),
        }
    }

    fn exact(&self) -> Exact {
        Exact { pack: self.pack.clone(), scale: self.scale, q: self.q.to_f64(), k: self.k.to_f64(), v: self.v.to_f64() }
    }
}

/// The same numbers in f64.
struct Exact {
    pack: Pack,
    scale: f32,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

impl Exact {
    /// The output of row `i` and query head `h`, and its `lse`.
    fn row<T: Float>(&self, i: usize, h: usize) -> (Vec<Num>, Num) {
        let Heads { q, kv, dim } = self.pack.heads;
        let (range, group) = ([self.pack.start_of(i), i + 1], h / (q / kv));
        let (k, v) = (head_of_rows(&self.k, kv, dim, range, group), head_of_rows(&self.v, kv, dim, range, group));
        let head = Head { q: head_of(&self.q, q, dim, i, h), k: &k, v: &v, scale: self.scale };
        oracle::attention::<T>(&head)
    }

    /// Every output, `[n, q dim]`, and every `lse`, `[q, n]`.
    fn outputs<T: Float>(&self) -> (Vec<Num>, Vec<Num>) {
        let (n, heads) = (self.pack.n(), self.pack.heads.q);
        let (mut out, mut lse) = (Vec::new(), vec![Num::ZERO; heads * n]);
        for i in 0..n {
            for h in 0..heads {
                let (row, row_lse) = self.row::<T>(i, h);
                out.extend(row);
                lse[h * n + i] = row_lse;
            }
        }
        (out, lse)
    }
}

fn forward<B: Backend, T: Float>(backend: &B, pack: &Pack) {
    let name = format!("attention {} {pack:?}", T::DTYPE.suffix());
    let inputs = Inputs::<B, T>::new(backend, pack, &Random::new(&name));
    let (n, width) = (pack.n(), pack.heads.q * pack.heads.dim);
    let (out, lse) = twice(&name, || {
        let mut out = Tensor::<B, T>::poisoned(backend, [n, width], pack.layout);
        let mut lse = Tensor::<B, f32>::poisoned_flat(backend, pack.heads.q * n, Layout::Packed);
        let op = Attention {
            q: inputs.q.mat(),
            k: inputs.k.mat(),
            v: inputs.v.mat(),
            heads: inputs.heads,
            cu_seqlens: inputs.cu_seqlens.view(),
            max_len: pack.max_len(),
            scale: inputs.scale,
            out: out.mat_mut(),
            lse: lse.view_mut(),
        };
        op.run(backend).unwrap();
        (out.read(backend, &name), lse.read(backend, &name))
    });
    let (want, want_lse) = inputs.exact().outputs::<T>();
    compare_some(&format!("{name}: out"), &out, width, usize::MAX, |i, j| want[i * width + j]);
    compare_some(&format!("{name}: lse"), &lse, n, usize::MAX, |h, i| want_lse[h * n + i]);
}

/// All gradients, with `out` and `lse` as they were given to the op.
struct Gradients {
    d_q: Vec<Num>,
    d_k: Vec<Num>,
    d_v: Vec<Num>,
    delta: Vec<Num>,
}

fn gradients<T: Float>(exact: &Exact, out: &[f64], lse: &[f64], d_out: &[f64]) -> Gradients {
    let (Heads { q: q_heads, kv, dim }, n) = (exact.pack.heads, exact.pack.n());
    let zeros = |heads: usize| vec![Num::ZERO; n * heads * dim];
    // Terms are added one by one; `size` and `count` of each sum give its rounding error at the end.
    let mut g = Gradients { d_q: zeros(q_heads), d_k: zeros(kv), d_v: zeros(kv), delta: vec![Num::ZERO; q_heads * n] };
    let mut sizes = [zeros(q_heads), zeros(kv), zeros(kv)];
    let add = |sum: &mut [Num], size: &mut [Num], factor: Num, row: &[f64]| {
        for ((sum, size), &x) in sum.iter_mut().zip(size).zip(row) {
            let term = (factor.v * x, factor.err * x.abs());
            *sum = Num { v: sum.v + term.0, err: sum.err + term.1 };
            *size = Num { v: size.v + term.0.abs(), err: size.err + 1.0 };
        }
    };
    for h in 0..q_heads {
        let group = h / (q_heads / kv);
        for i in 0..n {
            let row = (i * q_heads + h) * dim..(i * q_heads + h + 1) * dim;
            let (q_i, d_i) = (&exact.q[row.clone()], &d_out[row.clone()]);
            let delta = Num::dot(d_i.iter().copied().zip(out[row.clone()].iter().copied()));
            g.delta[h * n + i] = delta;
            for j in exact.pack.start_of(i)..=i {
                let key = (j * kv + group) * dim..(j * kv + group + 1) * dim;
                let (k_j, v_j) = (&exact.k[key.clone()], &exact.v[key.clone()]);
                let score = oracle::scores(&Head { q: q_i, k: k_j, v: v_j, scale: exact.scale })[0];
                let [p, ds] = oracle::attention_grad::<T>(score, lse[h * n + i], d_i, v_j, delta);
                add(&mut g.d_v[key.clone()], &mut sizes[2][key.clone()], p, d_i);
                add(&mut g.d_k[key.clone()], &mut sizes[1][key], ds, q_i);
                add(&mut g.d_q[row.clone()], &mut sizes[0][row.clone()], ds, k_j);
            }
        }
    }
    let scale = Num::from(exact.scale);
    let finish = |sum: Vec<Num>, sizes: &[Num], scale: Num| {
        let one =
            |(sum, size): (Num, &Num)| scale * Num { err: sum.err + common::num::sum_error(size.err) * size.v, ..sum };
        sum.into_iter().zip(sizes).map(one).collect()
    };
    Gradients {
        d_q: finish(g.d_q, &sizes[0], scale),
        d_k: finish(g.d_k, &sizes[1], scale),
        d_v: finish(g.d_v, &sizes[2], Num::from(1.0)),
        delta: g.delta,
    }
}

fn gradient<B: Backend, T: Float>(backend: &B, pack: &Pack) {
    let name = format!("attention_grad {} {pack:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let inputs = Inputs::<B, T>::new(backend, pack, &random);
    let (Heads { q: q_heads, kv, dim }, n) = (pack.heads, pack.n());
    let (q_width, kv_width) = (q_heads * dim, kv * dim);
    let exact = inputs.exact();
    // As a forward op would have left them.
    let (out, lse) = exact.outputs::<T>();
    let [out, lse] = [out, lse].map(|values| values.iter().map(|v| v.v as f32).collect::<Vec<f32>>());
    let out = Tensor::<B, T>::of(backend, [n, q_width], pack.layout, &out);
    let lse = Tensor::<B, f32>::of(backend, [1, q_heads * n], Layout::Packed, &lse);
    let d_out = Tensor::<B, T>::of(backend, [n, q_width], pack.layout, &random.normal(n * q_width, 1.0));
    let (delta, d_q, d_k, d_v) = twice(&name, || {
        let mut delta = Tensor::<B, f32>::poisoned_flat(backend, q_heads * n, Layout::Packed);
        let mut d_q = Tensor::<B, T>::poisoned(backend, [n, q_width], pack.layout);
        let [mut d_k, mut d_v] = [(); 2].map(|()| Tensor::<B, T>::poisoned(backend, [n, kv_width], pack.layout));
        let op = AttentionGrad {
            q: inputs.q.mat(),
            k: inputs.k.mat(),
            v: inputs.v.mat(),
            heads: inputs.heads,
            cu_seqlens: inputs.cu_seqlens.view(),
            max_len: pack.max_len(),
            scale: inputs.scale,
            out: out.mat(),
            lse: lse.view(),
            d_out: d_out.mat(),
            delta: delta.view_mut(),
            d_q: d_q.mat_mut(),
            d_k: d_k.mat_mut(),
            d_v: d_v.mat_mut(),
        };
        op.run(backend).unwrap();
        let read = |tensor: &Tensor<B, T>| tensor.read(backend, &name);
        (delta.read(backend, &name), read(&d_q), read(&d_k), read(&d_v))
    });
    let want = gradients::<T>(&exact, &out.to_f64(), &lse.to_f64(), &d_out.to_f64());
    compare_some(&format!("{name}: delta"), &delta, n, usize::MAX, |h, i| want.delta[h * n + i]);
    let parts = [("d_q", d_q, want.d_q, q_width), ("d_k", d_k, want.d_k, kv_width), ("d_v", d_v, want.d_v, kv_width)];
    for (part, got, want, width) in parts {
        compare_some(&format!("{name}: {part}"), &got, width, usize::MAX, |i, j| want[i * width + j]);
    }
}

fn attention<B: Backend>(backend: &B) {
    for pack in cases::packs() {
        each_float!(forward::<B>(backend, &pack));
    }
    property(12, cases::any_pack(), |pack| each_float!(forward::<B>(backend, &pack)));
}

fn attention_grad<B: Backend>(backend: &B) {
    for pack in cases::packs() {
        each_float!(gradient::<B>(backend, &pack));
    }
    property(12, cases::any_pack(), |pack| each_float!(gradient::<B>(backend, &pack)));
}

backends!(attention, attention_grad);
