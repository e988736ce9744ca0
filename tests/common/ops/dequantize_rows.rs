use crate::common::{
    close::Close,
    make::Make,
    setup::{Check, Setup},
    tensor::{LAYOUTS, Layout, Output, Tensor},
    work::{Model, Work},
    zeros::{NO_DIM, Zeros},
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{DequantizeRows, KvMut, Op},
};

/// Keys or values of a cache in 8 bits.
pub struct Int8Rows<B: Backend> {
    /// `[n_seqs, capacity, heads.kv dim]`
    pub codes: Tensor<B, i8>,
    /// `[n_seqs, heads.kv, capacity]`
    pub scales: Tensor<B, f32>,
}

impl<B: Backend> Int8Rows<B> {
    /// Both as a cache.
    pub fn cache<'a, T: Float>(k: &'a mut Self, v: &'a mut Self) -> KvMut<'a, B, T> {
        KvMut::Int8 {
            k: k.codes.view_mut(),
            v: v.codes.view_mut(),
            k_scales: k.scales.view_mut(),
            v_scales: v.scales.view_mut(),
        }
    }

    pub fn outputs<'a>(k: &'a mut Self, v: &'a mut Self) -> [&'a mut dyn Output<B>; 4] {
        [&mut k.codes, &mut k.scales, &mut v.codes, &mut v.scales]
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    n: usize,
    heads: usize,
    dim: usize,
    layout: Layout,
}

pub struct Rows<B: Backend, T: Float> {
    case: Case,
    codes: Tensor<B, i8>,
    scales: Tensor<B, f32>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Rows<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("dequantize_rows {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Case { n, heads, dim, layout } = *case;
        Rows {
            case: *case,
            codes: make.codes([n, heads * dim], layout),
            scales: make.normal([heads, n], layout, 1.0),
            out: make.output([n, heads * dim], layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let (codes, scales) = (self.codes.mat(), self.scales.mat());
        DequantizeRows { codes, scales, dim: self.case.dim, out: self.out.mat_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    /// To the bit: one product and one rounding.
    fn compare(&mut self, close: &Close<'_, B>) {
        let Case { n, heads, dim, .. } = self.case;
        for (i, got) in self.out.now().iter().enumerate() {
            let (row, head) = (i / (heads * dim), i % (heads * dim) / dim);
            let want = T::from_f32(f32::from(self.codes.values()[i]) * self.scales.values()[head * n + row]);
            assert!(*got == want, "{}: element {i} is {got:?}, expected {want:?}", close.name);
        }
    }
}

fn dequantize_rows<B: Backend>(backend: &B) {
    for (i, dim) in [32, 64, 128].into_iter().enumerate() {
        for (j, n) in [0, 1, 7, 64, 301].into_iter().enumerate() {
            let case = Case { n, heads: [1, 3, 8][(i + j) % 3], dim, layout: LAYOUTS[(i + 2 * j) % 3] };
            check_each!(Rows, backend, &case);
        }
    }
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("dequantize_rows", dequantize_rows)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let (n, heads, dim) = (model.cached.iter().copied().max().unwrap_or(1), model.heads.kv, model.heads.dim);
    let len = n * heads * dim;
    let case = Case { n, heads, dim, layout: Layout::Packed };
    let cost = [3 * len + 4 * n * heads, len];
    vec![Work::new::<Rows<B, bf16>>("dequantize_rows", format!("{n} x {}", heads * dim), cost, case)]
}

fn dequantize_rows_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || DequantizeRows::<B, f32> { codes: z.mat(5, 64), scales: z.mat(2, 5), dim: 32, out: z.mat_mut(5, 64) };
    z.fits(good());
    z.refuses(DequantizeRows { dim: 48, ..good() }, &format!("dequantize_rows: {NO_DIM}"));
    let message = "dequantize_rows: `codes` is [5, 32], expected [5, 64]";
    z.refuses(DequantizeRows { codes: z.mat(5, 32), ..good() }, message);
    let message = "dequantize_rows: `scales` is [2, 4], expected [2, 5]";
    z.refuses(DequantizeRows { scales: z.mat(2, 4), ..good() }, message);
    let message = "dequantize_rows: `out` is [4, 64], expected [5, 64]";
    z.refuses(DequantizeRows { out: z.mat_mut(4, 64), ..good() }, message);
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("dequantize_rows", dequantize_rows_refuses)]
}
