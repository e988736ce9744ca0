use crate::common::{
    self,
    close::compare_some,
    num::Num,
    oracle::{self, Head},
    random::Random,
    tensor::{LAYOUTS, Layout, Tensor, twice},
};
use halfbyte::{
    Backend, Float,
    ops::{CacheAppend, DecodeAttention, Heads, Op},
};

#[derive(Debug, Clone)]
struct Case {
    heads: Heads,
    capacity: usize,
    positions: Vec<u32>,
    layout: Layout,
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

fn decode<B: Backend, T: Float>(backend: &B, case: &Case) {
    let (Heads { q: q_heads, kv, dim }, n) = (case.heads, case.positions.len());
    let name = format!("decode_attention {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let row = kv * dim;
    let width = q_heads * dim;
    let scale = (dim as f32).powf(-0.5);
    let q = Tensor::<B, T>::of(backend, [n, width], case.layout, &random.normal(n * width, 1.5));
    // What lies behind a sequence's position was never written: NaN.
    let cache = || {
        let mut values = random.normal(n * case.capacity * row, 1.0);
        for (b, &position) in case.positions.iter().enumerate() {
            let used = (position as usize).min(case.capacity - 1) + 1;
            values[(b * case.capacity + used) * row..(b + 1) * case.capacity * row].fill(f32::NAN);
        }
        Tensor::<B, T>::of(backend, [1, values.len()], Layout::Packed, &values)
    };
    let (k, v) = (cache(), cache());
    let positions = Tensor::flat(backend, Layout::Packed, case.positions.clone());
    let got = twice(&name, || {
        let mut out = Tensor::<B, T>::poisoned(backend, [n, width], case.layout);
        let op = DecodeAttention {
            q: q.mat(),
            k_cache: k.view(),
            v_cache: v.view(),
            heads: case.heads,
            positions: positions.view(),
            capacity: case.capacity,
            scale,
            out: out.mat_mut(),
        };
        op.run(backend).unwrap();
        out.read(backend, &name)
    });
    let mut want: Vec<Num> = Vec::new();
    for (b, &position) in case.positions.iter().enumerate() {
        let used = (position as usize).min(case.capacity - 1) + 1;
        for h in 0..q_heads {
            let first = |j: usize| (b * case.capacity + j) * row + h / (q_heads / kv) * dim;
            let rows = |cache: &Tensor<B, T>| -> Vec<f64> {
                (0..used).flat_map(|j| (first(j)..first(j) + dim).map(|i| cache.at(0, i))).collect()
            };
            let query: Vec<f64> = (h * dim..(h + 1) * dim).map(|c| q.at(b, c)).collect();
            want.extend(oracle::attention::<T>(&Head { q: &query, k: &rows(&k), v: &rows(&v), scale }).0);
        }
    }
    compare_some(&name, &got, width, usize::MAX, |i, j| want[i * width + j]);
}

fn append<B: Backend, T: Float>(backend: &B, width: usize, layout: Layout) {
    let (capacity, n_seqs) = (9, 4);
    let name = format!("cache_append {} {width} {layout:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    // The last three are dropped: no such position (twice), no such sequence.
    let (seqs, positions) = (vec![0, 1, 1, 3, 3, 2, 0, 4], vec![0, 8, 0, 3, 4, 9, u32::MAX, 1]);
    let n = seqs.len();
    let [k, v] = [(); 2].map(|()| Tensor::<B, T>::of(backend, [n, width], layout, &random.normal(n * width, 1.0)));
    let (seqs, positions) =
        (Tensor::flat(backend, Layout::Odd, seqs), Tensor::flat(backend, Layout::Packed, positions));
    let len = n_seqs * capacity * width;
    let old: [Vec<f32>; 2] = [(); 2].map(|()| random.normal(len, 1.0));
    let (k_got, v_got) = twice(&name, || {
        let [mut k_cache, mut v_cache] =
            [&old[0], &old[1]].map(|old| Tensor::<B, T>::of(backend, [1, len], Layout::Packed, old));
        let op = CacheAppend {
            k: k.mat(),
            v: v.mat(),
            seqs: seqs.view(),
            positions: positions.view(),
            capacity,
            k_cache: k_cache.view_mut(),
            v_cache: v_cache.view_mut(),
        };
        op.run(backend).unwrap();
        (k_cache.read(backend, &name), v_cache.read(backend, &name))
    });
    for (x, old, got) in [(&k, &old[0], k_got), (&v, &old[1], v_got)] {
        let mut want: Vec<T> = old.iter().map(|&v| T::from_f32(v)).collect();
        for i in 0..n {
            let (seq, position) = (seqs.values()[i] as usize, positions.values()[i] as usize);
            if seq < n_seqs && position < capacity {
                let at = (seq * capacity + position) * width;
                want[at..at + width].copy_from_slice(&x.values()[i * width..(i + 1) * width]);
            }
        }
        assert!(got == want, "{name}: the caches differ");
    }
}

fn decode_attention<B: Backend>(backend: &B) {
    for case in all() {
        each_float!(decode::<B>(backend, &case));
    }
}

fn cache_append<B: Backend>(backend: &B) {
    for width in [1, 3, 32, 100, 1024] {
        for layout in LAYOUTS {
            each_float!(append::<B>(backend, width, layout));
        }
    }
}

backends!(decode_attention, cache_append);
