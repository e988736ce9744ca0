//! From 4-bit weights to f32.

use super::{convert, look_up::look_up, vectorize};
use crate::{
    cpu::device::Cpu,
    element::Float,
    quant::{DYNAMIC_MAP, GROUP, Group, Scales, Weight4},
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

/// The absmax of blocks `first ..`.
pub(super) fn scales(weight: &Weight4<'_, Cpu>, first: usize, out: &mut [f32]) {
    let (codes, groups) = match &weight.scales {
        Scales::Plain(absmax) => return out.copy_from_slice(&absmax.slice()[first..first + out.len()]),
        Scales::Nested { codes, groups } => (&codes.slice()[first..first + out.len()], groups.slice()),
    };
    let map = &*DYNAMIC_MAP;
    let mut done = 0;
    while done < out.len() {
        let Group { absmax, offset } = groups[(first + done) / GROUP];
        let end = out.len().min(done + GROUP - (first + done) % GROUP);
        let (out, codes) = (&mut out[done..end], &codes[done..end]);
        // The look-ups by themselves, since there are no vectors for them.
        out.iter_mut().zip(codes).for_each(|(out, code)| *out = map[usize::from(*code)]);
        vectorize(
            #[inline(always)]
            || out.iter_mut().for_each(|out| *out = *out * absmax + offset),
        );
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

/// Elements `first ..` of the flattened weight, each rounded to `T`.
pub(in crate::cpu) fn decode<T: Float>(weight: &Weight4<'_, Cpu>, first: usize, out: &mut [f32]) {
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
