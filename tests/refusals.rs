//! Arguments that do not fit are refused before anything runs, in words that name the op and the argument.
mod common;

use halfbyte::{
    Backend, Element, Mat, MatMut, View, ViewMut,
    ops::{
        AdamW, Attention, AttentionGrad, CacheAppend, Cast, CrossEntropy, DecodeAttention, Dequantize, Dropout,
        GatherRows, Heads, Linear, Linear4, Linear4Grad, LinearGrad, Lora, LoraGrad, NestAbsmax, Norm, Op, QkNormRope,
        QkNormRopeGrad, Quantize, RmsNorm, RmsNormGrad, Sample, ScatterRows, Sum, Swiglu, SwigluGrad, WeightGrad,
    },
    quant::{Format, Scales, Weight4},
};

/// Views of zeros that live as long as the test.
struct Zeros<'a, B: Backend>(&'a B);

impl<B: Backend> Zeros<'_, B> {
    fn out<T: Element>(&self, len: usize) -> ViewMut<'static, B, T> {
        Box::leak(Box::new(self.0.zeros(len).unwrap())).view_mut()
    }

    fn view<T: Element>(&self, len: usize) -> View<'static, B, T> {
        Box::leak(Box::new(self.0.zeros(len).unwrap())).view()
    }

    fn mat<T: Element>(&self, rows: usize, cols: usize) -> Mat<'static, B, T> {
        Mat::new(self.view(rows * cols), rows, cols)
    }

    fn mat_mut<T: Element>(&self, rows: usize, cols: usize) -> MatMut<'static, B, T> {
        MatMut::new(self.out(rows * cols), rows, cols)
    }

    /// `[6, 128]`, NF4, blocks of 64.
    fn weight(&self) -> Weight4<'static, B> {
        let scales = Scales::Plain(self.view(12));
        Weight4 { format: Format::Nf4, block_size: 64, rows: 6, cols: 128, codes: self.view(384), scales }
    }

    /// The op as it is fits; that is what makes the refusals below refusals of one argument.
    fn fits<O: Op<B>>(&self, op: O) {
        if let Err(e) = op.check(self.0) {
            panic!("{e}");
        }
    }

    fn refuses<O: Op<B>>(&self, op: O, message: &str) {
        let error = op.run(self.0).expect_err(message);
        assert_eq!(error.to_string(), message);
    }
}

const HEADS: Heads = Heads { q: 4, kv: 2, dim: 32 };
const NO_HEADS: &str = "heads is 4 / 3, but kv heads must divide the query heads";
const NO_DIM: &str = "the head dimension is 48, but it must be 32, 64 or 128";

fn linear<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Linear::<B, f32> { x: z.mat(4, 8), weight: z.view(48), out: z.mat_mut(4, 6), accumulate: false };
    z.fits(good());
    z.refuses(Linear { x: z.mat(3, 8), ..good() }, "linear: `x` is [3, 8], expected [4, 8]");
    z.refuses(Linear { weight: z.view(47), ..good() }, "linear: `weight` has 47 elements, expected 48");
    z.refuses(Linear { out: z.mat_mut(4, 7), ..good() }, "linear: `weight` has 48 elements, expected 56");
    let op = Linear::<B, f32, half::f16> { x: z.mat(1, 1), weight: z.view(1), out: z.mat_mut(1, 1), accumulate: false };
    z.refuses(op, "linear: the output type is f16, but it must be the input type or f32");

    let good =
        || LinearGrad::<B, f32> { d_out: z.mat(4, 6), weight: z.view(48), d_x: z.mat_mut(4, 8), accumulate: false };
    z.fits(good());
    z.refuses(LinearGrad { d_out: z.mat(5, 6), ..good() }, "linear_grad: `d_out` is [5, 6], expected [4, 6]");
    z.refuses(LinearGrad { weight: z.view(0), ..good() }, "linear_grad: `weight` has 0 elements, expected 48");

    let good = || WeightGrad::<B, f32> { x: z.mat(4, 8), d_out: z.mat(4, 6), d_weight: z.out(48) };
    z.fits(good());
    z.refuses(WeightGrad { x: z.mat(5, 8), ..good() }, "weight_grad: `x` is [5, 8], expected [4, 8]");
    z.refuses(WeightGrad { d_weight: z.out(40), ..good() }, "weight_grad: `d_weight` has 40 elements, expected 48");
}

