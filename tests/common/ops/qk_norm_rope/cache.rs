//! Keys and values that go to a cache beside.

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
    ops::{CacheRows, Heads, Op, QkNormRope},
};

/// Positions of a cache: some tokens, whose position may be up to 54, do not fit.
const CAPACITY: usize = 40;

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
        let Case { n, heads: Heads { kv, dim, .. }, .. } = *case;
        let (len, seqs) = (3 * CAPACITY * kv * dim, (0..n as u32).map(|i| i % 4).collect());
        let mut forward = Forward::new(make, case);
        // No two tokens share a row.
        forward.inputs.positions = make.flat(Layout::Packed, (0..n as u32).map(|i| i * 7 % 55).collect());
        Cached {
            forward,
            seqs: make.flat(Layout::Odd, seqs),
            k: make.sum([1, len], Layout::Packed, true),
            v: make.sum([1, len], Layout::Packed, true),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Cached { forward: Forward { inputs, q, k }, seqs, k: k_cache, v: v_cache } = self;
        let cache = CacheRows { seqs: seqs.view(), capacity: CAPACITY, k: k_cache.view_mut(), v: v_cache.view_mut() };
        inputs.op(q, k, Some(cache)).run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.forward.q, &mut self.forward.k, &mut self.k, &mut self.v]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        self.forward.compare(close);
        let Forward { inputs, k, .. } = &self.forward;
        let Case { n, heads: Heads { q, kv, dim }, .. } = inputs.case;
        let width = kv * dim;
        let mut want = [self.k.values().to_vec(), self.v.values().to_vec()];
        for i in 0..n {
            let (seq, position) = (self.seqs.values()[i] as usize, inputs.positions.values()[i] as usize);
            if seq < 3 && position < CAPACITY {
                let at = (seq * CAPACITY + position) * width;
                want[0][at..at + width].copy_from_slice(&k.now()[i * width..(i + 1) * width]);
                let values = &inputs.qkv.values()[i * (q + 2 * kv) * dim..][(q + kv) * dim..][..width];
                want[1][at..at + width].copy_from_slice(values);
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
    let rows = || CacheRows { seqs: z.view(3), capacity: 7, k: z.out(3 * 7 * 64), v: z.out(3 * 7 * 64) };
    let with = |cache| QkNormRope { cache: Some(cache), ..good(&z) };
    z.fits(with(rows()));
    let message = "qk_norm_rope: `cache.seqs` has 2 elements, expected 3";
    z.refuses(with(CacheRows { seqs: z.view(2), ..rows() }), message);
    let message = "qk_norm_rope: cache.k is 450, but it must hold whole sequences";
    z.refuses(with(CacheRows { k: z.out(450), ..rows() }), message);
    let message = "qk_norm_rope: cache.k is 1344, but it must hold whole sequences";
    z.refuses(with(CacheRows { capacity: 0, ..rows() }), message);
    let message = "qk_norm_rope: `cache.v` has 448 elements, expected 1344";
    z.refuses(with(CacheRows { v: z.out(448), ..rows() }), message);
}
