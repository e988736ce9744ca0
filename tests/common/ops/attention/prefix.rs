//! Attention of sequences that go on from a prefix.

use super::{Inputs, head_of, head_of_rows};
use crate::common::{
    cases::{self, Pack},
    close::Close,
    make::{Make, Purpose},
    num::Num,
    oracle::{self, Head},
    random::property,
    setup::{Check, Setup},
    tensor::{Layout, Output, Tensor},
    zeros::{HEADS, Zeros},
};
use halfbyte::{
    Backend, Float, Result,
    ops::{Attention, Heads, Op, Prefix},
};
use proptest::prelude::*;

impl<B: Backend, T: Float> Inputs<B, T> {
    /// The op over these, with a prefix or without.
    pub(super) fn op<'a>(
        &'a self,
        prefix: Option<Prefix<'a, B, T>>,
        out: &'a mut Tensor<B, T>,
        lse: &'a mut Tensor<B, f32>,
    ) -> Attention<'a, B, T> {
        let Inputs { pack, scale, q, k, v, cu_seqlens } = self;
        Attention {
            q: q.mat(),
            k: k.mat(),
            v: v.mat(),
            heads: pack.heads,
            cu_seqlens: cu_seqlens.view(),
            max_len: pack.max_len(),
            prefix,
            scale: *scale,
            out: out.mat_mut(),
            lse: lse.view_mut(),
        }
    }
}

/// A pack, and for each of its sequences the first row of the prefix and how many.
#[derive(Clone, Debug)]
pub struct Case {
    pack: Pack,
    /// Rows that prefixes are taken from.
    n_prefix: usize,
    prefixes: Vec<[usize; 2]>,
}

impl Case {
    /// Prefixes of these lengths, each sequence the next, all ending at the last row.
    fn ending(pack: Pack, n_prefix: usize, lengths: &[usize]) -> Self {
        let lengths = lengths.iter().cycle().take(pack.lengths.len());
        let prefixes = lengths.map(|len| [n_prefix - len.min(&n_prefix), *len.min(&n_prefix)]).collect();
        Case { pack, n_prefix, prefixes }
    }
}

