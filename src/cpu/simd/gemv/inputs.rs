//! The vectors of a product, in the order in which its kernel reads them.

use super::BEYOND;
use crate::cpu::{
    par,
    simd::{
        fixed::{self, BLOCK, Limit},
        vectorize,
    },
};

/// How a kernel reads the elements of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cpu) enum Order {
    /// As they are.
    Plain,
    /// In runs of twice that many: those of even number, then those of odd number. So they meet the two codes of a byte,
    /// or the two bf16 of 32 bits.
    Pairs(usize),
    /// In runs of eight times [`OCTETS`]: every eighth, then every eighth from the second on, and so forth. So they meet the eight
    /// codes of 32 bits.
    Octets,
    /// As they are, in bf16.
    Halves,
    /// [`Order::Pairs`] in bf16.
    HalfPairs(usize),
    /// In blocks of [`BLOCK`] in fixed point with a scale each: eight of even number, then those of even number sixteen behind
    /// them, the eight and eight between and behind these, and the same of odd number. So they meet codes that are looked up by
    /// bytes, in either half of a vector.
    Blocks,
}

/// Codes of four bytes each that a kernel reads at once.
const OCTETS: usize = 16;

impl Order {
    /// A run begins at a multiple of this.
    fn run(self) -> usize {
        match self {
            Order::Plain => 1,
            Order::Halves => 32,
            Order::Pairs(n) | Order::HalfPairs(n) => 2 * n,
            Order::Octets => 8 * OCTETS,
            Order::Blocks => BLOCK,
        }
    }

    /// Bytes of an element.
    fn bytes(self) -> usize {
        match self {
            Order::Plain | Order::Pairs(_) | Order::Octets => 4,
            Order::Halves | Order::HalfPairs(_) | Order::Blocks => 2,
        }
    }
}

/// The vectors.
pub(in crate::cpu) struct Inputs {
    /// `[n, stride]` in f32 or in bf16, zeros beyond `cols`. A load of a vector does not cross a line of the cache.
    lines: Vec<par::Line>,
    /// `[n, blocks]`, and [`BEYOND`] more, where these have some.
    scales: Vec<f32>,
    pub(super) order: Order,
    /// How many vectors there are.
    pub(in crate::cpu) n: usize,
    /// Elements of a vector.
    pub(in crate::cpu) cols: usize,
    /// Where the next one begins.
    pub(in crate::cpu) stride: usize,
}

impl Inputs {
    /// Vectors of `cols` elements, which `read(i, out)` gives; `order` is asked whether all of them are exact in bf16.
    pub(in crate::cpu) fn new(
        n: usize,
        cols: usize,
        read: impl Fn(usize, &mut [f32]),
        order: impl Fn(bool) -> Order,
    ) -> Self {
        par::with_scratch(n * cols, |plain| {
            plain.chunks_exact_mut(cols.max(1)).enumerate().for_each(|(i, x)| read(i, x));
            let plain = &*plain;
            let order = order(vectorize(
                #[inline(always)]
                || plain.iter().fold(0, |bits, x| bits | x.to_bits()) & 0xffff == 0,
            ));
            let stride = cols.next_multiple_of(order.run());
            let mut lines = par::lines(n * stride * order.bytes());
            let mut scales = Vec::new();
            let rows = plain.chunks_exact(cols.max(1));
            let half = |x: f32| (x.to_bits() >> 16) as u16;
            match order {
                Order::Plain | Order::Pairs(_) | Order::Octets => {
                    arrange(rows, bytemuck::cast_slice_mut(&mut lines), stride, order, |x: f32| x)
                }
                Order::Halves | Order::HalfPairs(_) => {
                    arrange(rows, bytemuck::cast_slice_mut(&mut lines), stride, order, half)
                }
                Order::Blocks => {
                    scales = vec![0.0; n * stride / BLOCK + BEYOND];
                    let out = bytemuck::cast_slice_mut(&mut lines).chunks_exact_mut(stride.max(1));
                    for ((row, out), scales) in rows.zip(out).zip(scales.chunks_exact_mut((stride / BLOCK).max(1))) {
                        blocks(row, out, scales);
                    }
                }
            }
            Inputs { lines, scales, order, n, cols, stride }
        })
    }

