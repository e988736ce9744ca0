//! What lies between the linear layers, the two ends of the model, flat vectors.

use crate::work::{Model, Run, Work, below, normal, zeros};
use half::bf16;
use halfbyte::{
    Backend, Buf,
    ops::{
        AdamW, Attention, AttentionGrad, CacheAppend, Cast, CrossEntropy, DecodeAttention, GatherRows, Heads, Norm, Op,
        QkNormRope, QkNormRopeGrad, RmsNorm, RmsNormGrad, Sample, ScatterRows, Sum, Swiglu, SwigluGrad,
    },
};

const EPS: f32 = 1e-6;

fn rms_norm<B: Backend>(n: usize, d: usize) -> [Work<B>; 2] {
    let name = format!("{n} x {d}");
    let forward = Work::new("rms_norm", name.clone(), [8 * n * d, 5 * n * d], move |b: &B| {
        let (x, add, weight) = (normal::<B, bf16>(b, n * d), normal::<B, bf16>(b, n * d), normal::<B, f32>(b, d));
        let (mut sum, mut out) = (zeros::<B, bf16>(b, n * d), zeros::<B, bf16>(b, n * d));
        Box::new(move |b: &B| {
            let add = Some((add.mat(n, d), sum.mat_mut(n, d)));
            RmsNorm { x: x.mat(n, d), add, weight: weight.view(), eps: EPS, out: out.mat_mut(n, d) }.run(b)
        }) as Run<B>
    });
    let backward = Work::new("rms_norm_grad", name, [8 * n * d, 10 * n * d], move |b: &B| {
        let (x, d_out, weight) = (normal::<B, bf16>(b, n * d), normal::<B, bf16>(b, n * d), normal::<B, f32>(b, d));
        let mut d_x: Buf<B, bf16> = zeros(b, n * d);
        Box::new(move |b: &B| {
            let (x, d_out, d_x) = (x.mat(n, d), d_out.mat(n, d), d_x.mat_mut(n, d));
            RmsNormGrad { x, weight: weight.view(), eps: EPS, d_out, d_x, accumulate: true }.run(b)
        }) as Run<B>
    });
    [forward, backward]
}

/// Norm weights of queries and keys, cosines, sines; positions.
fn rope_tables<B: Backend>(b: &B, n: usize, dim: usize) -> ([Buf<B, f32>; 4], Buf<B, u32>) {
    let positions = 4096;
    let table = || normal(b, positions * dim / 2);
    ([normal(b, dim), normal(b, dim), table(), table()], below(b, n, positions))
}

fn qk_norm_rope<B: Backend>(n: usize, heads: Heads) -> [Work<B>; 2] {
    let Heads { q, kv, dim } = heads;
    let [qkv_width, qk, kw, qw] = [(q + 2 * kv) * dim, (q + kv) * dim, kv * dim, q * dim];
    let name = format!("{n} x {qk}");
    let forward = Work::new("qk_norm_rope", name.clone(), [4 * n * qk, 10 * n * qk], move |b: &B| {
        let (qkv, ([qn, kn, cos, sin], positions)) = (normal::<B, bf16>(b, n * qkv_width), rope_tables(b, n, dim));
        let (mut q, mut k) = (zeros::<B, bf16>(b, n * qw), zeros::<B, bf16>(b, n * kw));
        Box::new(move |b: &B| {
            let op = QkNormRope {
                qkv: qkv.mat(n, qkv_width),
                heads,
                q_weight: qn.view(),
                k_weight: kn.view(),
                eps: EPS,
                positions: positions.view(),
                cos: cos.view(),
                sin: sin.view(),
                q: q.mat_mut(n, qw),
                k: k.mat_mut(n, kw),
            };
            op.run(b)
        }) as Run<B>
    });
    let backward = Work::new("qk_norm_rope_grad", name, [6 * n * qk, 20 * n * qk], move |b: &B| {
        let (qkv, ([qn, kn, cos, sin], positions)) = (normal::<B, bf16>(b, n * qkv_width), rope_tables(b, n, dim));
        let (d_q, d_k) = (normal::<B, bf16>(b, n * qw), normal::<B, bf16>(b, n * kw));
        let mut d_qkv: Buf<B, bf16> = zeros(b, n * qkv_width);
        Box::new(move |b: &B| {
            let op = QkNormRopeGrad {
                qkv: qkv.mat(n, qkv_width),
                heads,
                q_weight: qn.view(),
                k_weight: kn.view(),
                eps: EPS,
                positions: positions.view(),
                cos: cos.view(),
                sin: sin.view(),
                d_q: d_q.mat(n, qw),
                d_k: d_k.mat(n, kw),
                d_qk: d_qkv.mat_mut(n, qkv_width).columns(0..qk),
            };
            op.run(b)
        }) as Run<B>
    });
    [forward, backward]
}

