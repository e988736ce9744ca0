//! Sixteen numbers of 32 bits at a time.

use super::{
    BLOCK, BYTES, Codes, LEAST, Limit, WORDS,
    avx2::{scale, sizes},
    element,
};
use std::arch::x86_64::*;

/// Numbers of the low vector in the low halves, of the high one in the high halves.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn words(low: __m512, high: __m512, factor: __m512) -> __m512i {
    // Rounds to nearest even. NaN becomes a number whose low half is zero.
    let integers = |x: __m512| _mm512_cvtps_epi32(_mm512_mul_ps(x, factor));
    _mm512_mask_mov_epi16(integers(low), 0xaaaa_aaaa, _mm512_slli_epi32::<16>(integers(high)))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn row(limit: Limit, block: &[f32; BLOCK], out: &mut [f32; WORDS]) {
    // SAFETY: the type of `block` says four vectors.
    let x: [__m512; 4] = std::array::from_fn(|i| unsafe { _mm512_loadu_ps(block.as_ptr().add(16 * i)) });
    let size = x.map(|x| _mm512_abs_ps(x));
    let both = |f: fn(__m512, __m512) -> __m512| f(f(size[0], size[1]), f(size[2], size[3]));
    let largest = _mm512_reduce_max_ps(both(|a, b| _mm512_max_ps(a, b)));
    let scale = limit.scale(largest, _mm512_reduce_add_ps(both(|a, b| _mm512_add_ps(a, b))));
    out[0] = scale;
    let factor = _mm512_set1_ps(1.0 / scale);
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    for (i, out) in out[1..].as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let of = _mm512_add_epi32(even, _mm512_set1_epi32(i as i32));
        let [low, high] = [0, 2].map(|at| _mm512_permutex2var_ps(x[at], of, x[at + 1]));
        // SAFETY: the type of `out` says sixteen words: one vector.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), words(low, high, factor)) }
    }
}

/// Two vectors for a block: its words lie as the codes do.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn codes(codes: &Codes<'_>, values: impl Fn(usize) -> ([f32; 16], f32), out: &mut [f32]) {
    let sizes = sizes(codes);
    let blocks = codes.bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<WORDS>().0);
    for (i, (bytes, out)) in blocks.enumerate() {
        let (values, absmax) = values(i);
        let scale = scale(bytes, sizes, absmax);
        out[0] = scale;
        // SAFETY: the types of the arrays say sixteen elements, and two times sixteen bytes.
        let (values, halves) = unsafe {
            let half = |i: usize| _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().add(16 * i).cast()));
            (_mm512_loadu_ps(values.as_ptr()), [half(0), half(1)])
        };
        let values = _mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(1.0 / scale)));
        // Twice, since the look-up heeds five bits.
        let table = _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(values));
        let both = _mm512_or_si512(halves[0], _mm512_slli_epi32::<16>(halves[1]));
        for (codes, out) in [_mm512_srli_epi16::<4>(both), both].into_iter().zip(out[1..].as_chunks_mut::<16>().0) {
            // SAFETY: the type of `out` says sixteen words: one vector.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi16(codes, table)) }
        }
    }
}

/// # Safety
/// `BLOCK` rows of `block`, which begin every `columns` elements, have sixteen; so have `WORDS` rows of `out`, every
/// `width`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn columns(limit: Limit, block: &[f32], columns: usize, out: &mut [f32], width: usize) {
    // SAFETY: the caller vouches for sixteen elements in each row.
    let at = |k: usize| unsafe { _mm512_loadu_ps(block.as_ptr().add(k * columns)) };
    let (mut largest, mut sum) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
    for k in (0..BLOCK).step_by(2) {
        for i in 0..2 {
            let size = _mm512_abs_ps(at(k + i));
            largest[i] = _mm512_max_ps(size, largest[i]);
            sum[i] = _mm512_add_ps(size, sum[i]);
        }
    }
    let (largest, sum) = (_mm512_max_ps(largest[0], largest[1]), _mm512_add_ps(sum[0], sum[1]));
    let [each, all] = limit.steps().map(|step| _mm512_set1_ps(step));
    let scale = _mm512_max_ps(_mm512_mul_ps(largest, each), _mm512_mul_ps(sum, all));
    let scale = _mm512_max_ps(scale, _mm512_set1_ps(LEAST));
    // As `Limit::scale`: NaN and infinity are not below infinity.
    let finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(sum, _mm512_set1_ps(f32::INFINITY));
    let scale = _mm512_mask_mov_ps(sum, finite, scale);
    let factor = _mm512_div_ps(_mm512_set1_ps(1.0), scale);
    // SAFETY: the caller vouches for sixteen elements in each row.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), scale) };
    for i in 0..BLOCK / 2 {
        let words = words(at(element(i)), at(element(i) + BLOCK / 2), factor);
        // SAFETY: the caller vouches for sixteen elements in each row.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().add((1 + i) * width).cast(), words) }
    }
}
