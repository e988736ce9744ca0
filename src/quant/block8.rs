//! Values in 8 bits, in blocks, as bitsandbytes' optimisers keep their state.

use super::{
    block::max_or_nan,
    code::{DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP, nearest8, nearest8_unsigned},
};

/// Elements of a block.
pub const BLOCK8: usize = 256;

/// Which dynamic map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map8 {
    Signed,
    Unsigned,
}

impl Map8 {
    /// The values of a block's codes.
    pub fn decode(self, codes: &[u8], absmax: f32, out: &mut [f32]) {
        let map: &[f32; 256] = match self {
            Map8::Signed => &DYNAMIC_MAP,
            Map8::Unsigned => &UNSIGNED_DYNAMIC_MAP,
        };
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = map[usize::from(code)] * absmax;
        }
    }

    /// Codes of the values of a block; gives their largest magnitude.
    pub fn encode(self, x: &[f32], codes: &mut [u8]) -> f32 {
        let nearest = match self {
            Map8::Signed => nearest8,
            Map8::Unsigned => nearest8_unsigned,
        };
        let absmax = x.iter().fold(0.0, |m: f32, v| max_or_nan(m, v.abs()));
        if absmax == 0.0 {
            codes.fill(0);
            return absmax;
        }
        let inverse = 1.0 / absmax;
        codes.iter_mut().zip(x).for_each(|(code, v)| *code = nearest(v * inverse));
        absmax
    }
}
