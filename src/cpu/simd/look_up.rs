//! Table look-up of 4-bit codes, and of the codes of nested scales.
#![allow(unsafe_code)]

use super::{Level, level};
#[cfg(target_arch = "x86_64")]
use crate::quant::Group;

/// `out[i] = values[code of element first + i]`; element `2j` is in the high half of byte `j`.
#[inline]
pub(super) fn look_up(values: &[f32; 16], codes: &[u8], first: usize, out: &mut [f32]) {
    let mut codes = &codes[first / 2..];
    let (head, rest) = out.split_at_mut((first % 2).min(out.len()));
    if let [head] = head {
        *head = values[usize::from(codes[0] & 15)];
        codes = &codes[1..];
    }
    let (pairs, tail) = rest.as_chunks_mut::<2>();
    let bytes = &codes[..pairs.len()];
    let done = match level() {
        // SAFETY: `level` found AVX-512 F.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { x86::avx512(values, bytes, pairs) },
        // SAFETY: `level` found AVX2.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 if values.iter().all(|x| x.to_bits() & 0xffff == 0) => unsafe {
            x86::avx2_halves(values, bytes, pairs)
        },
        // SAFETY: `level` found AVX2.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2(values, bytes, pairs) },
        _ => 0,
    };
    for (pair, byte) in pairs[done..].iter_mut().zip(&bytes[done..]) {
        *pair = [values[usize::from(byte >> 4)], values[usize::from(byte & 15)]];
    }
    if let [last] = tail {
        *last = values[usize::from(codes[pairs.len()] >> 4)];
    }
}

