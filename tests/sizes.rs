//! No size wraps: whatever numbers an op, a window or a layout is given, it is right by arithmetic in 128 bits, or
//! refuses.

use halfbyte::{
    Backend, Buf, Cpu, Mat, elements,
    ops::{Attention, CacheRows, DecodeAttention, Dequantize, DequantizeRows, Heads, KvMut, Op, QkNormRope},
    quant::{Absmax, Format, Weight4},
};
use halfbyte_runtime::{
    config::{Module, Projection},
    lora::{Layout, Target},
};
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What all views below hold.
const LEN: usize = 64;

/// Small, huge, and all around powers of two.
fn size() -> impl Strategy<Value = usize> {
    let near_power = (0..64_u32, 0..3_usize).prop_map(|(bit, d)| (1_usize << bit).wrapping_add(d).wrapping_sub(1));
    prop_oneof![0..130_usize, near_power, any::<usize>()]
}

/// Two sizes: any, or such that what is left of their product in 64 bits is `LEN`.
fn pair() -> impl Strategy<Value = [usize; 2]> {
    let wraps = || size().prop_map(|n| [n | 1, LEN.wrapping_mul(inverse(n | 1))]);
    prop_oneof![[size(), size()], wraps(), wraps().prop_map(|[a, b]| [b, a])]
}

/// The number with which an odd one makes 1, by Newton's method modulo 2^64.
fn inverse(odd: usize) -> usize {
    (0..5).fold(odd, |x, _| x.wrapping_mul(2_usize.wrapping_sub(odd.wrapping_mul(x))))
}

fn product(sizes: &[usize]) -> Option<u128> {
    sizes.iter().try_fold(1_u128, |all, &size| all.checked_mul(size as u128))
}

fn views<const N: usize>() -> [Buf<Cpu, f32>; N] {
    [(); N].map(|()| Cpu::new().zeros(LEN).unwrap())
}

/// Whether it neither panics nor refuses.
fn passes<T>(f: impl FnOnce() -> Option<T>) -> bool {
    catch_unwind(AssertUnwindSafe(|| f().is_some())).unwrap_or(false)
}

const LIMIT: usize = i32::MAX as usize;

fn fits(sizes: &[usize]) -> bool {
    sizes.iter().all(|&size| size <= LIMIT) && product(sizes) == Some(LEN as u128)
}

