pub mod prefix;

use crate::common::{
    cases::{self, Pack},
    close::Close,
    make::Make,
    num::Num,
    oracle::{self, Head, RowSums},
    random::property,
    setup::{Check, Difference, Setup, differentiate},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::{HEADS, NO_DIM, NO_HEADS, Zeros},
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{Attention, AttentionGrad, Heads, Op},
};

/// Queries, keys and values of packed sequences.
struct Inputs<B: Backend, T: Float> {
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
    fn new(make: &Make<B>, pack: &Pack) -> Self {
        let (Heads { q, kv, dim }, n, layout) = (pack.heads, pack.n(), pack.layout);
        Inputs {
            pack: pack.clone(),
            scale: (dim as f32).powf(-0.5),
            q: make.normal([n, q * dim], layout, 1.5),
            k: make.normal([n, kv * dim], layout, 1.0),
            v: make.normal([n, kv * dim], layout, 1.0),
            cu_seqlens: make.flat(Layout::Packed, pack.cu_seqlens()),
        }
    }

    fn exact(&self) -> Exact {
        let (pack, scale) = (self.pack.clone(), self.scale);
        Exact { pack, scale, q: self.q.to_f64(), k: self.k.to_f64(), v: self.v.to_f64() }
    }
}

/// The same numbers in f64.
#[derive(Clone)]
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