pub struct Prefixed<B: Backend, T: Float> {
    case: Case,
    inputs: Inputs<B, T>,
    k: Tensor<B, T>,
    v: Tensor<B, T>,
    rows: Tensor<B, u32>,
    out: Tensor<B, T>,
    lse: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Prefixed<B, T> {
    /// The output of row `i` of sequence `s` and query head `h`, and its `lse`.
    fn row(&self, exact: &[Vec<f64>; 5], s: usize, i: usize, h: usize) -> (Vec<Num>, Num) {
        let Heads { q, kv, dim } = self.case.pack.heads;
        let ([first, len], own) = (self.case.prefixes[s], [self.case.pack.start_of(i), i + 1]);
        let [queries, k, v, prefix_k, prefix_v] = exact;
        let seen = |prefix: &[f64], x: &[f64]| {
            let rows = |x: &[f64], range| head_of_rows(x, kv, dim, range, h / (q / kv));
            [rows(prefix, [first, first + len]), rows(x, own)].concat()
        };
        let (k, v) = (seen(prefix_k, k), seen(prefix_v, v));
        oracle::attention::<T>(&Head { q: head_of(queries, q, dim, i, h), k: &k, v: &v, scale: self.inputs.scale })
    }
}

impl<B: Backend, T: Float> Setup<B> for Prefixed<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("attention with prefixes {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let (Heads { q, kv, dim }, n, layout) = (case.pack.heads, case.pack.n(), case.pack.layout);
        let rows = case.prefixes.iter().flatten().map(|&x| x as u32).collect::<Vec<_>>();
        Prefixed {
            case: case.clone(),
            inputs: Inputs::new(make, &case.pack),
            k: make.normal([case.n_prefix, kv * dim], layout, 1.0),
            v: make.normal([case.n_prefix, kv * dim], layout, 1.0),
            rows: make.flat(Layout::Packed, rows),
            out: make.output([n, q * dim], layout),
            lse: make.output([1, q * n], Layout::Packed),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let prefix = Prefix { k: self.k.mat(), v: self.v.mat(), rows: self.rows.view() };
        self.inputs.op(Some(prefix), &mut self.out, &mut self.lse).run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out, &mut self.lse]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Pack { heads, lengths, .. } = &self.case.pack;
        let (n, width) = (self.case.pack.n(), heads.q * heads.dim);
        let exact = [&self.inputs.q, &self.inputs.k, &self.inputs.v, &self.k, &self.v].map(Tensor::to_f64);
        let sequences = lengths.iter().enumerate().flat_map(|(s, &len)| vec![s; len]);
        let rows: Vec<Vec<_>> =
            sequences.enumerate().map(|(i, s)| (0..heads.q).map(|h| self.row(&exact, s, i, h)).collect()).collect();
        close.each("out", self.out.now(), width, |i, j| rows[i][j / heads.dim].0[j % heads.dim]);
        close.each("lse", self.lse.now(), n, |h, i| rows[i][h].1);
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    (cases::any_pack(), 0usize..200).prop_flat_map(|(pack, n_prefix)| {
        let one = (0..=n_prefix).prop_flat_map(move |first| (Just(first), 0..=n_prefix - first));
        let prefixes = prop::collection::vec(one.prop_map(|(first, len)| [first, len]), pack.lengths.len());
        (Just(pack), prefixes).prop_map(move |(pack, prefixes)| Case { pack, n_prefix, prefixes })
    })
}

fn attention_after_prefixes<B: Backend>(backend: &B) {
    let lengths: [&[usize]; 4] = [&[1, 0, 63], &[64, 65], &[127, 128, 129], &[300]];
    for (pack, lengths) in cases::packs().into_iter().zip(lengths.into_iter().cycle()) {
        let case = Case::ending(pack, 300, lengths);
        check_each!(Prefixed, backend, &case);
    }
    property(12, any_case(), |case| check_each!(Prefixed, backend, &case));
}

/// Rows of a prefix that are not there are left out, on any backend.
fn prefixes_beyond_their_rows_are_cut<B: Backend>(backend: &B) {
    let pack = Pack { heads: HEADS, lengths: vec![3, 2], layout: Layout::Packed };
    let whole = Case { pack, n_prefix: 40, prefixes: vec![[30, 10], [40, 0]] };
    let beyond = Case { prefixes: vec![[30, 1 << 31], [1 << 31, 5]], ..whole.clone() };
    let outputs = [whole, beyond].map(|case| {
        let mut setup = Prefixed::<B, f32>::new(&Make::new(backend, Purpose::Suite, "prefixes"), &case);
        setup.run(backend).unwrap();
        setup.out.read(backend, "out")
    });
    assert_eq!(outputs[0], outputs[1]);
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("attention_after_prefixes", attention_after_prefixes),
        ("prefixes_beyond_their_rows_are_cut", prefixes_beyond_their_rows_are_cut),
    ]
}

pub fn refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let prefix = || Prefix { k: z.mat(7, 64), v: z.mat(7, 64), rows: z.view(4) };
    let with = |prefix| Attention::<B, f32> {
        q: z.mat(5, 128),
        k: z.mat(5, 64),
        v: z.mat(5, 64),
        heads: HEADS,
        cu_seqlens: z.view(3),
        max_len: 5,
        prefix: Some(prefix),
        scale: 0.1,
        out: z.mat_mut(5, 128),
        lse: z.out(20),
    };
    z.fits(with(prefix()));
    let message = "attention: `prefix.k` is [7, 128], expected [7, 64]";
    z.refuses(with(Prefix { k: z.mat(7, 128), ..prefix() }), message);
    let message = "attention: `prefix.v` is [6, 64], expected [7, 64]";
    z.refuses(with(Prefix { v: z.mat(6, 64), ..prefix() }), message);
    let message = "attention: `prefix.rows` has 2 elements, expected 4";
    z.refuses(with(Prefix { rows: z.view(2), ..prefix() }), message);
}
