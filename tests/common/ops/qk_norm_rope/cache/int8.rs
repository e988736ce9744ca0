//! The same cache in 8 bits.

use super::{CAPACITY, Case, Forward, Stored, all, stored, tokens};
use crate::common::{
    close::Close,
    make::Make,
    ops::dequantize_rows::Int8Rows,
    setup::Setup,
    tensor::{Output, Tensor},
};
use halfbyte::{
    Backend, Float, Result,
    ops::{CacheRows, Heads, Op},
};

pub struct Int8<B: Backend, T: Float> {
    forward: Forward<B, T>,
    seqs: Tensor<B, u32>,
    k: Int8Rows<B>,
    v: Int8Rows<B>,
}

/// What heads are hard to put into 8 bits: zeros, what is next to nothing, and what is not finite.
fn edit(values: &mut [f32], dim: usize) {
    for (i, head) in values.chunks_exact_mut(dim).enumerate() {
        match i % 9 {
            2 => head.fill(0.0),
            3 => head.iter_mut().for_each(|x| *x *= 1e-36),
            5 => head.iter_mut().for_each(|x| *x *= 1e-12),
            6 => head[dim / 2] = f32::INFINITY,
            7 => head[dim - 1] = f32::NAN,
            _ => {}
        }
    }
}

impl<B: Backend, T: Float> Setup<B> for Int8<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("qk_norm_rope with a cache in 8 bits {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Case { n, heads: Heads { q, kv, dim }, layout } = *case;
        let (mut forward, seqs) = tokens(make, case);
        let width = (q + 2 * kv) * dim;
        forward.inputs.qkv = make.normal_but([n, width], layout, 1.0, |values| {
            values.chunks_exact_mut(width).for_each(|row| edit(&mut row[(q + kv) * dim..], dim));
        });
        // Of three sequences.
        let rows = || Int8Rows {
            codes: make.codes([1, 3 * CAPACITY * kv * dim], layout),
            scales: make.normal([1, 3 * kv * CAPACITY], layout, 1.0),
        };
        Int8 { forward, seqs, k: rows(), v: rows() }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Int8 { forward: Forward { inputs, q, k }, seqs, k: keys, v: values } = self;
        let kv = Int8Rows::cache(keys, values);
        inputs.op(q, k, Some(CacheRows { seqs: seqs.view(), capacity: CAPACITY, kv })).run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        let Int8 { forward, k, v, .. } = self;
        let [q, k_out]: [&mut dyn Output<B>; 2] = [&mut forward.q, &mut forward.k];
        [q, k_out].into_iter().chain(Int8Rows::outputs(k, v)).collect()
    }

    /// Codes and scales are those of the rounded key and of the value, to the bit.
    fn compare(&mut self, close: &Close<'_, B>) {
        self.forward.compare(close);
        let Heads { kv, dim, .. } = self.forward.inputs.case.heads;
        for (part, cache, of_values) in [("k", &self.k, false), ("v", &self.v, true)] {
            let (mut codes, mut scales) = (cache.codes.values().to_vec(), cache.scales.values().to_vec());
            for Stored { seq, position, rows } in stored(&self.forward, &self.seqs) {
                for (h, head) in rows[usize::from(of_values)].chunks_exact(dim).enumerate() {
                    let (want, scale) = quantized(head);
                    codes[((seq * CAPACITY + position) * kv + h) * dim..][..dim].copy_from_slice(&want);
                    scales[(seq * kv + h) * CAPACITY + position] = scale;
                }
            }
            let scales_agree = scales.iter().zip(cache.scales.now()).all(|(want, got)| same(*want, *got));
            assert!(scales_agree, "{}: the scales of {part} differ", close.name);
            assert!(cache.codes.now() == codes, "{}: the codes of {part} differ", close.name);
        }
    }
}

/// Neither is finite, or both are the same.
fn same(want: f32, got: f32) -> bool {
    if want.is_finite() { want == got } else { !got.is_finite() }
}

/// By the formula of [`halfbyte::ops::KvMut::Int8`].
fn quantized<T: Float>(head: &[T]) -> (Vec<i8>, f32) {
    let head: Vec<f32> = head.iter().map(|x| x.to_f32()).collect();
    if !head.iter().all(|x| x.is_finite()) {
        return (vec![0; head.len()], f32::NAN);
    }
    let m = head.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    let code = |x: &f32| if m < 2f32.powi(-100) { 0 } else { (x * (127.0 / m)).round_ties_even() as i8 };
    (head.iter().map(code).collect(), m / 127.0)
}

pub fn qk_norm_rope_into_8_bits<B: Backend>(backend: &B) {
    all().iter().for_each(|case| check_each!(Int8, backend, case));
}
