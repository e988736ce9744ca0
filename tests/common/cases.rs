//! Cases that several ops share, for the suite, the gradients and the benches. What is one op's own stands in `ops/`.

mod fused;

use super::tensor::{LAYOUTS, Layout};
pub use fused::*;
use halfbyte::{
    ops::Heads,
    quant::{BLOCK_SIZES, Format},
};
use proptest::prelude::*;

/// `x[n, inputs]` times a weight `[outputs, inputs]`.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    pub n: usize,
    pub outputs: usize,
    pub inputs: usize,
    pub layout: Layout,
    pub accumulate: bool,
}

impl Product {
    pub const fn new(n: usize, outputs: usize, inputs: usize) -> Self {
        Product { n, outputs, inputs, layout: Layout::Packed, accumulate: false }
    }
}

/// Every way that kernels divide tokens up, and one to each side.
pub const TOKENS: [usize; 13] = [0, 1, 2, 7, 8, 9, 16, 17, 63, 64, 65, 129, 200];

/// Outputs and inputs: whole tiles, tails in each, blocks that cross rows.
const WEIGHTS: [[usize; 2]; 9] =
    [[128, 256], [64, 64], [40, 72], [17, 96], [129, 320], [256, 512], [5, 33], [1, 1], [96, 136]];

/// Products of every number of tokens with every weight.
pub fn products() -> Vec<Product> {
    let mut cases = Vec::new();
    for (i, n) in TOKENS.into_iter().enumerate() {
        for (j, [outputs, inputs]) in WEIGHTS.into_iter().enumerate() {
            let (layout, accumulate) = (LAYOUTS[(i + j) % 3], (i + j / 2) % 2 == 1);
            cases.push(Product { n, outputs, inputs, layout, accumulate });
        }
    }
    cases
}

fn layout() -> impl Strategy<Value = Layout> {
    prop::sample::select(&LAYOUTS[..])
}

pub fn any_product() -> impl Strategy<Value = Product> {
    (0usize..150, 1usize..200, 1usize..400, layout(), any::<bool>())
        .prop_map(|(n, outputs, inputs, layout, accumulate)| Product { n, outputs, inputs, layout, accumulate })
}

impl Product {
    /// As benches call it.
    pub fn shape(&self) -> String {
        format!("{} x {} x {}", self.n, self.outputs, self.inputs)
    }

    pub fn flops(&self) -> usize {
        2 * self.n * self.inputs * self.outputs
    }
}

/// A small one for finite differences.
pub const TINY_PRODUCT: Product = Product::new(5, 7, 11);

/// Qwen3-8B's square projection, for the ways that only large products take. The CPU does the first of them.
pub fn large_products(on_cpu: bool) -> Vec<Product> {
    let tokens: &[usize] = if on_cpu { &[1, 8] } else { &[1, 8, 33, 256, 512, 2048] };
    tokens.iter().map(|&n| Product::new(n, 4096, 4096)).collect()
}

/// How a weight is quantised.
#[derive(Debug, Clone, Copy)]
pub struct Quantization {
    pub format: Format,
    pub block_size: usize,
    pub nested: bool,
}

pub const FORMATS: [Format; 2] = [Format::Nf4, Format::Fp4];

impl Quantization {
    /// What bitsandbytes writes by default, with double quantisation.
    pub const DEFAULT: Quantization = Quantization { format: Format::Nf4, block_size: 64, nested: true };

    /// Every format with every block size, plain and nested.
    pub fn all() -> Vec<Quantization> {
        let each = |block_size| {
            FORMATS
                .into_iter()
                .flat_map(move |format| [false, true].map(|nested| Quantization { format, block_size, nested }))
        };
        BLOCK_SIZES.into_iter().flat_map(each).collect()
    }
}

pub fn any_quantization() -> impl Strategy<Value = Quantization> {
    prop::sample::select(Quantization::all())
}

/// Products with 4-bit weights: all of [`products`] with the quantisations in turn, then each quantisation with few
/// and with many tokens.
pub fn quantized_products() -> Vec<(Product, Quantization)> {
    let all = Quantization::all();
    let in_turn = products().into_iter().enumerate().map(|(i, p)| (p, all[i * 5 % all.len()]));
    let each = all.iter().flat_map(|&q| {
        // Blocks of 4096 hold several rows of 320, and 96 rows of 320 end inside a block.
        [3, 70].map(|n| (Product::new(n, 96, 320), q)).into_iter().chain([(Product::new(4, 64, 1024), q)])
    });
    in_turn.chain(each).chain(few_tokens()).collect()
}

