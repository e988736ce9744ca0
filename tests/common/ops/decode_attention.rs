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
    Backend, Float, Result,
    ops::{CacheRows, DecodeAttention, Heads, Op, QkNormRope},
};

const EPS: f32 = 1e-6;

#[derive(Debug, Clone)]
pub struct Case {
    pub heads: Heads,
    pub capacity: usize,
    pub positions: Vec<u32>,
    pub layout: Layout,
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
            cases.push(Case { heads: Heads { q, kv, dim }, capacity, positions, layout });
        }
    }
    let mut case = |[q, kv, dim]: [usize; 3], capacity, positions: &[u32], layout| {
        cases.push(Case { heads: Heads { q, kv, dim }, capacity, positions: positions.to_vec(), layout });
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

pub struct Decode<B: Backend, T: Float> {
    case: Case,
    qkv: Tensor<B, T>,
    weights: [Tensor<B, f32>; 2],
    cos: Tensor<B, f32>,
    sin: Tensor<B, f32>,
    positions: Tensor<B, u32>,
    k: Tensor<B, T>,
    v: Tensor<B, T>,
    out: Tensor<B, T>,
}

/// What [`QkNormRope`] makes of the same, and what a cache then holds.
struct Rotated<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
}

impl<B: Backend, T: Float> Decode<B, T> {
    fn scale(&self) -> f32 {
        (self.case.heads.dim as f32).powf(-0.5)
    }

    fn rotated(&self, close: &Close<'_, B>) -> Rotated<T> {
        let (Heads { q, kv, dim }, n, backend) = (self.case.heads, self.case.positions.len(), close.backend);
        let seqs = Tensor::flat(backend, Layout::Packed, (0..n as u32).collect());
        let output = |width: usize| Tensor::poisoned(backend, [n, width], Layout::Packed);
        let cache = |cache: &Tensor<B, T>| Tensor::flat(backend, Layout::Packed, cache.values().to_vec());
        let (mut q, mut k) = (output(q * dim), output(kv * dim));
        let (mut k_cache, mut v_cache) = (cache(&self.k), cache(&self.v));
        let rows =
            CacheRows { seqs: seqs.view(), capacity: self.case.capacity, k: k_cache.view_mut(), v: v_cache.view_mut() };
        let op = QkNormRope {
            qkv: self.qkv.mat(),
            heads: self.case.heads,
            q_weight: self.weights[0].view(),
            k_weight: self.weights[1].view(),
            eps: EPS,
            positions: self.positions.view(),
            cos: self.cos.view(),
            sin: self.sin.view(),
            q: q.mat_mut(),
            k: k.mat_mut(),
            cache: Some(rows),
        };
        op.run(backend).unwrap();
        let read = |tensor: &Tensor<B, T>| tensor.read(backend, close.name);
        Rotated { q: read(&q), k: read(&k_cache), v: read(&v_cache) }
    }

    /// The keys or values that head `h` of sequence `b` attends to.
    fn seen(&self, cache: &[T], b: usize, h: usize) -> Vec<f64> {
        let (Heads { q, kv, dim }, used) = (self.case.heads, self.case.used(self.case.positions[b]));
        let first = |j: usize| (b * self.case.capacity + j) * kv * dim + h / (q / kv) * dim;
        (0..used).flat_map(|j| exact(&cache[first(j)..first(j) + dim])).collect()
    }
}

fn exact<T: Float>(values: &[T]) -> impl Iterator<Item = f64> {
    values.iter().map(|v| f64::from(v.to_f32()))
}