fn linear4<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let weight = || z.weight();
    let good = || Linear4::<B, f32> { x: z.mat(4, 128), weight: weight(), out: z.mat_mut(4, 6), accumulate: false };
    z.fits(good());
    z.refuses(Linear4 { x: z.mat(4, 127), ..good() }, "linear4: `x` is [4, 127], expected [4, 128]");
    z.refuses(Linear4 { out: z.mat_mut(3, 6), ..good() }, "linear4: `out` is [3, 6], expected [4, 6]");
    let odd = Weight4 { block_size: 48, ..weight() };
    let message = "linear4: the block size is 48, but it must be a power of two from 32 to 4096";
    z.refuses(Linear4 { weight: odd, ..good() }, message);
    let short = Weight4 { codes: z.view(383), ..weight() };
    z.refuses(Linear4 { weight: short, ..good() }, "linear4: `weight.codes` has 383 elements, expected 384");
    let short = Weight4 { scales: Scales::Plain(z.view(11)), ..weight() };
    z.refuses(Linear4 { weight: short, ..good() }, "linear4: `weight.absmax` has 11 elements, expected 12");
    let short = Weight4 { scales: Scales::Nested { codes: z.view(12), groups: z.view(0) }, ..weight() };
    z.refuses(Linear4 { weight: short, ..good() }, "linear4: `weight.nested_absmax` has 0 elements, expected 1");
    let short = Weight4 { scales: Scales::Nested { codes: z.view(13), groups: z.view(1) }, ..weight() };
    z.refuses(Linear4 { weight: short, ..good() }, "linear4: `weight.absmax` has 13 elements, expected 12");

    let good =
        || Linear4Grad::<B, f32> { d_out: z.mat(4, 6), weight: weight(), d_x: z.mat_mut(4, 128), accumulate: false };
    z.fits(good());
    z.refuses(Linear4Grad { d_out: z.mat(4, 7), ..good() }, "linear4_grad: `d_out` is [4, 7], expected [4, 6]");
    z.refuses(Linear4Grad { d_x: z.mat_mut(4, 64), ..good() }, "linear4_grad: `d_x` is [4, 64], expected [4, 128]");

    let op = Dequantize::<B, f32> { weight: weight(), out: z.out(767) };
    z.refuses(op, "dequantize: `out` has 767 elements, expected 768");
}

fn quantize<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Quantize::<B, f32> {
        x: z.view(65),
        format: Format::Fp4,
        block_size: 64,
        codes: z.out(33),
        absmax: z.out(2),
    };
    z.fits(good());
    let message = "quantize: the block size is 16, but it must be a power of two from 32 to 4096";
    z.refuses(Quantize { block_size: 16, ..good() }, message);
    z.refuses(Quantize { codes: z.out(32), ..good() }, "quantize: `codes` has 32 elements, expected 33");
    z.refuses(Quantize { absmax: z.out(1), ..good() }, "quantize: `absmax` has 1 elements, expected 2");

    let good = || NestAbsmax::<B> { absmax: z.view(257), codes: z.out(257), groups: z.out(2) };
    z.fits(good());
    z.refuses(NestAbsmax { codes: z.out(256), ..good() }, "nest_absmax: `codes` has 256 elements, expected 257");
    z.refuses(NestAbsmax { groups: z.out(1), ..good() }, "nest_absmax: `groups` has 1 elements, expected 2");

    let error = "int4".parse::<Format>().unwrap_err();
    assert_eq!(error.to_string(), "quantize: the format is int4, but it must be nf4 or fp4");
}