/// One, two, and three to eight tokens with weights of whole 256 columns: whole and part rounds of sixteen times as many, several tiles
/// of rows at a time, rows that begin at odd multiples of 8 scales, tiles that multiprocessors share unevenly, and more
/// of them for each than it has room for at a time.
fn few_tokens() -> Vec<(Product, Quantization)> {
    const WEIGHTS: [[usize; 2]; 11] = [
        [16, 256],
        [16, 1024],
        [2128, 1024],
        [80, 2048],
        [2144, 2560],
        [48, 3072],
        [4240, 4096],
        [64, 5120],
        [48, 9728],
        [32, 12_288],
        [25_600, 256],
    ];
    let quantizations = Quantization::all().into_iter().filter(|q| q.block_size == 64);
    let quantizations: Vec<_> = quantizations.collect();
    let mut cases = Vec::new();
    for (i, [outputs, inputs]) in WEIGHTS.into_iter().enumerate() {
        for (j, n) in [1, 2, 3, 8].into_iter().enumerate() {
            let (layout, accumulate) = ([Layout::Packed, Layout::Slice][(i + j) % 2], (i + j / 2) % 2 == j % 2);
            let quantization = quantizations[(i + 2 * j) % quantizations.len()];
            cases.push((Product { n, outputs, inputs, layout, accumulate }, quantization));
        }
    }
    cases
}

/// Products behind a norm, and whether SwiGLU follows: one step of the kernel for one and two tokens, in one group of
/// tiles and in several, part rounds of each, and what it leaves to others.
pub fn normed_products() -> Vec<(Adapted, bool)> {
    const WEIGHTS: [[usize; 2]; 11] = [
        [32, 256],
        [16, 256],
        [2144, 1024],
        [160, 2048],
        [96, 2560],
        [96, 3072],
        [8512, 4096],
        [64, 5120],
        [25_600, 256],
        [40, 96],
        [34, 72],
    ];
    const ADAPTERS: [&[(usize, usize, usize)]; 3] = [&[], &[(16, 0, 16), (4, 17, 32)], &[(64, 8, 90)]];
    let all = Quantization::all();
    let quantizations = Quantization::all().into_iter().filter(|q| q.block_size == 64);
    let quantizations: Vec<_> = quantizations.collect();
    let mut cases = Vec::new();
    for (i, [outputs, inputs]) in WEIGHTS.into_iter().enumerate() {
        for (j, gated) in [false, true].into_iter().enumerate() {
            for n in [1, 2] {
                let layout = [Layout::Packed, Layout::Slice][(i + n) % 2];
                let quantization = quantizations[(i + 2 * j + n) % quantizations.len()];
                let product = Product { layout, ..Product::new(n, outputs, inputs) };
                let adapters = ADAPTERS[(i + j) % 3].iter().all(|(.., end)| *end <= outputs);
                let adapters = if adapters { ADAPTERS[(i + j) % 3] } else { &[] };
                cases.push((Adapted { product, quantization, adapters, ..stack() }, gated));
            }
        }
        let product = Product::new([0, 3, 17][i % 3], 2 * outputs.min(200), inputs);
        let (product, quantization) = (Product { layout: LAYOUTS[i % 3], ..product }, all[i * 5 % all.len()]);
        let adapters: &[_] = if i % 2 == 0 { &[(8, 0, 20), (5, 20, 32)] } else { &[] };
        cases.push((Adapted { product, quantization, adapters, ..stack() }, i % 2 == 0));
    }
    let gated = |(product, quantization)| (Adapted { product, quantization, adapters: &[], ..stack() }, true);
    cases.extend(gated_products().into_iter().map(gated));
    cases
}

/// An adapter of rank `rank` beside a product.
#[derive(Debug, Clone, Copy)]
pub struct LoraCase {
    pub product: Product,
    pub rank: usize,
    pub dropout: Option<f32>,
}

pub fn adapters() -> Vec<LoraCase> {
    let mut cases = Vec::new();
    for (i, n) in TOKENS.into_iter().enumerate() {
        for (j, rank) in [1, 3, 8, 16, 64].into_iter().enumerate() {
            let [outputs, inputs] = WEIGHTS[(i + j) % WEIGHTS.len()];
            let product = Product { layout: LAYOUTS[(i + 2 * j) % 3], ..Product::new(n, outputs, inputs) };
            cases.push(LoraCase { product, rank, dropout: [None, Some(0.1), Some(0.5)][(i * 2 + j) % 3] });
        }
    }
    for (rank, dropout) in [(8, None), (16, Some(0.05)), (64, None), (64, Some(0.1)), (128, None), (24, None)] {
        cases.push(LoraCase { product: Product::new(300, 256, 512), rank, dropout });
    }
    cases
}

