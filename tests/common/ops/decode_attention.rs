mod int8;

use crate::common::{
    close::Close,
    make::Make,
    num::Num,
    oracle::{self, Head},
    setup::{Check, Setup},
    tensor::{LAYOUTS, Layout, Output, Tensor},
    work::{Model, Work},
    zeros::{HEADS, NO_DIM, NO_HEADS, Zeros},
};
use half::bf16;
use halfbyte::{
    Backend, Element, Float, Result,
    ops::{CacheRows, DecodeAttention, Heads, KvMut, Op, QkNormRope},
};
use int8::Int8;

const EPS: f32 = 1e-6;

#[derive(Debug, Clone)]
pub struct Case {
    pub heads: Heads,
    pub capacity: usize,
    pub positions: Vec<u32>,
    pub layout: Layout,
    pub settled: bool,
}

impl Case {
    /// Rows of the cache that were written before.
    fn cached(&self, position: u32) -> usize {
        (position as usize).min(self.capacity)
    }

    /// Rows that a sequence attends to.
    fn used(&self, position: u32) -> usize {
        (position as usize).min(self.capacity - 1) + 1
    }
}

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    // Positions at the edges of tiles and of the cache; those beyond have no place in it.
    let sequences: [(usize, &[u32]); 6] = [
        (1, &[0]),
        (130, &[0, 129, 64]),
        (70, &[69, 70, u32::MAX, 1]),
        (300, &[255, 256, 257, 3, 31, 32, 33, 299]),
        (1000, &[999]),
        (2500, &[2499, 0]),
    ];
    for (i, dim) in [32, 64, 128].into_iter().enumerate() {
        for (j, (capacity, positions)) in sequences.into_iter().enumerate() {
            let (q, kv) = [(1, 1), (2, 1), (4, 1), (4, 2), (3, 3), (8, 1)][(i + j) % 6];
            let (positions, layout) = (positions.to_vec(), LAYOUTS[(i + j) % 3]);
            cases.push(Case { heads: Heads { q, kv, dim }, capacity, positions, layout, settled: j % 2 == 0 });
        }
    }
    let mut case = |[q, kv, dim]: [usize; 3], capacity, positions: &[u32], layout| {
        let (positions, settled) = (positions.to_vec(), cases.len().is_multiple_of(2));
        cases.push(Case { heads: Heads { q, kv, dim }, capacity, positions, layout, settled });
    };
    case([32, 8, 128], 400, &[390], Layout::Packed);
    // Groups that are cut.
    case([12, 1, 128], 300, &[299, 17, 300], Layout::Slice);
    case([20, 2, 64], 140, &[127, 128], Layout::Odd);
    // More splits than are merged at a time.
    case([2, 1, 64], 9000, &[8990], Layout::Packed);
    case([2, 2, 64], 5, &[], Layout::Packed);
    cases
}

/// What the op reads beside the cache.
struct Tokens<B: Backend, T: Float> {
    case: Case,
    qkv: Tensor<B, T>,
    weights: [Tensor<B, f32>; 2],
    cos: Tensor<B, f32>,
    sin: Tensor<B, f32>,
    positions: Tensor<B, u32>,
}

impl<B: Backend, T: Float> Tokens<B, T> {
    fn new(make: &Make<B>, case: &Case) -> Self {
        let (Heads { q, kv, dim }, n) = (case.heads, case.positions.len());
        // Some positions are beyond the last row, which they take.
        let angles = make.random.uniform(case.capacity.min(200) * dim / 2);
        let table = |f: fn(f32) -> f32| {
            make.flat(Layout::Packed, angles.iter().map(|a| f(a * std::f32::consts::TAU)).collect())
        };
        Tokens {
            case: case.clone(),
            qkv: make.normal([n, (q + 2 * kv) * dim], case.layout, 1.0),
            weights: [(); 2].map(|()| make.normal([1, dim], Layout::Packed, 1.0)),
            cos: table(f32::cos),
            sin: table(f32::sin),
            positions: make.flat(Layout::Packed, case.positions.clone()),
        }
    }

    fn scale(&self) -> f32 {
        (self.case.heads.dim as f32).powf(-0.5)
    }

