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
    ops::{CacheAppend, DecodeAttention, Heads, Op},
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

/// Tokens to append to caches of this capacity.
#[derive(Debug, Clone)]
pub struct Appended {
    width: usize,
    layout: Layout,
    capacity: usize,
    n_seqs: usize,
    seqs: Vec<u32>,
    positions: Vec<u32>,
}

impl Appended {
    /// The last three are dropped: no such position (twice), no such sequence.
    fn hard(width: usize, layout: Layout) -> Self {
        let (seqs, positions) = (vec![0, 1, 1, 3, 3, 2, 0, 4], vec![0, 8, 0, 3, 4, 9, u32::MAX, 1]);
        Appended { width, layout, capacity: 9, n_seqs: 4, seqs, positions }
    }
}

pub struct Append<B: Backend, T: Float> {
    case: Appended,
    k: Tensor<B, T>,
    v: Tensor<B, T>,
    seqs: Tensor<B, u32>,
    positions: Tensor<B, u32>,
    k_cache: Tensor<B, T>,
    v_cache: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Append<B, T> {
    type Case = Appended;

    fn name(case: &Appended) -> String {
        format!("cache_append {} {} {:?}", T::DTYPE.suffix(), case.width, case.layout)
    }

    fn new(make: &Make<B>, case: &Appended) -> Self {
        let (n, len) = (case.seqs.len(), case.n_seqs * case.capacity * case.width);
        Append {
            case: case.clone(),
            k: make.normal([n, case.width], case.layout, 1.0),
            v: make.normal([n, case.width], case.layout, 1.0),
            seqs: make.flat(Layout::Odd, case.seqs.clone()),
            positions: make.flat(Layout::Packed, case.positions.clone()),
            k_cache: make.sum([1, len], Layout::Packed, true),
            v_cache: make.sum([1, len], Layout::Packed, true),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let op = CacheAppend {
            k: self.k.mat(),
            v: self.v.mat(),
            seqs: self.seqs.view(),
            positions: self.positions.view(),
            capacity: self.case.capacity,
            k_cache: self.k_cache.view_mut(),
            v_cache: self.v_cache.view_mut(),
        };
        op.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.k_cache, &mut self.v_cache]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Appended { width, capacity, n_seqs, seqs, positions, .. } = &self.case;
        for (x, cache) in [(&self.k, &self.k_cache), (&self.v, &self.v_cache)] {
            let mut want = cache.values().to_vec();
            for (row, (&seq, &position)) in x.values().chunks(*width).zip(seqs.iter().zip(positions)) {
                let (seq, position) = (seq as usize, position as usize);
                if seq < *n_seqs && position < *capacity {
                    let at = (seq * capacity + position) * width;
                    want[at..at + width].copy_from_slice(row);
                }
            }
            assert!(cache.now() == want, "{}: the caches differ", close.name);
        }
    }
}

fn decode_attention<B: Backend>(backend: &B) {
    all().iter().for_each(|case| check_each!(Decode, backend, case));
}

fn cache_append<B: Backend>(backend: &B) {
    for width in [1, 3, 32, 100, 1024] {
        for layout in LAYOUTS {
            check_each!(Append, backend, &Appended::hard(width, layout));
        }
    }
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("decode_attention", decode_attention), ("cache_append", cache_append)]
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

fn append_work<B: Backend>(n: usize, heads: Heads) -> Work<B> {
    let (width, capacity) = (heads.kv * heads.dim, 2048);
    let (seqs, positions) = ((0..n as u32).collect(), (0..n as u32).map(|i| i * 997 % 2048).collect());
    let case = Appended { width, layout: Layout::Packed, capacity, n_seqs: n, seqs, positions };
    Work::new::<Append<B, bf16>>("cache_append", format!("{n} x {width}"), [8 * n * width, 0], case)
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let heads = model.heads;
    let mut works: Vec<Work<B>> = model.cached.iter().map(|&cached| decode_work(1, cached, heads)).collect();
    works.push(decode_work(8, 2000, heads));
    works.extend([append_work(1, heads), append_work(8, heads)]);
    works
}

fn decode_attention_refuses<B: Backend>(backend: &B) {
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

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("decode_attention", decode_attention_refuses)]
}