pub fn any_adapter() -> impl Strategy<Value = LoraCase> {
    let dropout = prop_oneof![Just(None), Just(Some(0.25))];
    (any_product(), 1usize..80, dropout).prop_map(|(product, rank, dropout)| LoraCase { product, rank, dropout })
}

/// Adapters of some outputs of a 4-bit weight, beside its product.
#[derive(Debug, Clone, Copy)]
pub struct Adapted {
    pub product: Product,
    pub quantization: Quantization,
    /// The weight is not in 4 bits but dense, with so much room around it.
    pub dense: Option<usize>,
    /// Of each: its rank, and its outputs from and to.
    pub adapters: &'static [(usize, usize, usize)],
    pub dropout: Option<f32>,
    /// Columns behind the operand.
    pub room: usize,
}

/// Three adapters of rank 16 of a weight with 96 outputs and more.
pub fn stack() -> Adapted {
    Adapted {
        product: Product::new(1032, 96, 256),
        quantization: Quantization::DEFAULT,
        dense: None,
        adapters: &[(16, 0, 32), (16, 32, 64), (16, 64, 96)],
        dropout: None,
        room: 64,
    }
}

/// Ranks for which cuBLASLt multiplies adapters of many tokens.
const WIDE: [(usize, usize, usize); 3] = [(64, 0, 48), (64, 48, 72), (48, 80, 96)];

/// One and two tokens, few, and as many as make one product of all; ranks that leave columns between them, outputs without an
/// adapter, dropout, too little room, and shapes that are left to the ops of their own; in 4 bits and dense.
pub fn adapted() -> Vec<Adapted> {
    let fp4 = Quantization { format: Format::Fp4, block_size: 128, nested: false };
    let plain = Quantization { nested: false, ..Quantization::DEFAULT };
    let few = |n| Product { accumulate: true, ..Product::new(n, 96, 256) };
    let sum = Product { accumulate: true, layout: Layout::Slice, ..Product::new(1025, 64, 320) };
    let quantized = vec![
        Adapted { product: few(1), ..stack() },
        Adapted { product: few(2), adapters: &[(4, 8, 24), (64, 48, 96)], room: 0, ..stack() },
        Adapted { product: few(2), dropout: Some(0.2), ..stack() },
        Adapted { product: Product::new(1, 32, 12_288), quantization: plain, adapters: &[(16, 0, 32)], ..stack() },
        Adapted { product: few(3), ..stack() },
        Adapted { product: few(70), dropout: Some(0.1), ..stack() },
        Adapted { product: Product::new(70, 128, 256), adapters: &[(4, 8, 24), (64, 48, 96)], room: 128, ..stack() },
        Adapted { product: Product::new(512, 192, 768), quantization: fp4, ..stack() },
        Adapted { product: few(300), ..stack() },
        stack(),
        Adapted { dropout: Some(0.3), ..stack() },
        Adapted { product: sum, quantization: fp4, adapters: &[(4, 8, 24), (3, 40, 64)], ..stack() },
        Adapted { product: Product::new(1100, 40, 72), adapters: &[(64, 0, 40)], ..stack() },
        Adapted { product: Product::new(1100, 34, 72), adapters: &[(8, 0, 34)], ..stack() },
        Adapted { product: Product::new(1030, 48, 256), adapters: &[(16, 0, 48)], dropout: Some(0.2), ..stack() },
        Adapted { product: Product::new(1031, 48, 200), adapters: &[(64, 0, 48)], dropout: Some(0.2), ..stack() },
        Adapted {
            product: Product::new(1030, 40, 72),
            adapters: &[(80, 0, 40)],
            dropout: Some(0.1),
            room: 128,
            ..stack()
        },
        Adapted { product: Product::new(1032, 96, 256), adapters: &WIDE, room: 192, ..stack() },
        Adapted { product: Product::new(1032, 96, 256), adapters: &WIDE, room: 192, dropout: Some(0.05), ..stack() },
        Adapted { product: Product::new(1101, 64, 120), adapters: &[(64, 0, 40), (12, 40, 64)], room: 128, ..stack() },
        Adapted {
            product: Product::new(1040, 40, 72),
            adapters: &[(8, 0, 16), (12, 16, 40)],
            dropout: Some(0.5),
            ..stack()
        },
        Adapted { room: 56, ..stack() },
        Adapted { product: few(0), ..stack() },
    ];
    let dense = quantized.iter().map(|case| Adapted { dense: Some(case.room), ..*case });
    let none = Adapted { dense: Some(0), ..stack() };
    quantized.iter().copied().chain(dense).chain([none]).collect()
}

