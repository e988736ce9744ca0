//! Products of rows of a weight with one to four vectors: elements are decoded in registers, where they are used.
//!
//! Every kernel does the same: it takes a few rows at a time, so that what is loaded of the vectors serves them all, and
//! sums a block of a 4-bit weight before it multiplies with the block's scale. Rows do not share sums, so that no bit of
//! a result depends on which rows are computed together.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod inputs;
#[cfg(target_arch = "x86_64")]
mod integers;

pub(in crate::cpu) use inputs::{Inputs, Order};

use super::{Level, fixed, level};
use crate::{
    buffer::Mat,
    cpu::{device::Cpu, par},
    element::{DType, Float},
    quant::{Format, Weight4},
};
use std::ops::Range;

/// The most vectors that there are kernels for.
pub(in crate::cpu) const MAX_ROWS: usize = 4;

/// Whether a 4-bit weight has rows of whole blocks, as kernels need.
fn whole_blocks(weight: &Weight4<'_, Cpu>) -> bool {
    weight.cols.is_multiple_of(weight.block_size)
}

/// How the kernel for a 4-bit weight reads vectors.
pub(in crate::cpu) fn order4<T: Float>(weight: &Weight4<'_, Cpu>, exact: bool) -> Order {
    match level() {
        _ if !whole_blocks(weight) => Order::Plain,
        // A run has one scale.
        Level::Avx512Bf16 if T::DTYPE == DType::Bf16 && exact && weight.block_size >= 64 => Order::HalfPairs(32),
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => Order::Octets,
        Level::Avx2 if T::DTYPE == DType::Bf16 && exact && weight.block_size >= fixed::BLOCK => Order::Blocks,
        Level::Avx2 => Order::Pairs(8),
        Level::Portable => Order::Plain,
    }
}

/// How the kernel for a dense weight reads vectors.
pub(in crate::cpu) fn order<T: Float>(exact: bool) -> Order {
    match level() {
        _ if T::DTYPE != DType::Bf16 => Order::Plain,
        Level::Avx512Bf16 if exact => Order::Halves,
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => Order::Pairs(16),
        Level::Avx2 => Order::Pairs(8),
        Level::Portable => Order::Plain,
    }
}

/// `out[j, i] = x[i] · weight[rows.start + j]`. False, and nothing done, where there is no kernel for the order of `x`.
pub(in crate::cpu) fn dots4(weight: &Weight4<'_, Cpu>, rows: Range<usize>, x: &Inputs, out: &mut [f32]) -> bool {
    assert!(x.cols == weight.cols && out.len() == rows.len() * x.n);
    if x.order == Order::Plain {
        return false;
    }
    let blocks = weight.cols / weight.block_size;
    par::with_scratch(AT_ONCE * blocks + BEYOND, |factors| From4 { weight, first: rows.start }.dots(x, factors, out));
    true
}

/// `out[j, i] = x[i] · weight[rows.start + j]` for a dense weight. False, and nothing done, where there is no kernel for
/// the order of `x`.
pub(in crate::cpu) fn dots<T: Float>(weight: Mat<'_, Cpu, T>, rows: Range<usize>, x: &Inputs, out: &mut [f32]) -> bool {
    assert!(x.cols == weight.cols && out.len() == rows.len() * x.n);
    if x.order == Order::Plain {
        return false;
    }
    let elements = bytemuck::cast_slice(weight.rows(rows).view.slice());
    Rows16 { elements, stride: weight.stride }.dots(x, out);
    true
}

/// Rows of a 4-bit weight that a kernel takes at once, at most.
const AT_ONCE: usize = 4;
/// Scales that may be read behind the last one: a vector's.
const BEYOND: usize = 16;

/// A 4-bit weight from a row on.
#[derive(Debug, Clone, Copy)]
struct From4<'a> {
    weight: &'a Weight4<'a, Cpu>,
    first: usize,
}

/// Rows of a 4-bit weight with their scales.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
struct Rows4<'a> {
    codes: &'a [u8],
    /// `[rows, blocks of a row]`, and `BEYOND` more.
    scales: &'a [f32],
    format: Format,
    /// Elements of a block.
    block: usize,
}

impl From4<'_> {
    /// `scratch` has room for the scales of `AT_ONCE` rows, and `BEYOND` more.
    #[cfg(target_arch = "x86_64")]
    fn dots(self, x: &Inputs, scratch: &mut [f32], out: &mut [f32]) {
        match x.order {
            // SAFETY: `order4` names this order only where `level` found AVX2, FMA and F16C.
            Order::Blocks => unsafe { integers::quantized(self, x, scratch, out) },
            // SAFETY: `order4` names this order only where `level` found AVX-512 BF16 and all below it.
            Order::HalfPairs(_) => unsafe { avx512bf16::quantized(self, x, scratch, out) },
            // SAFETY: `level` found AVX-512 F, BW, DQ and VL, besides AVX2, FMA and F16C.
            _ if level() >= Level::Avx512 => unsafe { avx512::quantized(self, x, scratch, out) },
            // SAFETY: `order4` names an order only where `level` found AVX2, FMA and F16C at least.
            _ => unsafe { avx2::quantized(self, x, scratch, out) },
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn dots(self, x: &Inputs, _: &mut [f32], _: &mut [f32]) {
        unreachable!("{self:?}: no kernel asked for {:?}", x.order)
    }
}

/// Rows of a dense weight in bf16.
#[derive(Debug, Clone, Copy)]
struct Rows16<'a> {
    elements: &'a [u16],
    stride: usize,
}