fn bits<T: Float>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
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
        // Some positions are beyond the last row, which they take.
        let angles = make.random.uniform(case.capacity.min(200) * dim / 2);
        let table = |f: fn(f32) -> f32| {
            make.flat(Layout::Packed, angles.iter().map(|a| f(a * std::f32::consts::TAU)).collect())
        };
        Decode {
            case: case.clone(),
            qkv: make.normal([n, (q + 2 * kv) * dim], layout, 1.0),
            weights: [(); 2].map(|()| make.normal([1, dim], Layout::Packed, 1.0)),
            cos: table(f32::cos),
            sin: table(f32::sin),
            positions: make.flat(Layout::Packed, case.positions.clone()),
            k: make.normal_but([1, n * row], layout, 1.0, unwritten),
            v: make.normal_but([1, n * row], layout, 1.0, unwritten),
            out: make.output([n, q * dim], layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let op = DecodeAttention {
            scale: self.scale(),
            qkv: self.qkv.mat(),
            heads: self.case.heads,
            q_weight: self.weights[0].view(),
            k_weight: self.weights[1].view(),
            eps: EPS,
            positions: self.positions.view(),
            cos: self.cos.view(),
            sin: self.sin.view(),
            k_cache: self.k.view_mut(),
            v_cache: self.v.view_mut(),
            capacity: self.case.capacity,
            out: self.out.mat_mut(),
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out, &mut self.k, &mut self.v]
    }

    /// Caches hold what [`QkNormRope`] puts there, to the bit; the rest follows from its queries.
    fn compare(&mut self, close: &Close<'_, B>) {
        let (Heads { q, dim, .. }, scale) = (self.case.heads, self.scale());
        let rotated = self.rotated(close);
        for (part, cache, want) in [("k", &self.k, &rotated.k), ("v", &self.v, &rotated.v)] {
            assert!(bits(cache.now()) == bits(want), "{}: the caches of {part} differ", close.name);
        }
        let mut want: Vec<Num> = Vec::new();
        for b in 0..self.case.positions.len() {
            for h in 0..q {
                let (k, v) = (self.seen(&rotated.k, b, h), self.seen(&rotated.v, b, h));
                let query: Vec<f64> = exact(&rotated.q[(b * q + h) * dim..][..dim]).collect();
                want.extend(oracle::attention::<T>(&Head { q: &query, k: &k, v: &v, scale }).0);
            }
        }
        close.each("out", self.out.now(), q * dim, |i, j| want[i * q * dim + j]);
    }
}

fn decode_attention<B: Backend>(backend: &B) {
    all().iter().for_each(|case| check_each!(Decode, backend, case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("decode_attention", decode_attention)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

fn decode_work<B: Backend>(n: usize, cached: usize, heads: Heads) -> Work<B> {
    let (width, row) = (heads.q * heads.dim, heads.kv * heads.dim);
    let cost = [4 * n * (cached * row + width + row), 4 * n * cached * width];
    let case = Case { heads, capacity: cached, positions: vec![cached as u32 - 1; n], layout: Layout::Packed };
    Work::new::<Decode<B, bf16>>("decode_attention", format!("{n} x {cached}"), cost, case)
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let heads = model.heads;
    let mut works: Vec<Work<B>> = model.cached.iter().map(|&cached| decode_work(1, cached, heads)).collect();
    works.push(decode_work(8, 2000, heads));
    works
}

fn decode_attention_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || DecodeAttention::<B, f32> {
        qkv: z.mat(2, 256),
        heads: HEADS,
        q_weight: z.view(32),
        k_weight: z.view(32),
        eps: 1e-6,
        positions: z.view(2),
        cos: z.view(160),
        sin: z.view(160),
        k_cache: z.out(2 * 7 * 64),
        v_cache: z.out(2 * 7 * 64),
        capacity: 7,
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
    let message = "decode_attention: `k_cache` has 895 elements, expected 896";
    z.refuses(DecodeAttention { k_cache: z.out(895), ..good() }, message);
    let message = "decode_attention: `v_cache` has 448 elements, expected 896";
    z.refuses(DecodeAttention { v_cache: z.out(448), ..good() }, message);
    let message = "decode_attention: `out` is [1, 128], expected [2, 128]";
    z.refuses(DecodeAttention { out: z.mat_mut(1, 128), ..good() }, message);
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("decode_attention", decode_attention_refuses)]
}