fn lora<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Lora::<B, f32> {
        x: z.mat(4, 10),
        a: z.view(30),
        b: z.view(18),
        scale: 1.0,
        dropout: None,
        xa: z.mat_mut(4, 3),
        out: z.mat_mut(4, 6),
    };
    z.fits(good());
    z.refuses(Lora { xa: z.mat_mut(5, 3), ..good() }, "lora: `xa` is [5, 3], expected [4, 3]");
    z.refuses(Lora { out: z.mat_mut(5, 6), ..good() }, "lora: `out` is [5, 6], expected [4, 6]");
    z.refuses(Lora { a: z.view(29), ..good() }, "lora: `a` has 29 elements, expected 30");
    z.refuses(Lora { b: z.view(19), ..good() }, "lora: `b` has 19 elements, expected 18");
    for p in [1.0, -0.1, f32::NAN] {
        let dropout = Some(Dropout { p, seed: 0, stream: 0 });
        let message = format!("lora: dropout is {p}, but it must be at least 0 and below 1");
        z.refuses(Lora { dropout, ..good() }, &message);
    }

    let good = || LoraGrad::<B, f32> {
        x: z.mat(4, 10),
        a: z.view(30),
        b: z.view(18),
        scale: 1.0,
        dropout: None,
        xa: z.mat(4, 3),
        d_out: z.mat(4, 6),
        d_xa: z.mat_mut(4, 3),
        d_a: z.out(30),
        d_b: z.out(18),
        d_x: Some(z.mat_mut(4, 10)),
    };
    z.fits(good());
    z.refuses(LoraGrad { xa: z.mat(3, 3), ..good() }, "lora_grad: `xa` is [3, 3], expected [4, 3]");
    z.refuses(LoraGrad { d_out: z.mat(3, 6), ..good() }, "lora_grad: `d_out` is [3, 6], expected [4, 6]");
    z.refuses(LoraGrad { d_xa: z.mat_mut(4, 2), ..good() }, "lora_grad: `d_xa` is [4, 2], expected [4, 3]");
    z.refuses(LoraGrad { a: z.view(31), ..good() }, "lora_grad: `a` has 31 elements, expected 30");
    z.refuses(LoraGrad { b: z.view(17), ..good() }, "lora_grad: `b` has 17 elements, expected 18");
    z.refuses(LoraGrad { d_a: z.out(31), ..good() }, "lora_grad: `d_a` has 31 elements, expected 30");
    z.refuses(LoraGrad { d_b: z.out(17), ..good() }, "lora_grad: `d_b` has 17 elements, expected 18");
    let d_x = Some(z.mat_mut(4, 11));
    z.refuses(LoraGrad { d_x, ..good() }, "lora_grad: `d_x` is [4, 11], expected [4, 10]");
    let dropout = Some(Dropout { p: 2.0, seed: 0, stream: 0 });
    let message = "lora_grad: dropout is 2, but it must be at least 0 and below 1";
    z.refuses(LoraGrad { dropout, ..good() }, message);
}

fn rms_norm<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || RmsNorm::<B, f32> { x: z.mat(3, 8), add: None, weight: z.view(8), eps: 1e-6, out: z.mat_mut(3, 8) };
    z.fits(good());
    z.refuses(RmsNorm { weight: z.view(7), ..good() }, "rms_norm: `weight` has 7 elements, expected 8");
    z.refuses(RmsNorm { out: z.mat_mut(2, 8), ..good() }, "rms_norm: `out` is [2, 8], expected [3, 8]");
    let add = Some((z.mat(3, 9), z.mat_mut(3, 8)));
    z.refuses(RmsNorm { add, ..good() }, "rms_norm: `add.0` is [3, 9], expected [3, 8]");
    let add = Some((z.mat(3, 8), z.mat_mut(4, 8)));
    z.refuses(RmsNorm { add, ..good() }, "rms_norm: `add.1` is [4, 8], expected [3, 8]");
    let empty = RmsNorm { x: z.mat(3, 0), weight: z.view(0), out: z.mat_mut(3, 0), ..good() };
    z.refuses(empty, "rms_norm: the row length is 0, but a norm needs at least one element");

    let good = || RmsNormGrad::<B, f32> {
        x: z.mat(3, 8),
        weight: z.view(8),
        eps: 1e-6,
        d_out: z.mat(3, 8),
        d_x: z.mat_mut(3, 8),
        accumulate: false,
    };
    z.fits(good());
    z.refuses(RmsNormGrad { weight: z.view(9), ..good() }, "rms_norm_grad: `weight` has 9 elements, expected 8");
    z.refuses(RmsNormGrad { d_out: z.mat(3, 7), ..good() }, "rms_norm_grad: `d_out` is [3, 7], expected [3, 8]");
    z.refuses(RmsNormGrad { d_x: z.mat_mut(2, 8), ..good() }, "rms_norm_grad: `d_x` is [2, 8], expected [3, 8]");
}

fn qk_norm_rope<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || QkNormRope::<B, f32> {
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
    };
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

