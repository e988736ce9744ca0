//! The same over a cache in 8 bits.

use super::{Case, Tokens, bits, fresh};
use crate::common::{
    close::Close,
    make::Make,
    ops::dequantize_rows::Int8Rows,
    setup::Setup,
    tensor::{Output, Tensor},
    zeros::Zeros,
};
use halfbyte::{
    Backend, Float, Result,
    ops::{DecodeAttention, Heads, KvMut, Op},
};

/// Keys or values with scales that `scale` makes of numbers from 0 to 1. What lies at a sequence's position and behind it
/// was never written: scales there are NaN.
fn rows<B: Backend>(make: &Make<B>, case: &Case, scale: fn(f32) -> f32) -> Int8Rows<B> {
    let (Heads { kv, dim, .. }, n, capacity) = (case.heads, case.positions.len(), case.capacity);
    let mut scales: Vec<f32> = make.random.uniform(n * kv * capacity).into_iter().map(scale).collect();
    if !make.is_bench() {
        for (scales, &position) in scales.chunks_mut(kv * capacity).zip(&case.positions) {
            scales.chunks_mut(capacity).for_each(|head| head[case.cached(position)..].fill(f32::NAN));
        }
    }
    let codes = make.codes([1, n * capacity * kv * dim], case.layout);
    Int8Rows { codes, scales: make.flat(case.layout, scales) }
}

pub struct Int8<B: Backend, T: Float> {
    tokens: Tokens<B, T>,
    k: Int8Rows<B>,
    v: Int8Rows<B>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Int8<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("decode_attention in 8 bits {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Heads { q, dim, .. } = case.heads;
        Int8 {
            tokens: Tokens::new(make, case),
            k: rows(make, case, |u| u / 64.0),
            // From zero over next to nothing to more than any other.
            v: rows(make, case, |u| if u < 0.1 { 0.0 } else { (24.0 * u - 20.0).exp() }),
            out: make.output([case.positions.len(), q * dim], case.layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Int8 { tokens, k, v, out } = self;
        tokens.op(Int8Rows::cache(k, v), out).run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        let Int8 { k, v, out, .. } = self;
        let out: &mut dyn Output<B> = out;
        [out].into_iter().chain(Int8Rows::outputs(k, v)).collect()
    }

    /// Caches hold what [`halfbyte::ops::QkNormRope`] puts there, to the bit; the rest follows from its queries.
    fn compare(&mut self, close: &Close<'_, B>) {
        let (Heads { kv, dim, .. }, capacity) = (self.tokens.case.heads, self.tokens.case.capacity);
        let backend = close.backend;
        let [mut k, mut v] = [&self.k, &self.v]
            .map(|rows| Int8Rows { codes: fresh(backend, &rows.codes), scales: fresh(backend, &rows.scales) });
        let queries = self.tokens.rotated(close, Int8Rows::cache(&mut k, &mut v));
        let [k, v] = [k, v].map(|rows| (rows.codes.read(backend, close.name), rows.scales.read(backend, close.name)));
        for (part, rows, (codes, scales)) in [("k", &self.k, &k), ("v", &self.v, &v)] {
            let same = rows.codes.now() == codes && bits(rows.scales.now()) == bits(scales);
            assert!(same, "{}: the caches of {part} differ", close.name);
        }
        let row = |(codes, scales): &(Vec<i8>, Vec<f32>), i: usize, h: usize| {
            let scale = f64::from(scales[(i / capacity * kv + h) * capacity + i % capacity]);
            codes[(i * kv + h) * dim..][..dim].iter().map(|&code| f64::from(code) * scale).collect()
        };
        self.tokens.compare(close, (&queries, &self.out), [&|i, h| row(&k, i, h), &|i, h| row(&v, i, h)]);
    }
}

pub fn refuses<'a, B: Backend>(z: &Zeros<'a, B>, with: impl Fn(KvMut<'a, B, f32>) -> DecodeAttention<'a, B, f32>) {
    let int8 = |k, v, k_scales, v_scales| {
        with(KvMut::Int8 { k: z.out(k), v: z.out(v), k_scales: z.out(k_scales), v_scales: z.out(v_scales) })
    };
    z.fits(int8(896, 896, 28, 28));
    z.refuses(int8(895, 896, 28, 28), "decode_attention: `cache.k` has 895 elements, expected 896");
    z.refuses(int8(896, 448, 28, 28), "decode_attention: `cache.v` has 448 elements, expected 896");
    z.refuses(int8(896, 896, 27, 28), "decode_attention: `cache.k_scales` has 27 elements, expected 28");
    z.refuses(int8(896, 896, 28, 29), "decode_attention: `cache.v_scales` has 29 elements, expected 28");
}