    fn op<'a>(&'a self, cache: KvMut<'a, B, T>, out: &'a mut Tensor<B, T>) -> DecodeAttention<'a, B, T> {
        DecodeAttention {
            scale: self.scale(),
            qkv: self.qkv.mat(),
            heads: self.case.heads,
            q_weight: self.weights[0].view(),
            k_weight: self.weights[1].view(),
            eps: EPS,
            positions: self.positions.view(),
            cos: self.cos.view(),
            sin: self.sin.view(),
            cache,
            capacity: self.case.capacity,
            settled: self.case.settled,
            out: out.mat_mut(),
        }
    }

    /// The queries that [`QkNormRope`] makes; it puts keys and values into the cache.
    fn rotated(&self, close: &Close<'_, B>, kv: KvMut<'_, B, T>) -> Vec<T> {
        let (heads, n, backend) = (self.case.heads, self.case.positions.len(), close.backend);
        let seqs = Tensor::flat(backend, Layout::Packed, (0..n as u32).collect());
        let output = |count: usize| Tensor::poisoned(backend, [n, count * heads.dim], Layout::Packed);
        let (mut q, mut k) = (output(heads.q), output(heads.kv));
        let op = QkNormRope {
            qkv: self.qkv.mat(),
            heads,
            q_weight: self.weights[0].view(),
            k_weight: self.weights[1].view(),
            eps: EPS,
            positions: self.positions.view(),
            cos: self.cos.view(),
            sin: self.sin.view(),
            q: q.mat_mut(),
            k: k.mat_mut(),
            cache: Some(CacheRows { seqs: seqs.view(), capacity: self.case.capacity, kv }),
        };
        op.run(backend).unwrap();
        q.read(backend, close.name)
    }

    /// The attention of `queries` to what caches hold: `row(i, h)` is head `h` of their row `i`.
    fn compare(
        &self,
        close: &Close<'_, B>,
        (queries, out): (&[T], &Tensor<B, T>),
        [keys, values]: [&dyn Fn(usize, usize) -> Vec<f64>; 2],
    ) {
        let (Heads { q, kv, dim }, scale) = (self.case.heads, self.scale());
        let mut want: Vec<Num> = Vec::new();
        for (b, &position) in self.case.positions.iter().enumerate() {
            for h in 0..q {
                let rows = b * self.case.capacity..b * self.case.capacity + self.case.used(position);
                let seen = |row: &dyn Fn(usize, usize) -> Vec<f64>| -> Vec<f64> {
                    rows.clone().flat_map(|i| row(i, h / (q / kv))).collect()
                };
                let query: Vec<f64> = exact(&queries[(b * q + h) * dim..][..dim]).collect();
                let (k, v) = (seen(keys), seen(values));
                want.extend(oracle::attention::<T>(&Head { q: &query, k: &k, v: &v, scale }).0);
            }
        }
        close.each("out", out.now(), q * dim, |i, j| want[i * q * dim + j]);
    }
}

fn exact<T: Float>(values: &[T]) -> impl Iterator<Item = f64> {
    values.iter().map(|v| f64::from(v.to_f32()))
}

fn bits<T: Element>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// A copy of what it held at first.
fn fresh<B: Backend, T: Element>(backend: &B, cache: &Tensor<B, T>) -> Tensor<B, T> {
    Tensor::flat(backend, Layout::Packed, cache.values().to_vec())
}