fn boundaries<B: Backend>(b: &B, seqs: usize, len: usize) -> Buf<B, u32> {
    let ends: Vec<u32> = (0..=seqs).map(|s| (s * len) as u32).collect();
    b.upload(&ends).unwrap()
}

fn attention<B: Backend>(seqs: usize, len: usize, heads: Heads) -> [Work<B>; 2] {
    let Heads { q: q_heads, kv, dim } = heads;
    let (n, qw, kw) = (seqs * len, q_heads * dim, kv * dim);
    let (name, scale) = (format!("{seqs} x {len}"), (dim as f32).powf(-0.5));
    // Multiplications and additions of one product of all queries with the keys up to each.
    let product = seqs * (len * (len + 1) / 2) * q_heads * dim * 2;
    let forward = Work::new("attention", name.clone(), [4 * n * (qw + kw), 2 * product], move |b: &B| {
        let (q, k, v) = (normal::<B, bf16>(b, n * qw), normal::<B, bf16>(b, n * kw), normal::<B, bf16>(b, n * kw));
        let cu_seqlens = boundaries(b, seqs, len);
        let (mut out, mut lse) = (zeros::<B, bf16>(b, n * qw), zeros::<B, f32>(b, n * q_heads));
        Box::new(move |b: &B| {
            let (q, k, v) = (q.mat(n, qw), k.mat(n, kw), v.mat(n, kw));
            let (cu_seqlens, max_len) = (cu_seqlens.view(), len);
            let (out, lse) = (out.mat_mut(n, qw), lse.view_mut());
            Attention { q, k, v, heads, cu_seqlens, max_len, scale, out, lse }.run(b)
        }) as Run<B>
    });
    let backward = Work::new("attention_grad", name, [8 * n * (qw + kw), 5 * product], move |b: &B| {
        let (q, k, v) = (normal::<B, bf16>(b, n * qw), normal::<B, bf16>(b, n * kw), normal::<B, bf16>(b, n * kw));
        let (out, d_out, cu_seqlens) =
            (normal::<B, bf16>(b, n * qw), normal::<B, bf16>(b, n * qw), boundaries(b, seqs, len));
        // Larger than any score: probabilities stay finite.
        let lse: Buf<B, f32> = b.upload(&vec![20.0; n * q_heads]).unwrap();
        let (mut delta, mut d_q) = (zeros::<B, f32>(b, n * q_heads), zeros::<B, bf16>(b, n * qw));
        let (mut d_k, mut d_v) = (zeros::<B, bf16>(b, n * kw), zeros::<B, bf16>(b, n * kw));
        Box::new(move |b: &B| {
            let op = AttentionGrad {
                q: q.mat(n, qw),
                k: k.mat(n, kw),
                v: v.mat(n, kw),
                heads,
                cu_seqlens: cu_seqlens.view(),
                max_len: len,
                scale,
                out: out.mat(n, qw),
                lse: lse.view(),
                d_out: d_out.mat(n, qw),
                delta: delta.view_mut(),
                d_q: d_q.mat_mut(n, qw),
                d_k: d_k.mat_mut(n, kw),
                d_v: d_v.mat_mut(n, kw),
            };
            op.run(b)
        }) as Run<B>
    });
    [forward, backward]
}