fn attention<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Attention::<B, f32> {
        q: z.mat(5, 128),
        k: z.mat(5, 64),
        v: z.mat(5, 64),
        heads: HEADS,
        cu_seqlens: z.view(3),
        max_len: 5,
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

fn attention_grad<B: Backend>(backend: &B) {
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

fn decode_attention<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || CacheAppend::<B, f32> {
        k: z.mat(2, 64),
        v: z.mat(2, 64),
        seqs: z.view(2),
        positions: z.view(2),
        capacity: 7,
        k_cache: z.out(3 * 7 * 64),
        v_cache: z.out(3 * 7 * 64),
    };
    z.fits(good());
    z.refuses(CacheAppend { v: z.mat(2, 63), ..good() }, "cache_append: `v` is [2, 63], expected [2, 64]");
    z.refuses(CacheAppend { seqs: z.view(3), ..good() }, "cache_append: `seqs` has 3 elements, expected 2");
    z.refuses(CacheAppend { positions: z.view(1), ..good() }, "cache_append: `positions` has 1 elements, expected 2");
    let message = "cache_append: k_cache is 450, but it must hold whole sequences";
    z.refuses(CacheAppend { k_cache: z.out(450), ..good() }, message);
    let message = "cache_append: k_cache is 1344, but it must hold whole sequences";
    z.refuses(CacheAppend { capacity: 0, ..good() }, message);
    z.refuses(CacheAppend { v_cache: z.out(448), ..good() }, "cache_append: `v_cache` has 448 elements, expected 1344");

    let good = || DecodeAttention::<B, f32> {
        q: z.mat(2, 128),
        k_cache: z.view(2 * 7 * 64),
        v_cache: z.view(2 * 7 * 64),
        heads: HEADS,
        positions: z.view(2),
        capacity: 7,
        scale: 0.1,
        out: z.mat_mut(2, 128),
    };
    z.fits(good());
    z.refuses(DecodeAttention { q: z.mat(2, 64), ..good() }, "decode_attention: `q` is [2, 64], expected [2, 128]");
    let message = "decode_attention: capacity is 0, but the cache must hold at least one position";
    z.refuses(DecodeAttention { capacity: 0, ..good() }, message);
    let message = "decode_attention: scale is 0, but it must be positive and finite";
    z.refuses(DecodeAttention { scale: 0.0, ..good() }, message);
    let message = "decode_attention: `k_cache` has 895 elements, expected 896";
    z.refuses(DecodeAttention { k_cache: z.view(895), ..good() }, message);
    let message = "decode_attention: `v_cache` has 448 elements, expected 896";
    z.refuses(DecodeAttention { v_cache: z.view(448), ..good() }, message);
    let message = "decode_attention: `positions` has 3 elements, expected 2";
    z.refuses(DecodeAttention { positions: z.view(3), ..good() }, message);
    let message = "decode_attention: `out` is [1, 128], expected [2, 128]";
    z.refuses(DecodeAttention { out: z.mat_mut(1, 128), ..good() }, message);
}

fn swiglu<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let op = Swiglu::<B, f32> { gate_up: z.mat(3, 9), out: z.mat_mut(3, 5) };
    z.refuses(op, "swiglu: `gate_up` is [3, 9], expected [3, 10]");
    let good = || SwigluGrad::<B, f32> { gate_up: z.mat(3, 10), d_out: z.mat(3, 5), d_gate_up: z.mat_mut(3, 10) };
    z.fits(good());
    z.refuses(SwigluGrad { gate_up: z.mat(2, 10), ..good() }, "swiglu_grad: `gate_up` is [2, 10], expected [3, 10]");
    let message = "swiglu_grad: `d_gate_up` is [3, 5], expected [3, 10]";
    z.refuses(SwigluGrad { d_gate_up: z.mat_mut(3, 5), ..good() }, message);
}

fn rows<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || GatherRows::<B, f32> { table: z.mat(9, 4), rows: z.view(3), out: z.mat_mut(3, 4) };
    z.fits(good());
    z.refuses(GatherRows { out: z.mat_mut(2, 4), ..good() }, "gather_rows: `out` is [2, 4], expected [3, 4]");
    z.refuses(GatherRows { table: z.mat(0, 4), ..good() }, "gather_rows: the table is 0, but it must have rows");
    let good = || ScatterRows::<B, f32> { x: z.mat(3, 4), rows: z.view(3), out: z.mat_mut(9, 4) };
    z.fits(good());
    z.refuses(ScatterRows { rows: z.view(4), ..good() }, "scatter_rows: `x` is [3, 4], expected [4, 4]");
    z.refuses(ScatterRows { out: z.mat_mut(9, 5), ..good() }, "scatter_rows: `x` is [3, 4], expected [3, 5]");
}