pub struct Decode<B: Backend, T: Float> {
    tokens: Tokens<B, T>,
    k: Tensor<B, T>,
    v: Tensor<B, T>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Decode<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("decode_attention {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let (Heads { q, kv, dim }, n, layout) = (case.heads, case.positions.len(), case.layout);
        let row = case.capacity * kv * dim;
        // What lies at a sequence's position and behind it was never written: NaN.
        let unwritten = |values: &mut [f32]| {
            for (values, &position) in values.chunks_mut(row).zip(&case.positions) {
                values[case.cached(position) * kv * dim..].fill(f32::NAN);
            }
        };
        Decode {
            tokens: Tokens::new(make, case),
            k: make.normal_but([1, n * row], layout, 1.0, unwritten),
            v: make.normal_but([1, n * row], layout, 1.0, unwritten),
            out: make.output([n, q * dim], layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let cache = KvMut::Plain { k: self.k.view_mut(), v: self.v.view_mut() };
        self.tokens.op(cache, &mut self.out).run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out, &mut self.k, &mut self.v]
    }

    /// Caches hold what [`QkNormRope`] puts there, to the bit; the rest follows from its queries.
    fn compare(&mut self, close: &Close<'_, B>) {
        let Heads { kv, dim, .. } = self.tokens.case.heads;
        let [mut k, mut v] = [&self.k, &self.v].map(|cache| fresh(close.backend, cache));
        let queries = self.tokens.rotated(close, KvMut::Plain { k: k.view_mut(), v: v.view_mut() });
        let [k, v] = [k, v].map(|cache| cache.read(close.backend, close.name));
        for (part, cache, want) in [("k", &self.k, &k), ("v", &self.v, &v)] {
            assert!(bits(cache.now()) == bits(want), "{}: the caches of {part} differ", close.name);
        }
        let row = |cache: &[T], i: usize, h: usize| exact(&cache[(i * kv + h) * dim..][..dim]).collect();
        self.tokens.compare(close, (&queries, &self.out), [&|i, h| row(&k, i, h), &|i, h| row(&v, i, h)]);
    }
}

fn decode_attention<B: Backend>(backend: &B) {
    all().iter().for_each(|case| check_each!(Decode, backend, case));
}

fn decode_attention_in_8_bits<B: Backend>(backend: &B) {
    all().iter().for_each(|case| check_each!(Int8, backend, case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("decode_attention", decode_attention), ("decode_attention_in_8_bits", decode_attention_in_8_bits)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

fn decode_works<B: Backend>(n: usize, cached: usize, heads: Heads) -> [Work<B>; 2] {
    let (width, row) = (heads.q * heads.dim, heads.kv * heads.dim);
    let (tokens, flops) = (4 * n * (width + row), 4 * n * cached * width);
    let positions = vec![cached as u32 - 1; n];
    let case = Case { heads, capacity: cached, positions, layout: Layout::Packed, settled: true };
    let (name, shape, rows) = ("decode_attention", format!("{n} x {cached}"), n * cached);
    let in_8_bits = Work::new::<Int8<B, bf16>>(
        name,
        format!("{shape}, 8 bits"),
        [tokens + 2 * rows * (row + 4 * heads.kv), flops],
        case.clone(),
    );
    [Work::new::<Decode<B, bf16>>(name, shape, [tokens + 4 * rows * row, flops], case), in_8_bits]
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let alone = model.cached.iter().map(|&cached| [1, cached]);
    alone.chain([[8, 2000]]).flat_map(|[n, cached]| decode_works(n, cached, model.heads)).collect()
}

fn decode_attention_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let plain = |k, v| KvMut::Plain { k: z.out(k), v: z.out(v) };
    let good = || DecodeAttention::<B, f32> {
        qkv: z.mat(2, 256),
        heads: HEADS,
        q_weight: z.view(32),
        k_weight: z.view(32),
        eps: 1e-6,
        positions: z.view(2),
        cos: z.view(160),
        sin: z.view(160),
        cache: plain(896, 896),
        capacity: 7,
        settled: false,
        scale: 0.1,
        out: z.mat_mut(2, 128),
    };
    z.fits(good());
    let heads = |q, kv, dim| Heads { q, kv, dim };
    z.refuses(DecodeAttention { heads: heads(4, 3, 32), ..good() }, &format!("decode_attention: {NO_HEADS}"));
    z.refuses(DecodeAttention { heads: heads(4, 2, 48), ..good() }, &format!("decode_attention: {NO_DIM}"));
    let message = "decode_attention: `qkv` is [2, 128], expected [2, 256]";
    z.refuses(DecodeAttention { qkv: z.mat(2, 128), ..good() }, message);
    let message = "decode_attention: `q_weight` has 31 elements, expected 32";
    z.refuses(DecodeAttention { q_weight: z.view(31), ..good() }, message);
    let message = "decode_attention: `k_weight` has 33 elements, expected 32";
    z.refuses(DecodeAttention { k_weight: z.view(33), ..good() }, message);
    let message = "decode_attention: `positions` has 3 elements, expected 2";
    z.refuses(DecodeAttention { positions: z.view(3), ..good() }, message);
    let message = "decode_attention: cos is 161, but it must hold whole rows of d / 2";
    z.refuses(DecodeAttention { cos: z.view(161), ..good() }, message);
    let message = "decode_attention: `sin` has 144 elements, expected 160";
    z.refuses(DecodeAttention { sin: z.view(144), ..good() }, message);
    let message = "decode_attention: capacity is 0, but the cache must hold at least one position";
    z.refuses(DecodeAttention { capacity: 0, ..good() }, message);
    let message = "decode_attention: scale is 0, but it must be positive and finite";
    z.refuses(DecodeAttention { scale: 0.0, ..good() }, message);
    let message = "decode_attention: `cache.k` has 895 elements, expected 896";
    z.refuses(DecodeAttention { cache: plain(895, 896), ..good() }, message);
    let message = "decode_attention: `cache.v` has 448 elements, expected 896";
    z.refuses(DecodeAttention { cache: plain(896, 448), ..good() }, message);
    let message = "decode_attention: `out` is [1, 128], expected [2, 128]";
    z.refuses(DecodeAttention { out: z.mat_mut(1, 128), ..good() }, message);
    int8::refuses(&z, |cache| DecodeAttention { cache, ..good() });
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("decode_attention", decode_attention_refuses)]
}