/// Rows of a matrix that an op treats one by one.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    pub n: usize,
    pub d: usize,
    pub layout: Layout,
    /// Adds to the output, or adds a residual first.
    pub add: bool,
}

impl Rows {
    pub const fn new(n: usize, d: usize) -> Self {
        Rows { n, d, layout: Layout::Packed, add: false }
    }

    /// As benches call it.
    pub fn shape(&self) -> String {
        format!("{} x {}", self.n, self.d)
    }
}

pub fn rows() -> Vec<Rows> {
    let mut cases = Vec::new();
    for (i, n) in [0, 1, 2, 7, 65].into_iter().enumerate() {
        for (j, d) in [1, 2, 7, 8, 64, 100, 129, 1024, 4096, 5000].into_iter().enumerate() {
            cases.push(Rows { n, d, layout: LAYOUTS[(i + j) % 3], add: (i + j / 3) % 2 == 0 });
        }
    }
    cases
}

pub fn any_rows() -> impl Strategy<Value = Rows> {
    (0usize..20, 1usize..3000, layout(), any::<bool>()).prop_map(|(n, d, layout, add)| Rows { n, d, layout, add })
}

/// Sequences that lie one after the other.
#[derive(Debug, Clone)]
pub struct Pack {
    pub heads: Heads,
    pub lengths: Vec<usize>,
    pub layout: Layout,
}

const fn heads(q: usize, kv: usize, dim: usize) -> Heads {
    Heads { q, kv, dim }
}

impl Pack {
    pub fn n(&self) -> usize {
        self.lengths.iter().sum()
    }

    pub fn max_len(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Where each sequence begins, and where the last one ends.
    pub fn cu_seqlens(&self) -> Vec<u32> {
        let mut at = 0;
        let ends = self.lengths.iter().map(|len| {
            at += *len as u32;
            at
        });
        [0].into_iter().chain(ends.collect::<Vec<u32>>()).collect()
    }

    /// The first row of the sequence that `row` belongs to.
    pub fn start_of(&self, row: usize) -> usize {
        let starts = self.cu_seqlens();
        starts.iter().map(|&s| s as usize).filter(|&s| s <= row).max().unwrap_or(0)
    }

    /// One past the last row of the sequence that `row` belongs to.
    pub fn end_of(&self, row: usize) -> usize {
        self.cu_seqlens().into_iter().map(|s| s as usize).find(|&s| s > row).unwrap_or(row + 1)
    }
}

pub fn packs() -> Vec<Pack> {
    let lengths: [&[usize]; 9] =
        [&[1], &[0, 1, 0], &[33], &[127, 1], &[128], &[129, 0, 5], &[64, 65, 63], &[1, 1, 2, 3, 5, 8, 13, 21], &[260]];
    let mut cases = Vec::new();
    for (i, dim) in [32, 64, 128].into_iter().enumerate() {
        for (j, lengths) in lengths.into_iter().enumerate() {
            let (q, kv) = [(1, 1), (2, 1), (4, 1), (4, 2), (3, 3)][(i + j) % 5];
            cases.push(Pack { heads: heads(q, kv, dim), lengths: lengths.to_vec(), layout: LAYOUTS[(i + j) % 3] });
        }
    }
    cases.push(Pack { heads: heads(2, 1, 64), lengths: vec![0], layout: Layout::Packed });
    cases
}

pub fn any_pack() -> impl Strategy<Value = Pack> {
    let heads = prop::sample::select(vec![heads(2, 1, 32), heads(1, 1, 64), heads(4, 1, 128), heads(2, 2, 32)]);
    (heads, prop::collection::vec(0usize..90, 1..5), layout()).prop_map(|(heads, lengths, layout)| Pack {
        heads,
        lengths,
        layout,
    })
}

/// Lengths of flat vectors.
pub const LENGTHS: [usize; 14] = [0, 1, 2, 3, 7, 8, 31, 33, 255, 256, 1000, 4097, 65_536, 300_001];
