use crate::common::{
    close::Close,
    make::Make,
    num::Num,
    oracle::{self, Head},
    setup::{Check, Setup},
    tensor::{LAYOUTS, Layout, Output, Tensor},
    work::{Model, Work},
    zeros::{HEADS, Zeros},
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{DecodeAttention, Heads, Op},
};

#[derive(Debug, Clone)]
pub struct Case {
    pub heads: Heads,
    pub capacity: usize,
    pub positions: Vec<u32>,
    pub layout: Layout,
}

impl Case {
    /// Cached rows that a sequence attends to.
    fn used(&self, position: u32) -> usize {
        (position as usize).min(self.capacity - 1) + 1
    }
}

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    // Positions at the edges of tiles and of the cache; those beyond count as the last.
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
    cases.push(Case {
        heads: Heads { q: 32, kv: 8, dim: 128 },
        capacity: 400,
        positions: vec![390],
        layout: Layout::Packed,
    });
    cases.push(Case { heads: Heads { q: 2, kv: 2, dim: 64 }, capacity: 5, positions: vec![], layout: Layout::Packed });
    cases
}

pub struct Decode<B: Backend, T: Float> {
    case: Case,
    q: Tensor<B, T>,
    k: Tensor<B, T>,
    v: Tensor<B, T>,
    positions: Tensor<B, u32>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Decode<B, T> {
    /// The keys or values that head `h` of sequence `b` attends to.
    fn cached(&self, cache: &Tensor<B, T>, b: usize, h: usize) -> Vec<f64> {
        let (Heads { q, kv, dim }, used) = (self.case.heads, self.case.used(self.case.positions[b]));
        let first = |j: usize| (b * self.case.capacity + j) * kv * dim + h / (q / kv) * dim;
        (0..used).flat_map(|j| (first(j)..first(j) + dim).map(|i| cache.at(0, i))).collect()
    }

    fn scale(&self) -> f32 {
        (self.case.heads.dim as f32).powf(-0.5)
    }
}

impl<B: Backend, T: Float> Setup<B> for Decode<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("decode_attention {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let (Heads { q, kv, dim }, n) = (case.heads, case.positions.len());
        let (width, row) = (q * dim, case.capacity * kv * dim);
        // What lies behind a sequence's position was never written: NaN.
        let unwritten = |values: &mut [f32]| {
            for (values, &position) in values.chunks_mut(row).zip(&case.positions) {
                values[case.used(position) * kv * dim..].fill(f32::NAN);
            }
        };
        Decode {
            case: case.clone(),
            q: make.normal([n, width], case.layout, 1.5),
            k: make.normal_but([1, n * row], Layout::Packed, 1.0, unwritten),
            v: make.normal_but([1, n * row], Layout::Packed, 1.0, unwritten),
            positions: make.flat(Layout::Packed, case.positions.clone()),
            out: make.output([n, width], case.layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let op = DecodeAttention {
            q: self.q.mat(),
            k_cache: self.k.view(),
            v_cache: self.v.view(),
            heads: self.case.heads,
            positions: self.positions.view(),
            capacity: self.case.capacity,
            scale: self.scale(),
            out: self.out.mat_mut(),
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (Heads { q, dim, .. }, scale) = (self.case.heads, self.scale());
        let mut want: Vec<Num> = Vec::new();
        for b in 0..self.case.positions.len() {
            for h in 0..q {
                let (k, v) = (self.cached(&self.k, b, h), self.cached(&self.v, b, h));
                let query: Vec<f64> = (h * dim..(h + 1) * dim).map(|c| self.q.at(b, c)).collect();
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
    let cost = [4 * n * (cached * row + width), 4 * n * cached * width];
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

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("decode_attention", decode_attention_refuses)]
}