fn decode_attention<B: Backend>(n: usize, cached: usize, heads: Heads) -> Work<B> {
    let Heads { q: q_heads, kv, dim } = heads;
    let (qw, kw) = (q_heads * dim, kv * dim);
    let cost = [4 * n * (cached * kw + qw), 4 * n * cached * qw];
    Work::new("decode_attention", format!("{n} x {cached}"), cost, move |b: &B| {
        let q = normal::<B, bf16>(b, n * qw);
        let (k, v) = (normal::<B, bf16>(b, n * cached * kw), normal::<B, bf16>(b, n * cached * kw));
        let positions = b.upload(&vec![cached as u32 - 1; n]).unwrap();
        let mut out: Buf<B, bf16> = zeros(b, n * qw);
        Box::new(move |b: &B| {
            let op = DecodeAttention {
                q: q.mat(n, qw),
                k_cache: k.view(),
                v_cache: v.view(),
                heads,
                positions: positions.view(),
                capacity: cached,
                scale: (dim as f32).powf(-0.5),
                out: out.mat_mut(n, qw),
            };
            op.run(b)
        }) as Run<B>
    })
}

fn cache_append<B: Backend>(n: usize, width: usize) -> Work<B> {
    let capacity = 2048;
    Work::new("cache_append", format!("{n} x {width}"), [8 * n * width, 0], move |b: &B| {
        let (k, v) = (normal::<B, bf16>(b, n * width), normal::<B, bf16>(b, n * width));
        let (seqs, positions) = (b.upload(&(0..n as u32).collect::<Vec<_>>()).unwrap(), below(b, n, capacity));
        let [mut k_cache, mut v_cache] = [(); 2].map(|()| zeros::<B, bf16>(b, n * capacity * width));
        Box::new(move |b: &B| {
            let op = CacheAppend {
                k: k.mat(n, width),
                v: v.mat(n, width),
                seqs: seqs.view(),
                positions: positions.view(),
                capacity,
                k_cache: k_cache.view_mut(),
                v_cache: v_cache.view_mut(),
            };
            op.run(b)
        }) as Run<B>
    })
}

fn swiglu<B: Backend>(n: usize, f: usize) -> [Work<B>; 2] {
    let name = format!("{n} x {f}");
    let forward = Work::new("swiglu", name.clone(), [6 * n * f, 5 * n * f], move |b: &B| {
        let (gate_up, mut out) = (normal::<B, bf16>(b, n * 2 * f), zeros::<B, bf16>(b, n * f));
        Box::new(move |b: &B| Swiglu { gate_up: gate_up.mat(n, 2 * f), out: out.mat_mut(n, f) }.run(b)) as Run<B>
    });
    let backward = Work::new("swiglu_grad", name, [10 * n * f, 10 * n * f], move |b: &B| {
        let (gate_up, d_out) = (normal::<B, bf16>(b, n * 2 * f), normal::<B, bf16>(b, n * f));
        let mut d_gate_up: Buf<B, bf16> = zeros(b, n * 2 * f);
        Box::new(move |b: &B| {
            let (gate_up, d_out, d_gate_up) = (gate_up.mat(n, 2 * f), d_out.mat(n, f), d_gate_up.mat_mut(n, 2 * f));
            SwigluGrad { gate_up, d_out, d_gate_up }.run(b)
        }) as Run<B>
    });
    [forward, backward]
}

fn rows<B: Backend>(n: usize, [vocab, d]: [usize; 2]) -> [Work<B>; 2] {
    let name = format!("{n} x {d}");
    let gather = Work::new("gather_rows", name.clone(), [4 * n * d, 0], move |b: &B| {
        let (table, rows, mut out) = (normal::<B, bf16>(b, vocab * d), below(b, n, vocab), zeros::<B, bf16>(b, n * d));
        Box::new(move |b: &B| {
            GatherRows { table: table.mat(vocab, d), rows: rows.view(), out: out.mat_mut(n, d) }.run(b)
        }) as Run<B>
    });
    let scatter = Work::new("scatter_rows", name, [4 * n * d, 0], move |b: &B| {
        let rows = b.upload(&(0..n as u32).map(|i| 2 * i).collect::<Vec<_>>()).unwrap();
        let (x, mut out) = (normal::<B, bf16>(b, n * d), zeros::<B, bf16>(b, 2 * n * d));
        Box::new(move |b: &B| ScatterRows { x: x.mat(n, d), rows: rows.view(), out: out.mat_mut(2 * n, d) }.run(b))
            as Run<B>
    });
    [gather, scatter]
}

