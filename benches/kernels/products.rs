//! Linear layers, adapters, and the 4-bit formats.

use crate::work::{Model, Run, Work, bytes, normal, zeros};
use half::bf16;
use halfbyte::{
    Backend, Buf, Mat,
    ops::{
        Dequantize, Dropout, Linear, Linear4, Linear4Grad, LinearGrad, Lora, LoraGrad, NestAbsmax, Op, Quantize,
        WeightGrad,
    },
    quant::{Format, GROUP, Group, Scales, Weight4},
};

const BLOCK: usize = 64;

/// Outputs and inputs of the projections of a layer.
fn projections(model: &Model) -> [[usize; 2]; 4] {
    let qkv = (model.heads.q + 2 * model.heads.kv) * model.heads.dim;
    let o = model.heads.q * model.heads.dim;
    [[qkv, model.hidden], [model.hidden, o], [2 * model.intermediate, model.hidden], [model.hidden, model.intermediate]]
}

/// A nested NF4 weight.
struct Weight<B: Backend> {
    shape: [usize; 2],
    codes: Buf<B, u8>,
    absmax: Buf<B, u8>,
    groups: Buf<B, Group>,
}

impl<B: Backend> Weight<B> {
    fn new(backend: &B, shape: [usize; 2]) -> Self {
        let len = shape[0] * shape[1];
        let group = Group { absmax: 0.01, offset: 0.05 };
        let groups = backend.upload(&vec![group; (len / BLOCK).div_ceil(GROUP)]).unwrap();
        Weight { shape, codes: bytes(backend, len / 2), absmax: bytes(backend, len / BLOCK), groups }
    }

    fn weight(&self) -> Weight4<'_, B> {
        let scales = Scales::Nested { codes: self.absmax.view(), groups: self.groups.view() };
        let [rows, cols] = self.shape;
        Weight4 { format: Format::Nf4, block_size: BLOCK, rows, cols, codes: self.codes.view(), scales }
    }
}

/// Bytes of a nested weight.
fn weight_bytes([rows, cols]: [usize; 2]) -> usize {
    let len = rows * cols;
    len / 2 + len / BLOCK + len / BLOCK / GROUP * 8
}

/// `n` tokens through a 4-bit weight.
fn linear4<B: Backend>(n: usize, shape: [usize; 2]) -> Work<B> {
    let [outputs, inputs] = shape;
    let cost = [weight_bytes(shape) + 2 * n * (inputs + outputs), 2 * n * inputs * outputs];
    Work::new("linear4", format!("{n} x {outputs} x {inputs}"), cost, move |b: &B| {
        let (x, weight, mut out) =
            (normal::<B, bf16>(b, n * inputs), Weight::new(b, shape), zeros::<B, bf16>(b, n * outputs));
        Box::new(move |b: &B| {
            let (x, out) = (x.mat(n, inputs), out.mat_mut(n, outputs));
            Linear4 { x, weight: weight.weight(), out, accumulate: false }.run(b)
        }) as Run<B>
    })
}

fn linear4_grad<B: Backend>(n: usize, shape: [usize; 2]) -> Work<B> {
    let [outputs, inputs] = shape;
    let cost = [weight_bytes(shape) + 2 * n * (inputs + outputs), 2 * n * inputs * outputs];
    Work::new("linear4_grad", format!("{n} x {outputs} x {inputs}"), cost, move |b: &B| {
        let (d_out, weight, mut d_x) =
            (normal::<B, bf16>(b, n * outputs), Weight::new(b, shape), zeros::<B, bf16>(b, n * inputs));
        Box::new(move |b: &B| {
            let (d_out, d_x) = (d_out.mat(n, outputs), d_x.mat_mut(n, inputs));
            Linear4Grad { d_out, weight: weight.weight(), d_x, accumulate: false }.run(b)
        }) as Run<B>
    })
}

