//! Keys and values that go to a cache beside.

mod int8;

pub use int8::qk_norm_rope_into_8_bits;

use super::{Case, Forward, all, good};
use crate::common::{
    close::Close,
    make::Make,
    setup::Setup,
    tensor::{Layout, Output, Tensor},
    zeros::Zeros,
};
use halfbyte::{
    Backend, Float, Result,
    ops::{CacheRows, Heads, KvMut, Op, QkNormRope},
};

/// Positions of a cache: some tokens, whose position may be up to 54, do not fit.
const CAPACITY: usize = 40;

/// A token that has a place in the cache, with its key and value.
struct Stored<'a, T> {
    seq: usize,
    position: usize,
    rows: [&'a [T]; 2],
}

/// Those of the tokens.
fn stored<'a, B: Backend, T: Float>(
    forward: &'a Forward<B, T>,
    seqs: &'a Tensor<B, u32>,
) -> impl Iterator<Item = Stored<'a, T>> {
    let Forward { inputs, k, .. } = forward;
    let Case { n, heads: Heads { q, kv, dim }, .. } = inputs.case;
    let width = kv * dim;
    let token = move |i: usize| {
        let value = &inputs.qkv.values()[i * (q + 2 * kv) * dim..][(q + kv) * dim..][..width];
        let (seq, position) = (seqs.values()[i] as usize, inputs.positions.values()[i] as usize);
        Stored { seq, position, rows: [&k.now()[i * width..(i + 1) * width], value] }
    };
    (0..n).map(token).filter(|token| token.seq < 3 && token.position < CAPACITY)
}

/// The op, and the sequence of each token.
fn tokens<B: Backend, T: Float>(make: &Make<B>, case: &Case) -> (Forward<B, T>, Tensor<B, u32>) {
    let n = case.n as u32;
    let mut forward = Forward::new(make, case);
    // No two tokens share a row.
    forward.inputs.positions = make.flat(Layout::Packed, (0..n).map(|i| i * 7 % 55).collect());
    (forward, make.flat(Layout::Odd, (0..n).map(|i| i % 4).collect()))
}

/// The same, with keys and values beside in the cache of three sequences.
pub struct Cached<B: Backend, T: Float> {
    forward: Forward<B, T>,
    /// The sequence of each token; the last is not there.
    seqs: Tensor<B, u32>,
    k: Tensor<B, T>,
    v: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Cached<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("qk_norm_rope with a cache {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Heads { kv, dim, .. } = case.heads;
        let len = 3 * CAPACITY * kv * dim;
        let (forward, seqs) = tokens(make, case);
        Cached {
            forward,
            seqs,
            k: make.sum([1, len], Layout::Packed, true),
            v: make.sum([1, len], Layout::Packed, true),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Cached { forward: Forward { inputs, q, k }, seqs, k: k_cache, v: v_cache } = self;
        let kv = KvMut::Plain { k: k_cache.view_mut(), v: v_cache.view_mut() };
        let cache = CacheRows { seqs: seqs.view(), capacity: CAPACITY, kv };
        inputs.op(q, k, Some(cache)).run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.forward.q, &mut self.forward.k, &mut self.k, &mut self.v]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        self.forward.compare(close);
        let Heads { kv, dim, .. } = self.forward.inputs.case.heads;
        let width = kv * dim;
        let mut want = [self.k.values().to_vec(), self.v.values().to_vec()];
        for Stored { seq, position, rows } in stored(&self.forward, &self.seqs) {
            for (want, row) in want.iter_mut().zip(rows) {
                want[(seq * CAPACITY + position) * width..][..width].copy_from_slice(row);
            }
        }
        for (want, cache) in want.iter().zip([&self.k, &self.v]) {
            assert!(cache.now() == want, "{}: the caches differ", close.name);
        }
    }
}

pub fn qk_norm_rope_into_a_cache<B: Backend>(backend: &B) {
    all().iter().for_each(|case| check_each!(Cached, backend, case));
}

pub fn refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let kv = |k, v| KvMut::Plain { k: z.out(k), v: z.out(v) };
    let rows = || CacheRows { seqs: z.view(3), capacity: 7, kv: kv(3 * 7 * 64, 3 * 7 * 64) };
    let with = |cache| QkNormRope { cache: Some(cache), ..good(&z) };
    z.fits(with(rows()));
    let message = "qk_norm_rope: `cache.seqs` has 2 elements, expected 3";
    z.refuses(with(CacheRows { seqs: z.view(2), ..rows() }), message);
    let message = "qk_norm_rope: cache.k is 450, but it must hold whole sequences";
    z.refuses(with(CacheRows { kv: kv(450, 1344), ..rows() }), message);
    let message = "qk_norm_rope: cache.k is 1344, but it must hold whole sequences";
    z.refuses(with(CacheRows { capacity: 0, ..rows() }), message);
    let message = "qk_norm_rope: `cache.v` has 448 elements, expected 1344";
    z.refuses(with(CacheRows { kv: kv(1344, 448), ..rows() }), message);
    let int8 = |k, v, k_scales, v_scales| {
        let (k_scales, v_scales) = (z.out(k_scales), z.out(v_scales));
        let kv = KvMut::Int8 { k: z.out(k), v: z.out(v), k_scales, v_scales };
        with(CacheRows { kv, ..rows() })
    };
    z.fits(int8(1344, 1344, 42, 42));
    z.refuses(int8(450, 1344, 42, 42), "qk_norm_rope: cache.k is 450, but it must hold whole sequences");
    z.refuses(int8(1344, 448, 42, 42), "qk_norm_rope: `cache.v` has 448 elements, expected 1344");
    z.refuses(int8(1344, 1344, 21, 42), "qk_norm_rope: `cache.k_scales` has 21 elements, expected 42");
    z.refuses(int8(1344, 1344, 42, 84), "qk_norm_rope: `cache.v_scales` has 84 elements, expected 42");
}
