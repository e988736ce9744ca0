//! From 4-bit weights to f32.

use super::{
    Level, convert,
    fixed::{self, Codes},
    level,
    look_up::look_up,
    prefetch, vectorize,
};
#[cfg(target_arch = "x86_64")]
use crate::quant::{DYNAMIC_MAP, Group};
use crate::{
    cpu::device::Cpu,
    element::Float,
    quant::{GROUP, Scales, Weight4},
};
use std::ops::Range;

impl Scales<'_, Cpu> {
    /// The absmax of block `i`.
    #[inline(always)]
    fn absmax(&self, i: usize) -> f32 {
        match self {
            Scales::Plain(absmax) => absmax.slice()[i],
            Scales::Nested { codes, groups } => groups.slice()[i / GROUP].absmax_of(codes.slice()[i]),
        }
    }
}

/// Cuts elements `first .. first + len` of the flattened weight into runs of one block each, and calls
/// `f(run, first element, absmax)` with the run's place among the elements.
#[inline(always)]
pub(super) fn each_run(
    weight: &Weight4<'_, Cpu>,
    first: usize,
    len: usize,
    mut f: impl FnMut(Range<usize>, usize, f32),
) {
    // Block sizes are powers of two.
    let shift = weight.block_size.trailing_zeros();
    let mut done = 0;
    while done < len {
        let at = first + done;
        let block = at >> shift;
        let end = (((block + 1) << shift) - first).min(len);
        f(done..end, at, weight.scales.absmax(block));
        done = end;
    }
}

/// The absmax of blocks `first ..`; `unnest` is that of [`look_up`](super::look_up) for some set of instructions.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn scales(
    weight: &Weight4<'_, Cpu>,
    first: usize,
    out: &mut [f32],
    unnest: impl Fn(&[f32; 256], Group, &[u8], &mut [f32]),
) {
    let (codes, groups) = match &weight.scales {
        Scales::Plain(absmax) => return out.copy_from_slice(&absmax.slice()[first..first + out.len()]),
        Scales::Nested { codes, groups } => (&codes.slice()[first..first + out.len()], groups.slice()),
    };
    let mut done = 0;
    while done < out.len() {
        let block = first + done;
        let end = out.len().min(done + GROUP - block % GROUP);
        unnest(&DYNAMIC_MAP, groups[block / GROUP], &codes[done..end], &mut out[done..end]);
        done = end;
    }
}

/// What the 16 codes stand for in a block, rounded to `T`.
#[inline(always)]
pub(super) fn values<T: Float>(codes: &[f32; 16], absmax: f32) -> [f32; 16] {
    let mut values = *codes;
    values.iter_mut().for_each(|value| *value *= absmax);
    convert::round::<T>(&mut values);
    values
}

/// Rows ahead of what is decoded for which memory is asked.
const AHEAD: usize = 8;

/// Asks for what stands some rows below `len` elements from `first` on: pieces of rows are decoded one after the other, and the
/// machine does not see where the next one will be. (With AVX-512 it was not tried.)
fn ask_ahead(weight: &Weight4<'_, Cpu>, first: usize, len: usize) {
    let at = (first + AHEAD * weight.cols) / 2;
    if let Some(codes) = weight.codes.slice().get(at..at + len / 2).filter(|_| level() == Level::Avx2) {
        prefetch(codes);
    }
}

/// Elements `first ..` of the flattened weight, each rounded to `T`.
pub(in crate::cpu) fn decode<T: Float>(weight: &Weight4<'_, Cpu>, first: usize, out: &mut [f32]) {
    ask_ahead(weight, first, out.len());
    vectorize(
        #[inline(always)]
        || {
            let codes = weight.format.codes();
            each_run(
                weight,
                first,
                out.len(),
                #[inline(always)]
                |run, at, absmax| {
                    look_up(&values::<T>(codes, absmax), weight.codes.slice(), at, &mut out[run]);
                },
            );
        },
    );
}

/// What the codes of a format are in 255ths, not less than they are: [`Codes::sizes`].
pub(in crate::cpu) fn sizes(codes: &[f32; 16]) -> [u8; 16] {
    codes.map(|code| (code.abs() * 255.0).ceil() as u8)
}

/// `len` elements from `first` on, each rounded to `T`, as words of a weight in fixed point. False, and nothing done, where
/// they are not blocks with one scale each, or there are no instructions for it.
pub(in crate::cpu) fn decode_fixed<T: Float>(
    weight: &Weight4<'_, Cpu>,
    sizes: &[u8; 16],
    first: usize,
    len: usize,
    out: &mut [f32],
) -> bool {
    if ![weight.block_size, first, len].iter().all(|n| n.is_multiple_of(fixed::BLOCK)) {
        return false;
    }
    let (codes, shift) = (weight.format.codes(), weight.block_size.trailing_zeros());
    let bytes = &weight.codes.slice()[first / 2..(first + len) / 2];
    ask_ahead(weight, first, len);
    Codes { bytes, sizes }.words(
        #[inline(always)]
        |i| {
            let absmax = weight.scales.absmax((first + i * fixed::BLOCK) >> shift);
            (values::<T>(codes, absmax), absmax)
        },
        out,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::Backend,
        quant::{Absmax, Format},
    };

    #[test]
    fn fixed_point_is_within_half_a_step_of_what_is_decoded() {
        const BLOCKS: usize = 40;
        let len = BLOCKS * fixed::BLOCK;
        // Blocks of everything, then of one code each.
        let byte = |i: usize| if i < len / 4 { (i * 197 % 251) as u8 } else { (i / 32 % 16 * 17) as u8 };
        let cpu = Cpu::new();
        let codes = cpu.upload(&(0..len / 2).map(byte).collect::<Vec<_>>()).unwrap();
        let absmax = cpu.upload(&(0..BLOCKS).map(|i| 0.3 + 0.07 * i as f32).collect::<Vec<_>>()).unwrap();
        for (format, block_size) in [(Format::Nf4, 64), (Format::Fp4, 64), (Format::Nf4, 128)] {
            let scales = Absmax::Plain(absmax.view());
            let weight = Weight4 { format, block_size, rows: 1, cols: len, codes: codes.view(), scales };
            let (mut want, mut words) = (vec![0.0; len], vec![0.0; BLOCKS * fixed::WORDS]);
            decode::<half::bf16>(&weight, 0, &mut want);
            if !decode_fixed::<half::bf16>(&weight, &sizes(format.codes()), 0, len, &mut words) {
                return eprintln!("this machine has no AVX2");
            }
            for (words, want) in words.chunks(fixed::WORDS).zip(want.chunks(fixed::BLOCK)) {
                let numbers = fixed::tests::integers(words);
                for (number, want) in numbers.iter().zip(want) {
                    // Half a step, and an ulp of the factor.
                    let off = (f64::from(*number) * f64::from(words[0]) - f64::from(*want)).abs();
                    assert!(off <= 0.51 * f64::from(words[0]), "{number} of {} for {want}", words[0]);
                }
                let sum: i64 = numbers.iter().map(|number| i64::from(number.abs())).sum();
                assert!(sum * 32767 < 1 << 31, "{sum}");
                assert!(sum > 60_000 || want.iter().all(|x| x.abs() < words[0] * 1100.0), "most bits are used: {sum}");
            }
        }
    }
}
