//! Table look-up of 4-bit codes.
#![allow(unsafe_code)]

use super::{Level, level};

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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

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

    #[test]
    fn looks_up_from_any_element_on() {
        let values = std::array::from_fn(|i| i as f32);
        let codes: Vec<u8> = (0..64).map(|i| (i * 37 % 256) as u8).collect();
        let code = |i: usize| if i.is_multiple_of(2) { codes[i / 2] >> 4 } else { codes[i / 2] & 15 };
        for first in 0..20 {
            for len in [0, 1, 2, 15, 16, 31, 33, 64, 100] {
                let mut out = vec![-1.0; len];
                look_up(&values, &codes, first, &mut out);
                for (i, got) in out.iter().enumerate() {
                    assert_eq!(*got, f32::from(code(first + i)), "element {i} of {len} from {first}");
                }
            }
        }
    }
}
