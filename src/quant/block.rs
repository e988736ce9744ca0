//! Four-bit codes of runs of elements on the host.

use super::format::Format;

/// The larger of two magnitudes, NaN if either is (unlike `f32::max`).
#[inline(always)]
pub(crate) fn max_or_nan(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// Quantises one block: returns its absmax and writes the code of each element.
#[inline(always)]
pub(crate) fn quantize_block(format: Format, x: &[f32], codes: &mut [u8]) -> f32 {
    let absmax = x.iter().fold(0.0, |m: f32, v| max_or_nan(m, v.abs()));
    // A block of zeros gets the code of 0, as on bitsandbytes' CPU backend.
    let inverse = if absmax == 0.0 { 0.0 } else { 1.0 / absmax };
    for (code, v) in codes.iter_mut().zip(x) {
        *code = format.nearest(v * inverse);
    }
    absmax
}

/// Two codes to a byte, the first in the high half; an odd tail is padded with the code of 0.
#[inline(always)]
pub(crate) fn pack_codes(format: Format, codes: &[u8], bytes: &mut [u8]) {
    for (byte, pair) in bytes.iter_mut().zip(codes.chunks(2)) {
        *byte = pair[0] << 4 | pair.get(1).copied().unwrap_or(format.zero());
    }
}