/// A dense weight; f32 outputs, as logits have.
fn linear<B: Backend>(n: usize, [outputs, inputs]: [usize; 2]) -> Work<B> {
    let cost = [2 * outputs * inputs + 2 * n * inputs + 4 * n * outputs, 2 * n * inputs * outputs];
    Work::new("linear", format!("{n} x {outputs} x {inputs}"), cost, move |b: &B| {
        let (x, weight) = (normal::<B, bf16>(b, n * inputs), normal::<B, bf16>(b, outputs * inputs));
        let mut out: Buf<B, f32> = zeros(b, n * outputs);
        Box::new(move |b: &B| {
            let (x, out) = (x.mat(n, inputs), out.mat_mut(n, outputs));
            Linear { x, weight: weight.view(), out, accumulate: false }.run(b)
        }) as Run<B>
    })
}

fn linear_grad<B: Backend>(n: usize, [outputs, inputs]: [usize; 2]) -> Work<B> {
    let cost = [2 * outputs * inputs + 2 * n * (inputs + outputs), 2 * n * inputs * outputs];
    Work::new("linear_grad", format!("{n} x {outputs} x {inputs}"), cost, move |b: &B| {
        let (d_out, weight) = (normal::<B, bf16>(b, n * outputs), normal::<B, bf16>(b, outputs * inputs));
        let mut d_x: Buf<B, bf16> = zeros(b, n * inputs);
        Box::new(move |b: &B| {
            let (d_out, d_x) = (d_out.mat(n, outputs), d_x.mat_mut(n, inputs));
            LinearGrad { d_out, weight: weight.view(), d_x, accumulate: false }.run(b)
        }) as Run<B>
    })
}

fn weight_grad<B: Backend>(n: usize, [outputs, inputs]: [usize; 2]) -> Work<B> {
    let cost = [8 * outputs * inputs + 2 * n * (inputs + outputs), 2 * n * inputs * outputs];
    Work::new("weight_grad", format!("{n} x {outputs} x {inputs}"), cost, move |b: &B| {
        let (x, d_out) = (normal::<B, bf16>(b, n * inputs), normal::<B, bf16>(b, n * outputs));
        let mut d_weight: Buf<B, f32> = zeros(b, outputs * inputs);
        Box::new(move |b: &B| {
            let (x, d_out) = (x.mat(n, inputs), d_out.mat(n, outputs));
            WeightGrad { x, d_out, d_weight: d_weight.view_mut() }.run(b)
        }) as Run<B>
    })
}

const DROPOUT: Dropout = Dropout { p: 0.1, seed: 1, stream: 2 };

fn adapter_name(n: usize, [outputs, inputs]: [usize; 2], r: usize, dropout: Option<Dropout>) -> String {
    format!("{n} x {outputs} x {inputs} r{r}{}", if dropout.is_some() { " drop" } else { "" })
}

fn lora<B: Backend>(n: usize, shape: [usize; 2], r: usize, dropout: Option<Dropout>) -> Work<B> {
    let [outputs, inputs] = shape;
    let cost = [2 * n * (inputs + r + 2 * outputs) + 2 * r * (inputs + outputs), 2 * n * r * (inputs + outputs)];
    Work::new("lora", adapter_name(n, shape, r, dropout), cost, move |b: &B| {
        let x = normal::<B, bf16>(b, n * inputs);
        let (a, bb) = (normal::<B, bf16>(b, r * inputs), normal::<B, bf16>(b, outputs * r));
        let (mut xa, mut out) = (zeros::<B, bf16>(b, n * r), zeros::<B, bf16>(b, n * outputs));
        Box::new(move |b: &B| {
            let (x, a, bv, xa, out) =
                (x.mat(n, inputs), a.view(), bb.view(), xa.mat_mut(n, r), out.mat_mut(n, outputs));
            Lora { x, a, b: bv, scale: 1e-3, dropout, xa, out }.run(b)
        }) as Run<B>
    })
}

