//! Sums of products of whole numbers, which are exact: any order gives the same.
#![allow(unsafe_code)]

use super::{Level, level};

/// Rows at a time, so that what is loaded of the vector serves them all.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 4;
/// Bytes ahead of the loads at which memory is asked for: a row is short, and the machine does not look so far.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 8192;

/// `out[j] = sum_i codes[j, i] x[i]`, where all partial sums fit 32 bits; rows of codes are as long as `x`, without gaps.
#[inline]
pub(in crate::cpu) fn dots(codes: &[i8], x: &[i16], out: &mut [i32]) {
    assert_eq!(codes.len(), x.len() * out.len());
    match level() {
        Level::Portable => portable(codes, x, out),
        // SAFETY: `level` found AVX2.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2(codes, x, out) },
        // SAFETY: `level` found AVX-512 F and BW.
        #[cfg(target_arch = "x86_64")]
        _ => unsafe { x86::avx512(codes, x, out) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => portable(codes, x, out),
    }
}

fn portable(codes: &[i8], x: &[i16], out: &mut [i32]) {
    let rows = codes.chunks_exact(x.len().max(1));
    rows.zip(out).for_each(|(row, out)| *out = dot(row, x));
}

fn dot(codes: &[i8], x: &[i16]) -> i32 {
    codes.iter().zip(x).map(|(&code, &x)| i32::from(code) * i32::from(x)).sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{AHEAD, ROWS, dot};
    use std::arch::x86_64::*;

    /// `dots`, by `some` rows at a time, which leave the columns from a multiple of `step` on.
    macro_rules! rows {
        ($name:ident, $some:ident, $features:literal, $step:literal) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(codes: &[i8], x: &[i16], out: &mut [i32]) {
                let (cols, whole) = (x.len(), out.len() / ROWS * ROWS);
                let end = cols / $step * $step;
                for (j, out) in out[..whole].chunks_exact_mut(ROWS).enumerate() {
                    let rows = &codes[j * ROWS * cols..][..ROWS * cols];
                    out.copy_from_slice(&$some::<ROWS>(rows, x, end));
                }
                for (j, out) in out.iter_mut().enumerate().skip(whole) {
                    *out = $some::<1>(&codes[j * cols..][..cols], x, end)[0];
                }
                if end < cols {
                    for (j, out) in out.iter_mut().enumerate() {
                        *out += dot(&codes[j * cols..][end..cols], &x[end..]);
                    }
                }
            }
        };
    }
    rows!(avx512, some512, "avx512f,avx512bw", 32);
    rows!(avx2, some256, "avx2", 16);

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn some512<const R: usize>(codes: &[i8], x: &[i16], end: usize) -> [i32; R] {
        assert!(codes.len() == R * x.len() && end <= x.len() && end.is_multiple_of(32));
        let mut sums = [_mm512_setzero_si512(); R];
        for at in (0..end).step_by(32) {
            // SAFETY: the assertion found `R` rows of `x.len()` elements, and 32 of each from `at` on are before `end`. What is
            // prefetched may lie anywhere.
            unsafe {
                let vector = _mm512_loadu_si512(x.as_ptr().add(at).cast());
                for (j, sum) in sums.iter_mut().enumerate() {
                    let row = codes.as_ptr().add(j * x.len() + at);
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(AHEAD));
                    let row = _mm512_cvtepi8_epi16(_mm256_loadu_si256(row.cast()));
                    *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(row, vector));
                }
            }
        }
        sums.map(|sum| _mm512_reduce_add_epi32(sum))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn some256<const R: usize>(codes: &[i8], x: &[i16], end: usize) -> [i32; R] {
        assert!(codes.len() == R * x.len() && end <= x.len() && end.is_multiple_of(16));
        let mut sums = [_mm256_setzero_si256(); R];
        for at in (0..end).step_by(16) {
            // SAFETY: the assertion found `R` rows of `x.len()` elements, and 16 of each from `at` on are before `end`. What is
            // prefetched may lie anywhere.
            unsafe {
                let vector = _mm256_loadu_si256(x.as_ptr().add(at).cast());
                for (j, sum) in sums.iter_mut().enumerate() {
                    let row = codes.as_ptr().add(j * x.len() + at);
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(AHEAD));
                    let row = _mm256_cvtepi8_epi16(_mm_loadu_si128(row.cast()));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(row, vector));
                }
            }
        }
        sums.map(|sum| {
            let mut lanes = [0; 8];
            // SAFETY: the type of the array says eight numbers of 32 bits: one vector.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
            lanes.iter().sum()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Dots<'a> = &'a dyn Fn(&[i8], &[i16], &mut [i32]);

    #[test]
    fn every_way_gives_the_same() {
        for (rows, cols) in [(0, 5), (1, 1), (3, 31), (4, 32), (5, 63), (8, 64), (9, 1100)] {
            let codes: Vec<i8> = (0..rows * cols).map(|i| ((i * 37 % 255) as u8).cast_signed()).collect();
            let x: Vec<i16> = (0..cols).map(|i| (i * 7919 % 32_001) as i16 - 16_000).collect();
            let mut want = vec![0; rows];
            portable(&codes, &x, &mut want);
            let lesser = |codes: &[i8], x: &[i16], out: &mut [i32]| match level() {
                // SAFETY: `level` found AVX2 at least.
                #[cfg(target_arch = "x86_64")]
                level if level >= Level::Avx2 => unsafe { x86::avx2(codes, x, out) },
                _ => dots(codes, x, out),
            };
            let ways: [Dots; 2] = [&dots, &lesser];
            for way in ways {
                let mut got = vec![0; rows];
                way(&codes, &x, &mut got);
                assert_eq!(got, want, "{rows} x {cols}");
            }
        }
    }
}