fn cross_entropy<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good =
        || CrossEntropy::<B, f32> { logits: z.mat_mut(3, 8), labels: z.view(3), losses: z.out(3), grad_scale: None };
    z.fits(good());
    z.refuses(CrossEntropy { labels: z.view(2), ..good() }, "cross_entropy: `labels` has 2 elements, expected 3");
    z.refuses(CrossEntropy { losses: z.out(4), ..good() }, "cross_entropy: `losses` has 4 elements, expected 3");
    let message = "cross_entropy: the vocabulary is 0, but it must not be empty";
    z.refuses(CrossEntropy { logits: z.mat_mut(3, 0), ..good() }, message);
}

fn sample<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Sample::<B> {
        logits: z.mat_mut(2, 8),
        n_vocab: 8,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 0,
        history: z.out(10),
        positions: z.out(2),
        tokens: z.out(2),
    };
    z.fits(good());
    for n_vocab in [0, 9] {
        let message = format!("sample: n_vocab is {n_vocab}, but it must be from 1 to the number of logits");
        z.refuses(Sample { n_vocab, ..good() }, &message);
    }
    for temperature in [-1.0, f32::NAN, f32::INFINITY] {
        let message = format!("sample: temperature is {temperature}, but it must be 0 (greedy) or a positive number");
        z.refuses(Sample { temperature, ..good() }, &message);
    }
    for top_p in [0.0, 1.5, f32::NAN] {
        let message = format!("sample: top_p is {top_p}, but it must be above 0 and at most 1");
        z.refuses(Sample { top_p, ..good() }, &message);
    }
    for min_p in [-0.5, 1.5, f32::NAN] {
        z.refuses(Sample { min_p, ..good() }, &format!("sample: min_p is {min_p}, but it must be from 0 to 1"));
    }
    for repetition_penalty in [0.0, -1.0, f32::NAN] {
        let message = format!("sample: repetition_penalty is {repetition_penalty}, but it must be a positive number");
        z.refuses(Sample { repetition_penalty, ..good() }, &message);
    }
    for len in [0, 9] {
        let message = format!("sample: history is {len}, but it must hold the same capacity for each sequence");
        z.refuses(Sample { history: z.out(len), ..good() }, &message);
    }
    z.refuses(Sample { positions: z.out(1), ..good() }, "sample: `positions` has 1 elements, expected 2");
    z.refuses(Sample { tokens: z.out(3), ..good() }, "sample: `tokens` has 3 elements, expected 2");
}

fn flat<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let op = Cast::<B, f32, half::bf16> { x: z.view(3), out: z.out(4) };
    z.refuses(op, "cast: `out` has 4 elements, expected 3");
    z.refuses(Sum::<B> { x: z.view(3), out: z.out(0), accumulate: false }, "sum: `out` has 0 elements, expected 1");
    z.refuses(Norm::<B> { x: z.view(3), out: z.out(2) }, "norm: `out` has 2 elements, expected 1");
    let good = || AdamW::<B, f32> {
        weights: z.out(5),
        grads: z.view(5),
        m: z.out(5),
        v: z.out(5),
        compute: z.out(5),
        lr: 1e-3,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_scale: 1.0,
    };
    z.fits(good());
    z.refuses(AdamW { grads: z.view(4), ..good() }, "adamw: `grads` has 4 elements, expected 5");
    z.refuses(AdamW { m: z.out(4), ..good() }, "adamw: `m` has 4 elements, expected 5");
    z.refuses(AdamW { v: z.out(6), ..good() }, "adamw: `v` has 6 elements, expected 5");
    z.refuses(AdamW { compute: z.out(0), ..good() }, "adamw: `compute` has 0 elements, expected 5");
    z.refuses(AdamW { step: 0, ..good() }, "adamw: step is 0, but steps are counted from 1");
}

backends!(
    linear,
    linear4,
    quantize,
    lora,
    rms_norm,
    qk_norm_rope,
    attention,
    attention_grad,
    decode_attention,
    swiglu,
    rows,
    cross_entropy,
    sample,
    flat,
);