fn lora_grad<B: Backend>(n: usize, shape: [usize; 2], r: usize, dropout: Option<Dropout>) -> Work<B> {
    let [outputs, inputs] = shape;
    let cost = [2 * n * (3 * inputs + 2 * r + outputs) + 10 * r * (inputs + outputs), 4 * n * r * (inputs + outputs)];
    Work::new("lora_grad", adapter_name(n, shape, r, dropout), cost, move |b: &B| {
        let (x, d_out, xa) =
            (normal::<B, bf16>(b, n * inputs), normal::<B, bf16>(b, n * outputs), normal::<B, bf16>(b, n * r));
        let (a, bb) = (normal::<B, bf16>(b, r * inputs), normal::<B, bf16>(b, outputs * r));
        let (mut d_xa, mut d_x) = (zeros::<B, bf16>(b, n * r), zeros::<B, bf16>(b, n * inputs));
        let (mut d_a, mut d_b) = (zeros::<B, f32>(b, r * inputs), zeros::<B, f32>(b, outputs * r));
        Box::new(move |b: &B| {
            let op = LoraGrad {
                x: x.mat(n, inputs),
                a: a.view(),
                b: bb.view(),
                scale: 1e-3,
                dropout,
                xa: xa.mat(n, r),
                d_out: Mat::new(d_out.view(), n, outputs),
                d_xa: d_xa.mat_mut(n, r),
                d_a: d_a.view_mut(),
                d_b: d_b.view_mut(),
                d_x: Some(d_x.mat_mut(n, inputs)),
            };
            op.run(b)
        }) as Run<B>
    })
}

fn formats<B: Backend>([rows, cols]: [usize; 2]) -> [Work<B>; 3] {
    let (len, name) = (rows * cols, format!("{rows} x {cols}"));
    let quantize = Work::new("quantize", name.clone(), [2 * len + len / 2 + len / 16, len], move |b: &B| {
        let (x, mut codes, mut absmax) = (normal::<B, bf16>(b, len), zeros(b, len / 2), zeros(b, len / BLOCK));
        Box::new(move |b: &B| {
            let (codes, absmax) = (codes.view_mut(), absmax.view_mut());
            Quantize { x: x.view(), format: Format::Nf4, block_size: BLOCK, codes, absmax }.run(b)
        }) as Run<B>
    });
    let n = len / BLOCK;
    let nest = Work::new("nest_absmax", format!("{n}"), [5 * n, n], move |b: &B| {
        let (absmax, mut codes, mut groups) = (normal::<B, f32>(b, n), zeros(b, n), zeros(b, n.div_ceil(GROUP)));
        let run = move |b: &B| {
            NestAbsmax { absmax: absmax.view(), codes: codes.view_mut(), groups: groups.view_mut() }.run(b)
        };
        Box::new(run) as Run<B>
    });
    let dequantize = Work::new("dequantize", name, [weight_bytes([rows, cols]) + 2 * len, len], move |b: &B| {
        let (weight, mut out) = (Weight::new(b, [rows, cols]), zeros::<B, bf16>(b, len));
        Box::new(move |b: &B| Dequantize { weight: weight.weight(), out: out.view_mut() }.run(b)) as Run<B>
    });
    [quantize, nest.f32(), dequantize]
}

pub fn all<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let step = model.step_tokens();
    let [qkv, o, gate_up, down] = projections(model);
    let head = [model.vocab, model.hidden];
    let mut works = Vec::new();
    for shape in [qkv, o, gate_up, down] {
        works.extend(model.tokens.iter().map(|&n| linear4(n, shape)));
        works.push(linear4_grad(step, shape));
    }
    works.extend([1, 8, model.logit_rows].map(|n| linear(n, head)));
    works.extend([1, step].map(|n| linear(n, o)));
    works.extend([linear_grad(model.logit_rows, head), linear_grad(step, o), weight_grad(step, o)]);
    for dropout in [None, Some(DROPOUT)] {
        for shape in [o, gate_up, down] {
            works.extend([lora(step, shape, 16, dropout), lora_grad(step, shape, 16, dropout)]);
        }
    }
    works.extend([lora(1, gate_up, 16, None), lora(step, qkv, 64, None), lora_grad(step, qkv, 64, None)]);
    works.extend(formats(down));
    works
}
