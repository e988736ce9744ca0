//! Eight numbers of 32 bits at a time, and codes of four bits.

use super::{BLOCK, BYTES, Codes, LEAST, Limit, WORDS, element};
use crate::cpu::simd::look_up::x86 as look_up;
use std::arch::x86_64::*;

/// [`Codes::sizes`], twice.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn sizes(codes: &Codes<'_>) -> __m256i {
    // SAFETY: the type of `sizes` says sixteen bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(codes.sizes.as_ptr().cast()) })
}

/// The scale of a block whose values, of which the largest magnitude is `absmax`, are rounded once, to bf16 at the least.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn scale(bytes: &[u8; BYTES], sizes: __m256i, absmax: f32) -> f32 {
    let most = absmax.abs() * (1.0 + 1.0 / 256.0);
    Limit::Sum.scale(most, most / 255.0 * sum(bytes, sizes))
}

/// The sum of the sizes of a block's codes.
#[target_feature(enable = "avx2")]
#[inline]
fn sum(bytes: &[u8; BYTES], sizes: __m256i) -> f32 {
    // SAFETY: the type of `bytes` says one vector.
    let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
    let (low, zero) = (_mm256_set1_epi8(15), _mm256_setzero_si256());
    let of = |codes| _mm256_sad_epu8(_mm256_shuffle_epi8(sizes, _mm256_and_si256(codes, low)), zero);
    let sums = _mm256_add_epi64(of(bytes), of(_mm256_srli_epi16::<4>(bytes)));
    let sums = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    (_mm_extract_epi64::<0>(sums) + _mm_extract_epi64::<1>(sums)) as f32
}

/// [`look_up::tables`] of values that are rounded to integers.
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::cpu::simd) fn tables(values: &[f32; 16], factor: f32) -> [__m256i; 2] {
    let factor = _mm256_set1_ps(factor);
    // SAFETY: the type of `values` says two vectors of eight.
    let (a, b) = unsafe { (_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))) };
    // Rounds to nearest even. NaN becomes a number whose lower half is zero.
    let (a, b) = (_mm256_cvtps_epi32(_mm256_mul_ps(a, factor)), _mm256_cvtps_epi32(_mm256_mul_ps(b, factor)));
    look_up::tables(_mm256_packs_epi32(a, b))
}

/// [`Codes::words`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn codes(codes: &Codes<'_>, values: impl Fn(usize) -> ([f32; 16], f32), out: &mut [f32]) {
    let sizes = sizes(codes);
    // Byte `i` of a block beside byte `i + 16`, so that their codes lie in one word; in the order in which halves of vectors are
    // taken apart below.
    let quads = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    let pairs = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    let blocks = codes.bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<WORDS>().0);
    for (i, (bytes, out)) in blocks.enumerate() {
        let (values, absmax) = values(i);
        let scale = scale(bytes, sizes, absmax);
        out[0] = scale;
        let tables = tables(&values, 1.0 / scale);
        // SAFETY: the type of `bytes` says one vector.
        let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let both = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(bytes, quads), pairs);
        for (codes, out) in [_mm256_srli_epi16::<4>(both), both].into_iter().zip(out[1..].as_chunks_mut::<16>().0) {
            for (words, out) in look_up::by_bytes(tables, codes).into_iter().zip(out.as_chunks_mut::<8>().0) {
                // SAFETY: the type of `out` says eight words: one vector.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), words) }
            }
        }
    }
}

/// Sixteen columns, eight at a time.
///
/// # Safety
/// `BLOCK` rows of `block`, which begin every `columns` elements, have sixteen; so have `WORDS` rows of `out`, every `width`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn columns(limit: Limit, block: &[f32], columns: usize, out: &mut [f32], width: usize) {
    for half in [0, 8] {
        // SAFETY: the caller vouches for sixteen elements in each row.
        unsafe { eight(limit, block.as_ptr().add(half), columns, out.as_mut_ptr().add(half), width) }
    }
}

/// # Safety
/// `BLOCK` rows of `block`, which begin every `columns` elements, have eight; so have `WORDS` rows of `out`, every `width`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn eight(limit: Limit, block: *const f32, columns: usize, out: *mut f32, width: usize) {
    // SAFETY: the caller vouches for eight elements in each row.
    let at = |k: usize| unsafe { _mm256_loadu_ps(block.add(k * columns)) };
    let sign = _mm256_set1_ps(-0.0);
    let (mut largest, mut sum) = ([_mm256_setzero_ps(); 2], [_mm256_setzero_ps(); 2]);
    for k in (0..BLOCK).step_by(2) {
        for i in 0..2 {
            let size = _mm256_andnot_ps(sign, at(k + i));
            largest[i] = _mm256_max_ps(size, largest[i]);
            sum[i] = _mm256_add_ps(size, sum[i]);
        }
    }
    let (largest, sum) = (_mm256_max_ps(largest[0], largest[1]), _mm256_add_ps(sum[0], sum[1]));
    let [each, all] = limit.steps();
    let scale = _mm256_max_ps(_mm256_mul_ps(largest, _mm256_set1_ps(each)), _mm256_mul_ps(sum, _mm256_set1_ps(all)));
    let scale = _mm256_max_ps(scale, _mm256_set1_ps(LEAST));
    // As `Limit::scale`: NaN and infinity are not below infinity.
    let finite = _mm256_cmp_ps::<_CMP_LT_OQ>(sum, _mm256_set1_ps(f32::INFINITY));
    let scale = _mm256_blendv_ps(sum, scale, finite);
    let factor = _mm256_div_ps(_mm256_set1_ps(1.0), scale);
    // SAFETY: the caller vouches for eight elements in each row.
    unsafe { _mm256_storeu_ps(out, scale) };
    for i in 0..BLOCK / 2 {
        let low = _mm256_cvtps_epi32(_mm256_mul_ps(at(element(i)), factor));
        let high = _mm256_cvtps_epi32(_mm256_mul_ps(at(element(i) + BLOCK / 2), factor));
        let words = _mm256_blend_epi16::<0xaa>(low, _mm256_slli_epi32::<16>(high));
        // SAFETY: the caller vouches for eight elements in each row.
        unsafe { _mm256_storeu_si256(out.add((1 + i) * width).cast(), words) }
    }
}