fn cross_entropy<B: Backend>(n: usize, vocab: usize) -> Work<B> {
    Work::new("cross_entropy", format!("{n} x {vocab}"), [6 * n * vocab, 6 * n * vocab], move |b: &B| {
        let (mut logits, labels) = (normal::<B, bf16>(b, n * vocab), below(b, n, vocab));
        let mut losses: Buf<B, f32> = zeros(b, n);
        Box::new(move |b: &B| {
            let (logits, losses) = (logits.mat_mut(n, vocab), losses.view_mut());
            CrossEntropy { logits, labels: labels.view(), losses, grad_scale: Some(1.0) }.run(b)
        }) as Run<B>
    })
}

fn sample<B: Backend>(n: usize, vocab: usize, temperature: f32) -> Work<B> {
    let capacity = 4096;
    let how = if temperature == 0.0 { "greedy" } else { "top-k top-p" };
    let work = Work::new("sample", format!("{n} x {vocab} {how}"), [4 * n * vocab, n * vocab], move |b: &B| {
        let (mut logits, mut tokens) = (normal::<B, f32>(b, n * vocab), zeros(b, n));
        let (mut history, mut positions) = (below(b, n * capacity, vocab), zeros(b, n));
        Box::new(move |b: &B| {
            let op = Sample {
                logits: logits.mat_mut(n, vocab),
                n_vocab: vocab,
                temperature,
                top_k: 20,
                top_p: 0.95,
                min_p: 0.0,
                repetition_penalty: 1.0,
                seed: 0,
                history: history.view_mut(),
                positions: positions.view_mut(),
                tokens: tokens.view_mut(),
            };
            op.run(b)
        }) as Run<B>
    });
    work.f32()
}

fn flat<B: Backend>(n: usize) -> [Work<B>; 4] {
    let cast = Work::new("cast", format!("{n}"), [6 * n, 0], move |b: &B| {
        let (x, mut out) = (normal::<B, f32>(b, n), zeros::<B, bf16>(b, n));
        Box::new(move |b: &B| Cast { x: x.view(), out: out.view_mut() }.run(b)) as Run<B>
    });
    let sum = Work::new("sum", format!("{n}"), [4 * n, n], move |b: &B| {
        let (x, mut out) = (normal(b, n), zeros(b, 1));
        Box::new(move |b: &B| Sum { x: x.view(), out: out.view_mut(), accumulate: false }.run(b)) as Run<B>
    });
    let norm = Work::new("norm", format!("{n}"), [4 * n, 2 * n], move |b: &B| {
        let (x, mut out) = (normal(b, n), zeros(b, 1));
        Box::new(move |b: &B| Norm { x: x.view(), out: out.view_mut() }.run(b)) as Run<B>
    });
    let adamw = Work::new("adamw", format!("{n}"), [30 * n, 15 * n], move |b: &B| {
        let (mut weights, grads, mut compute) = (normal(b, n), normal(b, n), zeros::<B, bf16>(b, n));
        let (mut m, mut v) = (zeros(b, n), zeros(b, n));
        Box::new(move |b: &B| {
            let op = AdamW {
                weights: weights.view_mut(),
                grads: grads.view(),
                m: m.view_mut(),
                v: v.view_mut(),
                compute: compute.view_mut(),
                lr: 1e-4,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: 0.0,
                step: 10,
                grad_scale: 1.0,
            };
            op.run(b)
        }) as Run<B>
    });
    [cast, sum.f32(), norm.f32(), adamw]
}

pub fn all<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let Model { hidden, intermediate, heads, vocab, .. } = *model;
    let (n, [seqs, len]) = (model.step_tokens(), model.step);
    let mut works = Vec::new();
    for n in [1, n] {
        works.extend(rms_norm(n, hidden));
        works.extend(qk_norm_rope(n, heads));
        works.extend(swiglu(n, intermediate));
    }
    works.extend(attention(seqs, len, heads));
    works.extend(attention(1, n, heads));
    works.extend(model.cached.iter().map(|&cached| decode_attention(1, cached, heads)));
    works.push(decode_attention(8, 2000, heads));
    works.extend([cache_append(1, heads.kv * heads.dim), cache_append(8, heads.kv * heads.dim)]);
    works.extend(rows(n, [vocab, hidden]));
    works.push(cross_entropy(model.logit_rows, vocab));
    works.extend([sample(1, vocab, 0.0), sample(1, vocab, 0.7), sample(8, vocab, 0.7)]);
    works.extend(flat(model.adapter));
    works
}