pub struct Forward<B: Backend, T: Float> {
    inputs: Inputs<B, T>,
    out: Tensor<B, T>,
    lse: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Forward<B, T> {
    type Case = Pack;

    fn name(pack: &Pack) -> String {
        format!("attention {} {pack:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, pack: &Pack) -> Self {
        let (Heads { q, dim, .. }, n) = (pack.heads, pack.n());
        Forward {
            inputs: Inputs::new(make, pack),
            out: make.output([n, q * dim], pack.layout),
            lse: make.output([1, q * n], Layout::Packed),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        self.inputs.op(None, &mut self.out, &mut self.lse).run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out, &mut self.lse]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (n, [_, width]) = (self.inputs.pack.n(), self.out.shape());
        let (want, want_lse) = self.inputs.exact().outputs::<T>();
        close.each("out", self.out.now(), width, |i, j| want[i * width + j]);
        close.each("lse", self.lse.now(), n, |h, i| want_lse[h * n + i]);
    }
}

pub struct Gradient<B: Backend, T: Float> {
    inputs: Inputs<B, T>,
    out: Tensor<B, T>,
    lse: Tensor<B, f32>,
    d_out: Tensor<B, T>,
    delta: Tensor<B, f32>,
    d_q: Tensor<B, T>,
    d_k: Tensor<B, T>,
    d_v: Tensor<B, T>,
}

/// `out` and `lse` as a forward op would have left them; in benches a larger `lse` than any score, with which
/// probabilities stay finite.
fn forward_outputs<B: Backend, T: Float>(make: &Make<B>, inputs: &Inputs<B, T>) -> (Tensor<B, T>, Tensor<B, f32>) {
    let (Heads { q, dim, .. }, n, layout) = (inputs.pack.heads, inputs.pack.n(), inputs.pack.layout);
    if make.is_bench() {
        return (make.normal([n, q * dim], layout, 1.0), make.flat(Layout::Packed, vec![20.0; q * n]));
    }
    let (out, lse) = inputs.exact().outputs::<T>();
    let [out, lse] = [out, lse].map(|values| values.iter().map(|v| v.v as f32).collect::<Vec<f32>>());
    (Tensor::of(make.backend, [n, q * dim], layout, &out), make.flat(Layout::Packed, lse))
}

impl<B: Backend, T: Float> Setup<B> for Gradient<B, T> {
    type Case = Pack;

    fn name(pack: &Pack) -> String {
        format!("attention_grad {} {pack:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, pack: &Pack) -> Self {
        let (Heads { q, kv, dim }, n, layout) = (pack.heads, pack.n(), pack.layout);
        let inputs = Inputs::new(make, pack);
        let (out, lse) = forward_outputs(make, &inputs);
        Gradient {
            inputs,
            out,
            lse,
            d_out: make.normal([n, q * dim], layout, 1.0),
            delta: make.output([1, q * n], Layout::Packed),
            d_q: make.output([n, q * dim], layout),
            d_k: make.output([n, kv * dim], layout),
            d_v: make.output([n, kv * dim], layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Inputs { pack, scale, q, k, v, cu_seqlens } = &self.inputs;
        let op = AttentionGrad {
            q: q.mat(),
            k: k.mat(),
            v: v.mat(),
            heads: pack.heads,
            cu_seqlens: cu_seqlens.view(),
            max_len: pack.max_len(),
            scale: *scale,
            out: self.out.mat(),
            lse: self.lse.view(),
            d_out: self.d_out.mat(),
            delta: self.delta.view_mut(),
            d_q: self.d_q.mat_mut(),
            d_k: self.d_k.mat_mut(),
            d_v: self.d_v.mat_mut(),
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.delta, &mut self.d_q, &mut self.d_k, &mut self.d_v]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let n = self.inputs.pack.n();
        let exact = self.inputs.exact();
        let want = Gradients::of::<T>(&exact, &self.out.to_f64(), &self.lse.to_f64(), &self.d_out.to_f64());
        close.each("delta", self.delta.now(), n, |h, i| want.delta[h * n + i]);
        let parts = [("d_q", &self.d_q, want.d_q), ("d_k", &self.d_k, want.d_k), ("d_v", &self.d_v, want.d_v)];
        for (part, got, want) in parts {
            let [_, width] = got.shape();
            close.each(part, got.now(), width, |i, j| want[i * width + j]);
        }
    }

    fn differences(&self) -> Vec<Difference<'_>> {
        let (exact, d_out) = (self.inputs.exact(), self.d_out.to_f64());
        let loss = move |exact: &Exact| oracle::weighted(&d_out, exact.outputs::<f32>().0.into_iter().map(|v| v.v));
        let of = |change: fn(&mut Exact, &[f64])| {
            let (exact, loss) = (exact.clone(), loss.clone());
            Box::new(move |x: &[f64]| {
                let mut moved = exact.clone();
                change(&mut moved, x);
                loss(&moved)
            })
        };
        let (q, k, v) = (self.inputs.q.to_f64(), self.inputs.k.to_f64(), self.inputs.v.to_f64());
        vec![
            Difference { part: "q", got: self.d_q.floats(), at: q, loss: of(|e, x| e.q = x.to_vec()) },
            Difference { part: "k", got: self.d_k.floats(), at: k, loss: of(|e, x| e.k = x.to_vec()) },
            Difference { part: "v", got: self.d_v.floats(), at: v, loss: of(|e, x| e.v = x.to_vec()) },
        ]
    }
}

/// All gradients, with `out` and `lse` as they were given to the op.
struct Gradients {
    d_q: Vec<Num>,
    d_k: Vec<Num>,
    d_v: Vec<Num>,
    delta: Vec<Num>,
}

impl Gradients {
    fn of<T: Float>(exact: &Exact, out: &[f64], lse: &[f64], d_out: &[f64]) -> Self {
        let (Heads { q: q_heads, kv, dim }, n) = (exact.pack.heads, exact.pack.n());
        let [mut d_q, mut d_k, mut d_v] = [q_heads, kv, kv].map(|heads| RowSums::zeros(n * heads * dim));
        let mut deltas = vec![Num::ZERO; q_heads * n];
        for h in 0..q_heads {
            let group = h / (q_heads / kv);
            for i in 0..n {
                let [q_i, out_i, d_i] = [&exact.q, out, d_out].map(|x: &[f64]| head_of(x, q_heads, dim, i, h));
                let delta = Num::dot(d_i.iter().copied().zip(out_i.iter().copied()));
                deltas[h * n + i] = delta;
                for j in exact.pack.start_of(i)..=i {
                    let [k_j, v_j] = [&exact.k, &exact.v].map(|x| head_of(x, kv, dim, j, group));
                    let score = oracle::scores(&Head { q: q_i, k: k_j, v: v_j, scale: exact.scale })[0];
                    let [p, ds] = oracle::attention_grad::<T>(score, lse[h * n + i], d_i, v_j, delta);
                    let (query, key) = ((i * q_heads + h) * dim, (j * kv + group) * dim);
                    d_v.add(key, p, d_i);
                    d_k.add(key, ds, q_i);
                    d_q.add(query, ds, k_j);
                }
            }
        }
        let scale = Num::from(exact.scale);
        Gradients { d_q: d_q.times(scale), d_k: d_k.times(scale), d_v: d_v.times(1.0.into()), delta: deltas }
    }
}

fn attention<B: Backend>(backend: &B) {
    cases::packs().iter().for_each(|pack| check_each!(Forward, backend, pack));
    property(12, cases::any_pack(), |pack| check_each!(Forward, backend, &pack));
}

fn attention_grad<B: Backend>(backend: &B) {
    cases::packs().iter().for_each(|pack| check_each!(Gradient, backend, pack));
    property(12, cases::any_pack(), |pack| check_each!(Gradient, backend, &pack));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    let own: [Check<B>; 2] = [("attention", attention), ("attention_grad", attention_grad)];
    own.into_iter().chain(prefix::checks()).collect()
}

fn tiny<B: Backend>(backend: &B) {
    let heads = Heads { q: 2, kv: 1, dim: 32 };
    let pack = Pack { heads, lengths: vec![3, 0, 4], layout: Layout::Packed };
    differentiate::<B, Gradient<B, f32>>(backend, &pack);
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    vec![("attention_grad", tiny)]
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let (heads, [seqs, len]) = (model.heads, model.step);
    let mut works = Vec::new();
    for [seqs, len] in [[seqs, len], [1, seqs * len]] {
        let pack = Pack { heads, lengths: vec![len; seqs], layout: Layout::Packed };
        let (shape, width) = (format!("{seqs} x {len}"), (heads.q + heads.kv) * heads.dim);
        // Multiplications and additions of one product of all queries with the keys up to each.
        let product = seqs * (len * (len + 1) / 2) * heads.q * heads.dim * 2;
        let [forward, backward] = [[4 * pack.n() * width, 2 * product], [8 * pack.n() * width, 5 * product]];
        works.push(Work::new::<Forward<B, bf16>>("attention", shape.clone(), forward, pack.clone()));
        works.push(Work::new::<Gradient<B, bf16>>("attention_grad", shape, backward, pack));
    }
    works
}

fn attention_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Attention::<B, f32> {
        q: z.mat(5, 128),
        k: z.mat(5, 64),
        v: z.mat(5, 64),
        heads: HEADS,
        cu_seqlens: z.view(3),
        max_len: 5,
        prefix: None,
        scale: 0.1,
        out: z.mat_mut(5, 128),
        lse: z.out(20),
    };
    z.fits(good());
    let heads = |q, kv, dim| Heads { q, kv, dim };
    z.refuses(Attention { heads: heads(4, 3, 32), ..good() }, &format!("attention: {NO_HEADS}"));
    z.refuses(Attention { heads: heads(4, 2, 48), ..good() }, &format!("attention: {NO_DIM}"));
    z.refuses(Attention { k: z.mat(4, 64), ..good() }, "attention: `k` is [4, 64], expected [5, 64]");
    z.refuses(Attention { v: z.mat(5, 128), ..good() }, "attention: `v` is [5, 128], expected [5, 64]");
    let message = "attention: cu_seqlens is 1, but it needs two entries or more";
    z.refuses(Attention { cu_seqlens: z.view(1), ..good() }, message);
    let message = "attention: a dimension is 2147483648, but dimensions must be below 2^31";
    z.refuses(Attention { max_len: 1 << 31, ..good() }, message);
    for scale in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        let message = format!("attention: scale is {scale}, but it must be positive and finite");
        z.refuses(Attention { scale, ..good() }, &message);
    }
    z.refuses(Attention { out: z.mat_mut(5, 64), ..good() }, "attention: `out` is [5, 64], expected [5, 128]");
    z.refuses(Attention { lse: z.out(19), ..good() }, "attention: `lse` has 19 elements, expected 20");
}

fn attention_grad_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || AttentionGrad::<B, f32> {
        q: z.mat(5, 128),
        k: z.mat(5, 64),
        v: z.mat(5, 64),
        heads: HEADS,
        cu_seqlens: z.view(2),
        max_len: 5,
        scale: 0.1,
        out: z.mat(5, 128),
        lse: z.view(20),
        d_out: z.mat(5, 128),
        delta: z.out(20),
        d_q: z.mat_mut(5, 128),
        d_k: z.mat_mut(5, 64),
        d_v: z.mat_mut(5, 64),
    };
    z.fits(good());
    z.refuses(AttentionGrad { out: z.mat(5, 64), ..good() }, "attention_grad: `out` is [5, 64], expected [5, 128]");
    z.refuses(AttentionGrad { lse: z.view(5), ..good() }, "attention_grad: `lse` has 5 elements, expected 20");
    z.refuses(
        AttentionGrad { d_out: z.mat(4, 128), ..good() },
        "attention_grad: `d_out` is [4, 128], expected [5, 128]",
    );
    z.refuses(AttentionGrad { delta: z.out(5), ..good() }, "attention_grad: `delta` has 5 elements, expected 20");
    z.refuses(AttentionGrad { d_q: z.mat_mut(5, 64), ..good() }, "attention_grad: `d_q` is [5, 64], expected [5, 128]");
    z.refuses(
        AttentionGrad { d_k: z.mat_mut(5, 128), ..good() },
        "attention_grad: `d_k` is [5, 128], expected [5, 64]",
    );
    z.refuses(AttentionGrad { d_v: z.mat_mut(4, 64), ..good() }, "attention_grad: `d_v` is [4, 64], expected [5, 64]");
    let message = "attention_grad: cu_seqlens is 0, but it needs two entries or more";
    z.refuses(AttentionGrad { cu_seqlens: z.view(0), ..good() }, message);
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("attention", attention_refuses),
        ("attention_after_prefixes", prefix::refuses),
        ("attention_grad", attention_grad_refuses),
    ]
}