    /// `[n, stride]`, and perhaps more, where the order is not one of bf16.
    #[inline(always)]
    pub(in crate::cpu) fn wide(&self) -> &[f32] {
        bytemuck::cast_slice(&self.lines)
    }

    /// The same where it is.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn halves(&self) -> &[u16] {
        bytemuck::cast_slice(&self.lines)
    }

    /// Blocks of vector `i` in [`Order::Blocks`].
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn blocks(&self, i: usize, first: usize, count: usize) -> &[[i16; BLOCK]] {
        let numbers: &[i16] = bytemuck::cast_slice(&self.lines);
        &numbers.as_chunks().0[i * (self.stride / BLOCK) + first..][..count]
    }

    /// The scales of these, and [`BEYOND`] more.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn scales(&self, i: usize) -> &[f32] {
        &self.scales[i * (self.stride / BLOCK)..]
    }
}

/// The rows one after the other, each in `order`, to zeros; a row begins at a multiple of `stride`.
fn arrange<'a, E: Copy>(
    rows: impl Iterator<Item = &'a [f32]>,
    out: &mut [E],
    stride: usize,
    order: Order,
    element: impl Fn(f32) -> E + Copy,
) {
    for (row, out) in rows.zip(out.chunks_exact_mut(stride.max(1))) {
        match order {
            Order::Plain | Order::Halves => out.iter_mut().zip(row).for_each(|(out, x)| *out = element(*x)),
            Order::Octets => vectorize(
                #[inline(always)]
                || {
                    let (runs, last) = row.as_chunks::<{ 8 * OCTETS }>();
                    let (out, rest) = out.as_chunks_mut::<{ 8 * OCTETS }>();
                    for (run, out) in runs.iter().zip(out.iter_mut()) {
                        for k in 0..8 {
                            for i in 0..OCTETS {
                                out[k * OCTETS + i] = element(run[i * 8 + k]);
                            }
                        }
                    }
                    debug_assert!(rest.is_empty());
                    for (i, x) in last.iter().enumerate() {
                        out[runs.len()][i % 8 * OCTETS + i / 8] = element(*x);
                    }
                },
            ),
            Order::Blocks => unreachable!("{order:?} have scales"),
            Order::Pairs(n) | Order::HalfPairs(n) => {
                for (row, out) in row.chunks(2 * n).zip(out.chunks_exact_mut(2 * n)) {
                    let (even, odd) = out.split_at_mut(n);
                    vectorize(
                        #[inline(always)]
                        || {
                            let (pairs, last) = row.as_chunks::<2>();
                            for (([a, b], even), odd) in pairs.iter().zip(even.iter_mut()).zip(odd) {
                                (*even, *odd) = (element(*a), element(*b));
                            }
                            if let [last] = last {
                                even[pairs.len()] = element(*last);
                            }
                        },
                    );
                }
            }
        }
    }
}

/// A row in [`Order::Blocks`]. NaN and infinity in a block make its scale so, and then every product NaN.
fn blocks(row: &[f32], out: &mut [i16], scales: &mut [f32]) {
    for ((row, out), scale) in row.chunks(BLOCK).zip(out.as_chunks_mut::<BLOCK>().0).zip(scales) {
        let mut block = [0.0; BLOCK];
        block[..row.len()].copy_from_slice(row);
        vectorize(
            #[inline(always)]
            || {
                *scale = Limit::Lane.scale_of(&block);
                let factor = 1.0 / *scale;
                for (i, sixteen) in block.as_chunks::<16>().0.iter().enumerate() {
                    // Of the codes of eight bytes the first half of a vector's half is made, or the other one.
                    let at = i % 2 * 16 + i / 2 * 8;
                    for (k, [even, odd]) in sixteen.as_chunks::<2>().0.iter().enumerate() {
                        out[at + k] = fixed::number(even * factor);
                        out[BLOCK / 2 + at + k] = fixed::number(odd * factor);
                    }
                }
            },
        );
    }
}
