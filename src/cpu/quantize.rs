use super::{
    device::Cpu,
    par,
    simd::{convert, vectorize},
};
use crate::{
    element::Float,
    ops::{NestAbsmax, Quantize},
    quant,
};
use rayon::prelude::*;

/// Elements that one task quantises at least: whole blocks of any size, whole bytes.
const CHUNK: usize = 16384;

pub(super) fn quantize<T: Float>(op: Quantize<'_, Cpu, T>) {
    let Quantize { x, format, block_size, codes, absmax } = op;
    let outs = codes.into_slice().par_chunks_mut(CHUNK / 2).zip(absmax.into_slice().par_chunks_mut(CHUNK / block_size));
    par::each_with(
        x.slice().par_chunks(CHUNK).zip(outs),
        || (vec![0.0; CHUNK], vec![0; CHUNK]),
        |(wide, codes), (x, (bytes, absmax))| {
            let (wide, codes) = (&mut wide[..x.len()], &mut codes[..x.len()]);
            vectorize(
                #[inline(always)]
                || {
                    convert::widen(x, wide);
                    let blocks = wide.chunks(block_size).zip(codes.chunks_mut(block_size));
                    for ((x, codes), absmax) in blocks.zip(absmax) {
                        *absmax = quant::quantize_block(format, x, codes);
                    }
                    quant::pack_codes(format, codes, bytes);
                },
            );
        },
    );
}

pub(super) fn nest_absmax(op: NestAbsmax<'_, Cpu>) {
    quant::nest(op.absmax.slice(), op.codes.into_slice(), op.groups.into_slice());
}