impl Rows16<'_> {
    #[cfg(target_arch = "x86_64")]
    fn dots(self, x: &Inputs, out: &mut [f32]) {
        match x.order {
            // SAFETY: `order` names this order only where `level` found AVX-512 BF16 and all below it.
            Order::Halves => unsafe { avx512bf16::dense(self, x, out) },
            // SAFETY: `level` found AVX-512 F, BW, DQ and VL, besides AVX2, FMA and F16C.
            _ if level() >= Level::Avx512 => unsafe { avx512::dense(self, x, out) },
            // SAFETY: `order` names an order only where `level` found AVX2, FMA and F16C at least.
            _ => unsafe { avx2::dense(self, x, out) },
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn dots(self, x: &Inputs, _: &mut [f32]) {
        unreachable!("{self:?}: no kernel asked for {:?}", x.order)
    }
}

/// What the kernels of one instruction set for a 4-bit weight share: a few rows at a time, with as many as registers hold for one
/// vector and for several, then the rows that are left.
#[cfg(target_arch = "x86_64")]
macro_rules! quantized {
    ($features:literal, [$four:literal, $two:literal]) => {
        /// `out[j, i] = x[i] · rows[j]`.
        #[target_feature(enable = $features)]
        pub(super) fn quantized(rows: From4<'_>, x: &Inputs, scratch: &mut [f32], out: &mut [f32]) {
            match x.n {
                1 => all4::<$four, 1>(rows, x, scratch, out),
                2 => all4::<$two, 2>(rows, x, scratch, out),
                3 => all4::<$two, 3>(rows, x, scratch, out),
                _ => all4::<$two, 4>(rows, x, scratch, out),
            }
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn all4<const R: usize, const N: usize>(rows: From4<'_>, x: &Inputs, scratch: &mut [f32], out: &mut [f32]) {
            let From4 { weight, first } = rows;
            let (bytes, blocks) = (x.cols / 2, x.cols / weight.block_size);
            let n = out.len() / N;
            assert!(x.n == N && R <= AT_ONCE && scratch.len() >= AT_ONCE * blocks + BEYOND);
            let codes = &weight.codes.slice()[first * bytes..(first + n) * bytes];
            let whole = n / R * R;
            for row in (0..whole).step_by(R).chain(whole..n) {
                let many = if row < whole { R } else { 1 };
                decode::scales(
                    weight,
                    (first + row) * blocks,
                    &mut scratch[..many * blocks],
                    |map, group, codes, out| unnest(map, group, codes, out),
                );
                let rows = Rows4 {
                    codes: &codes[row * bytes..],
                    scales: scratch,
                    format: weight.format,
                    block: weight.block_size,
                };
                let out = &mut out[row * N..];
                if row < whole {
                    some4::<R, N>(rows, x, out.as_chunks_mut().0.split_first_chunk_mut().unwrap().0);
                } else {
                    some4::<1, N>(rows, x, out.as_chunks_mut().0.split_first_chunk_mut().unwrap().0);
                }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
use quantized;

/// The same for a dense one.
#[cfg(target_arch = "x86_64")]
macro_rules! dense {
    ($features:literal, [$four:literal, $two:literal]) => {
        /// `out[j, i] = x[i] · rows[j]`.
        #[target_feature(enable = $features)]
        pub(super) fn dense(rows: Rows16<'_>, x: &Inputs, out: &mut [f32]) {
            match x.n {
                1 => all16::<$four, 1>(rows, x, out),
                2 => all16::<$two, 2>(rows, x, out),
                3 => all16::<$two, 3>(rows, x, out),
                _ => all16::<$two, 4>(rows, x, out),
            }
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn all16<const R: usize, const N: usize>(rows: Rows16<'_>, x: &Inputs, out: &mut [f32]) {
            let n = out.len() / N;
            assert!(x.n == N && (n == 0 || rows.elements.len() >= (n - 1) * rows.stride + x.cols));
            let whole = n / R * R;
            for row in (0..whole).step_by(R).chain(whole..n) {
                let rows = Rows16 { elements: &rows.elements[row * rows.stride..], ..rows };
                let out = &mut out[row * N..];
                if row < whole {
                    some16::<R, N>(rows, x, out.as_chunks_mut().0.split_first_chunk_mut().unwrap().0);
                } else {
                    some16::<1, N>(rows, x, out.as_chunks_mut().0.split_first_chunk_mut().unwrap().0);
                }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
use dense;