#[test]
fn wrapping_pairs_wrap() {
    assert_eq!(inverse(3).wrapping_mul(3), 1);
    assert!(LEN.wrapping_mul(inverse(12345)).wrapping_mul(12345) == LEN);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn elements_are_counted(shape in prop::collection::vec(size(), 0..5), pair in pair()) {
        for shape in [&shape[..], &pair] {
            let zero = shape.contains(&0).then_some(0);
            let want = zero.or(product(shape)).filter(|n| n.checked_mul(4).is_some_and(|bytes| bytes <= isize::MAX as u128));
            prop_assert_eq!(elements::<f32>(shape).ok().map(|n| n as u128), want);
        }
    }

    #[test]
    fn windows_are_no_larger_than_their_memory([rows, cols] in pair()) {
        let [mut buf] = views();
        let right = product(&[rows, cols]);
        prop_assert_eq!(passes(|| Some(Mat::new(buf.view(), rows, cols))), right == Some(LEN as u128));
        let within = right.is_some_and(|n| n <= LEN as u128);
        prop_assert_eq!(passes(|| Some(buf.mat(rows, cols))), within);
        prop_assert_eq!(passes(|| Some(buf.mat_mut(rows, cols).shape())), within);
    }

    #[test]
    fn rows_apart_end_where_their_memory_does([rows, stride] in pair(), cols in size()) {
        let [buf] = views();
        let rest = LEN.wrapping_sub(rows.wrapping_sub(1).wrapping_mul(stride));
        for cols in [cols, stride, rest] {
            let end = (rows as u128).saturating_sub(1) * stride as u128 + cols as u128;
            let right = rows > 0 && stride >= cols && end == LEN as u128;
            prop_assert_eq!(passes(|| Some(Mat::with_stride(buf.view(), rows, cols, stride))), right);
        }
    }

    #[test]
    fn weights_are_no_larger_than_their_codes([rows, cols] in pair(), block_size in size()) {
        let [absmax, mut out] = views();
        let codes = Cpu::new().zeros(LEN / 2).unwrap();
        for block_size in [64, block_size] {
            let scales = Absmax::Plain(absmax.at(0..LEN / 64));
            let weight = Weight4 { format: Format::Nf4, block_size, rows, cols, codes: codes.view(), scales };
            let checked = Dequantize { weight, out: out.view_mut() }.check(&Cpu::new()).is_ok();
            let one_block = block_size.is_power_of_two() && (64..=4096).contains(&block_size);
            prop_assert_eq!(checked, fits(&[rows, cols]) && one_block);
        }
    }

    #[test]
    fn caches_are_no_larger_than_their_memory([capacity, other] in pair(), heads in [size(), size(), size()]) {
        let [k, mut k_cache, mut v_cache, mut out] = views();
        let at = Cpu::new().zeros(1).unwrap();
        let [wide, mut q_out, mut k_out, table, _] = views();
        let [wide, table] = [&wide, &table].map(|buf| buf.at(0..LEN));
        let half = || table.at(0..16);
        let kv = KvMut::Plain { k: k_cache.view_mut(), v: v_cache.view_mut() };
        let cache = CacheRows { seqs: at.view(), capacity, kv };
        let append = QkNormRope {
            qkv: Mat::new(k.view().at(0..0), 0, 96),
            heads: Heads { q: 1, kv: 1, dim: 32 },
            q_weight: table.at(0..32),
            k_weight: wide.at(0..32),
            eps: 1e-6,
            positions: at.view().at(0..0),
            cos: half(),
            sin: half(),
            q: q_out.mat_mut(0, 32),
            k: k_out.mat_mut(0, 32),
            cache: Some(CacheRows { seqs: at.view().at(0..0), ..cache }),
        };
        let row = product(&[capacity, 32]).filter(|row| (1..=LEN as u128).contains(row));
        prop_assert_eq!(append.check(&Cpu::new()).is_ok(), row.is_some_and(|row| (LEN as u128).is_multiple_of(row)));
        let [many, kv, dim] = heads;
        for heads in [Heads { q: 1, kv: 1, dim: 64 }, Heads { q: many, kv, dim }, Heads { q: many, kv: other, dim: 32 }] {
            let row = product(&[heads.q, heads.dim]).zip(product(&[2, heads.kv, heads.dim])).map(|(q, kv)| q + kv);
            let qkv = Cpu::new().zeros(row.unwrap_or(1).clamp(1, 3 * LEN as u128) as usize).unwrap();
            let table = |len: usize| wide.at(0..len.min(LEN));
            let op = DecodeAttention {
                qkv: qkv.mat(1, qkv.len()),
                heads,
                q_weight: table(heads.dim),
                k_weight: table(heads.dim),
                eps: 1e-6,
                positions: at.view(),
                cos: table(heads.dim / 2),
                sin: table(heads.dim / 2),
                cache: KvMut::Plain { k: k_cache.view_mut(), v: v_cache.view_mut() },
                capacity,
                settled: false,
                scale: 1.0,
                out: out.mat_mut(1, LEN),
            };
            let right = fits(&[heads.q, heads.dim]) && groups(heads) && fits(&[capacity, heads.kv, heads.dim]);
            prop_assert_eq!(op.check(&Cpu::new()).is_ok(), right);
        }
    }

    #[test]
    fn rows_in_8_bits_are_as_wide_as_their_heads([heads, other] in pair(), dim in prop_oneof![Just(32), Just(128), size()]) {
        let (codes, scales, mut out) = (Cpu::new().zeros(0).unwrap(), Cpu::new().zeros(0).unwrap(), Cpu::new().zeros::<f32>(0).unwrap());
        for width in [other, heads.wrapping_mul(dim)] {
            let (codes, scales) = (codes.mat(0, width), scales.mat(heads, 0));
            let op = DequantizeRows { codes, scales, dim, out: out.mat_mut(0, width) };
            let right = product(&[heads, dim]) == Some(width as u128) && heads <= LIMIT && width <= LIMIT;
            prop_assert_eq!(op.check(&Cpu::new()).is_ok(), right && [32, 64, 128].contains(&dim));
        }
    }

    #[test]
    fn heads_are_no_wider_than_their_rows([many, dim] in pair(), [kv, max_len] in pair()) {
        let [q, k, v, mut out, mut lse] = views();
        let ends = Cpu::new().zeros(2).unwrap();
        for heads in [Heads { q: many, kv, dim }, Heads { q: many, kv: many, dim }, Heads { q: 1, kv: 1, dim: 64 }] {
            let [q, k, v] = [&q, &k, &v].map(|buf| buf.mat(1, LEN));
            let (cu_seqlens, out, lse) = (ends.view(), out.mat_mut(1, LEN), lse.at_mut(0..heads.q.min(LEN)));
            let op = Attention { q, k, v, heads, cu_seqlens, max_len, prefix: None, scale: 1.0, out, lse };
            let right = fits(&[heads.q, heads.dim]) && fits(&[heads.kv, heads.dim]) && groups(heads);
            prop_assert_eq!(op.check(&Cpu::new()).is_ok(), right && max_len <= LIMIT);
        }
    }

    #[test]
    fn adapters_are_laid_out_or_refused(shapes in prop::collection::vec((pair(), size()), 1..4)) {
        let target = |(i, &(shape, r)): (usize, &([usize; 2], usize))| {
            Target { module: Module::Layer(i, Projection::Q), shape, r, scaling: 1.0 }
        };
        let layout = Layout::new(shapes.iter().enumerate().map(target), None);
        let mut numbers = shapes.iter().map(|&([out, inputs], r)| {
            product(&[r, inputs])?.checked_add(product(&[out, r])?)
        });
        let all = numbers.try_fold(0_u128, |all, n| all.checked_add(n?));
        match layout {
            Ok(layout) => {
                prop_assert_eq!(Some(layout.n_trainable() as u128), all);
                prop_assert!(layout.len >= layout.n_trainable() && layout.len <= isize::MAX as usize / 4);
                let tensors = layout.modules.iter().flat_map(|m| [m.a.clone(), m.b.clone()]);
                let mut tensors: Vec<_> = tensors.filter(|tensor| !tensor.is_empty()).collect();
                tensors.sort_by_key(|tensor| (tensor.start, tensor.end));
                prop_assert!(tensors.windows(2).all(|two| two[0].end <= two[1].start));
            }
            // What was refused is larger than memory: but for padding, and for ranks that only empty layers have.
            Err(_) => {
                let most = shapes.iter().map(|&(_, r)| r as u128).max().unwrap_or(0);
                prop_assert!(all.is_none_or(|all| all + most + 2048 > isize::MAX as u128 / 4));
            }
        }
    }
}

fn groups(heads: Heads) -> bool {
    heads.kv > 0 && heads.q > 0 && heads.q.is_multiple_of(heads.kv) && [32, 64, 128].contains(&heads.dim)
}