/// What the codes of nested scales in one group stand for, by a map of 256 values.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn unnest(map: &[f32; 256], group: Group, codes: &[u8], out: &mut [f32]) {
    // The second loop is one of vectors.
    out.iter_mut().zip(codes).for_each(|(out, code)| *out = map[usize::from(*code)]);
    out.iter_mut().for_each(|out| *out = *out * group.absmax + group.offset);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use crate::quant::Group;
    use std::arch::x86_64::*;

    /// [`unnest`](super::unnest), sixteen at a time.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(in crate::cpu::simd) fn unnest(map: &[f32; 256], group: Group, codes: &[u8], out: &mut [f32]) {
        let (absmax, offset) = (_mm512_set1_ps(group.absmax), _mm512_set1_ps(group.offset));
        let (codes, last) = codes.as_chunks::<16>();
        let (out, rest) = out[..codes.len() * 16 + last.len()].as_chunks_mut::<16>();
        for (codes, out) in codes.iter().zip(out) {
            // SAFETY: the types of `codes` and `out` say sixteen of each, and that of `map` that a byte is a place in it.
            unsafe {
                let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
                let values = _mm512_i32gather_ps::<4>(codes, map.as_ptr());
                _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(_mm512_mul_ps(values, absmax), offset));
            }
        }
        super::unnest(map, group, last, rest);
    }

    /// Sixteen elements at a time; says how many pairs are done.
    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(values: &[f32; 16], bytes: &[u8], out: &mut [[f32; 2]]) -> usize {
        // SAFETY: the type of `values` says sixteen elements: one vector.
        let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
        let chunks = bytes.as_chunks::<8>().0;
        for (bytes, out) in chunks.iter().zip(out.as_chunks_mut::<8>().0) {
            // A byte in each 64 bits: its high half to the low word, its low half to the high word. The look-up
            // ignores what is above four bits.
            let byte = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(i64::from_le_bytes(*bytes)));
            let code = _mm512_or_si512(_mm512_srli_epi64::<4>(byte), _mm512_slli_epi64::<32>(byte));
            // SAFETY: the type of `out` says sixteen elements: one vector.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().cast(), _mm512_permutexvar_ps(code, values)) }
        }
        chunks.len() * 8
    }

    /// What sixteen codes stand for, by bytes: the lower ones of 16 bits and the upper ones, each twice. Of `words` either half has
    /// four of the first eight codes, then four of the others, as `_mm256_packs_epi32` leaves them.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(in crate::cpu::simd) fn tables(words: __m256i) -> [__m256i; 2] {
        let bytes = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
        let fours = _mm256_shuffle_epi8(words, bytes);
        let lower = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
        let upper = _mm256_setr_epi32(2, 6, 3, 7, 2, 6, 3, 7);
        [_mm256_permutevar8x32_epi32(fours, lower), _mm256_permutevar8x32_epi32(fours, upper)]
    }

    /// What the lower half of each byte stands for, by [`tables`]: of the first eight bytes in either half of the vector, then of
    /// the others.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(in crate::cpu::simd) fn by_bytes([lower, upper]: [__m256i; 2], codes: __m256i) -> [__m256i; 2] {
        let codes = _mm256_and_si256(codes, _mm256_set1_epi8(15));
        let (lower, upper) = (_mm256_shuffle_epi8(lower, codes), _mm256_shuffle_epi8(upper, codes));
        [_mm256_unpacklo_epi8(lower, upper), _mm256_unpackhi_epi8(lower, upper)]
    }

    /// 32 elements at a time, of values whose lower halves are zero; says how many pairs are done.
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2_halves(values: &[f32; 16], bytes: &[u8], out: &mut [[f32; 2]]) -> usize {
        // SAFETY: the type of `values` says sixteen elements: two vectors.
        let (a, b) =
            unsafe { (_mm256_loadu_si256(values.as_ptr().cast()), _mm256_loadu_si256(values.as_ptr().add(8).cast())) };
        let tables = tables(_mm256_packus_epi32(_mm256_srli_epi32::<16>(a), _mm256_srli_epi32::<16>(b)));
        let zero = _mm256_setzero_si256();
        let chunks = bytes.as_chunks::<16>().0;
        for (bytes, out) in chunks.iter().zip(out.as_chunks_mut::<16>().0) {
            // SAFETY: the type of `bytes` says sixteen.
            let byte = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
            // The code of the higher half comes first.
            let codes = _mm256_or_si256(_mm256_srli_epi16::<4>(byte), _mm256_slli_epi16::<8>(byte));
            for (i, found) in by_bytes(tables, codes).into_iter().enumerate() {
                let (low, high) = (_mm256_unpacklo_epi16(zero, found), _mm256_unpackhi_epi16(zero, found));
                let out = out.as_mut_ptr().cast::<f32>().wrapping_add(i * 8);
                // SAFETY: the type of `out` says 32 elements, of which these are eight and eight, sixteen behind.
                unsafe {
                    _mm256_storeu_si256(out.cast(), _mm256_permute2x128_si256::<0x20>(low, high));
                    _mm256_storeu_si256(out.add(16).cast(), _mm256_permute2x128_si256::<0x31>(low, high));
                }
            }
        }
        chunks.len() * 16
    }

    /// Eight elements at a time; says how many pairs are done.
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(values: &[f32; 16], bytes: &[u8], out: &mut [[f32; 2]]) -> usize {
        // SAFETY: the type of `values` says sixteen elements: two vectors.
        let (low, high) = unsafe { (_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))) };
        let chunks = bytes.as_chunks::<4>().0;
        for (bytes, out) in chunks.iter().zip(out.as_chunks_mut::<4>().0) {
            // As for AVX-512; bit 3 of the code chooses the half of the table.
            let byte = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(i32::from_le_bytes(*bytes)));
            let code = _mm256_or_si256(_mm256_srli_epi64::<4>(byte), _mm256_slli_epi64::<32>(byte));
            let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(code));
            let found = [low, high].map(|half| _mm256_permutevar8x32_ps(half, code));
            // SAFETY: the type of `out` says eight elements: one vector.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().cast(), _mm256_blendv_ps(found[0], found[1], upper)) }
        }
        chunks.len() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn nested_scales_have_the_same_bits_by_sixteen() {
        if level() < Level::Avx512 {
            return eprintln!("this machine has no AVX-512");
        }
        let map = std::array::from_fn(|i| (i as f32 - 128.0) / 127.3);
        let codes: Vec<u8> = (0..100).map(|i| (i * 37 % 256) as u8).collect();
        for len in [0, 1, 15, 16, 17, 32, 48, 100] {
            let group = Group { absmax: 0.013, offset: 0.37 };
            let [mut want, mut got] = [vec![f32::NAN; len], vec![f32::NAN; len]];
            unnest(&map, group, &codes[..len], &mut want);
            // SAFETY: `level` found AVX-512 F.
            unsafe { x86::unnest(&map, group, &codes[..len], &mut got) };
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&got) == bits(&want) && want.iter().all(|x| x.is_finite()), "{len}: {got:?}, not {want:?}");
        }
    }

    #[test]
    fn looks_up_from_any_element_on() {
        let codes: Vec<u8> = (0..64).map(|i| (i * 37 % 256) as u8).collect();
        let code = |i: usize| if i.is_multiple_of(2) { codes[i / 2] >> 4 } else { codes[i / 2] & 15 };
        // Whole numbers have zeros in their lower halves, sevenths have none.
        for part in [1.0, 7.0] {
            let values: [f32; 16] = std::array::from_fn(|i| (i as f32 - 5.0) / part);
            for first in 0..20 {
                for len in [0, 1, 2, 15, 16, 31, 33, 64, 100] {
                    let mut out = vec![-1.0; len];
                    look_up(&values, &codes, first, &mut out);
                    for (i, got) in out.iter().enumerate() {
                        let want = values[usize::from(code(first + i))];
                        assert_eq!(*got, want, "element {i} of {len} from {first}");
                    }
                }
            }
        }
    }
}
