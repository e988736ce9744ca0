//! Codes of 8 bits in two planes: the upper six bits, which say most of a sum of products, and the lower two.
//!
//! Of a code and 128, in runs of 256: four bits of the first and of the second 64 codes share 64 bytes, those of the third and
//! the last the next 64, and the two bits above these share 64 more. The lower plane has 64 bytes for a run.
#![allow(unsafe_code)]

use super::{Level, level};

/// Codes of a run.
pub(in crate::cpu) const RUN: usize = 256;
/// Bytes of a run in the upper plane.
const UPPER: usize = 192;
/// What a code is taken for by its upper bits alone is `4 upper - MIDDLE`, and a half more: so it is within 1.5 of the code.
const MIDDLE: i32 = 127;
/// How far a code may be from that, for [`dots`].
pub(in crate::cpu) const MISSED: f32 = 1.5;

/// The largest magnitude that [`Halves`] have.
pub(in crate::cpu) const LARGEST: f32 = (127 * 256 + 127) as f32;

/// Whether sums of the upper plane are worth it here, for rows of so many codes.
pub(in crate::cpu) fn suit(cols: usize) -> bool {
    (level() == Level::Avx2 || level() >= Level::Avx512Vnni) && cols > 0 && cols.is_multiple_of(RUN)
}

/// A code's place in its run: which 64, and which of these.
fn places() -> impl Iterator<Item = (usize, usize)> {
    (0..4).flat_map(|part| (0..64).map(move |i| (part, i)))
}

/// Puts a row of codes into its planes, of three quarters and a quarter of its bytes.
pub(in crate::cpu) fn split(codes: &[i8], upper: &mut [i8], lower: &mut [i8]) {
    upper.fill(0);
    lower.fill(0);
    let planes = upper.as_chunks_mut::<UPPER>().0.iter_mut().zip(lower.as_chunks_mut::<64>().0);
    for (codes, (upper, lower)) in codes.as_chunks::<RUN>().0.iter().zip(planes) {
        for ((part, i), code) in places().zip(codes) {
            let code = code.cast_unsigned() ^ 0x80;
            let six = code >> 2;
            upper[part / 2 * 64 + i] |= ((six & 15) << (part % 2 * 4)).cast_signed();
            upper[128 + i] |= (six >> 4 << (part * 2)).cast_signed();
            lower[i] |= ((code & 3) << (part * 2)).cast_signed();
        }
    }
}

/// The upper six bits of code `i` of a part.
fn six(upper: &[i8; UPPER], part: usize, i: usize) -> u8 {
    let four = upper[part / 2 * 64 + i].cast_unsigned() >> (part % 2 * 4) & 15;
    four | (upper[128 + i].cast_unsigned() >> (part * 2) & 3) << 4
}

/// A row of codes from its planes.
pub(in crate::cpu) fn join(upper: &[i8], lower: &[i8], codes: &mut [i8]) {
    let planes = upper.as_chunks::<UPPER>().0.iter().zip(lower.as_chunks::<64>().0);
    for (codes, (upper, lower)) in codes.as_chunks_mut::<RUN>().0.iter_mut().zip(planes) {
        for ((part, i), code) in places().zip(codes) {
            let two = lower[i].cast_unsigned() >> (part * 2) & 3;
            *code = ((six(upper, part, i) << 2 | two) ^ 0x80).cast_signed();
        }
    }
}

/// A vector of whole numbers of 16 bits, `256 upper + lower`.
pub(in crate::cpu) struct Halves {
    upper: Vec<i8>,
    lower: Vec<i8>,
    /// Of all numbers.
    pub(in crate::cpu) sum: i32,
}

impl Halves {
    /// Magnitudes must be [`LARGEST`] at most.
    pub(in crate::cpu) fn new(x: &[i16]) -> Self {
        let lower: Vec<i8> = x.iter().map(|x| *x as i8).collect();
        let upper = x.iter().zip(&lower).map(|(x, lower)| ((i32::from(*x) - i32::from(*lower)) >> 8) as i8).collect();
        Halves { upper, lower, sum: x.iter().map(|x| i32::from(*x)).sum() }
    }
}

/// `out[j] = sum_i (4 upper[j, i] - 127) x[i]` of rows of the upper plane, without gaps, where sums of codes with `x` fit 32 bits.
pub(in crate::cpu) fn dots(upper: &[i8], x: &Halves, out: &mut [i32]) {
    assert_eq!(upper.len() * 4, x.upper.len() * 3 * out.len());
    match level() {
        // SAFETY: `level` found AVX2.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2(upper, x, out) },
        // SAFETY: `level` found AVX-512 F, BW and VNNI.
        #[cfg(target_arch = "x86_64")]
        level if level >= Level::Avx512Vnni => unsafe { x86::avx512vnni(upper, x, out) },
        _ => portable(upper, x, out),
    }
}

fn portable(upper: &[i8], x: &Halves, out: &mut [i32]) {
    for (out, row) in out.iter_mut().zip(upper.chunks_exact(x.upper.len() / 4 * 3)) {
        let codes = row.as_chunks::<UPPER>().0.iter().flat_map(|run| places().map(|(part, i)| six(run, part, i)));
        let numbers = x.upper.iter().zip(&x.lower).map(|(upper, lower)| i32::from(*upper) * 256 + i32::from(*lower));
        *out = whole(codes.zip(numbers).map(|(code, x)| i32::from(code) * x).sum(), x);
    }
}

/// What comes of the sum of products of six bits. The sum in between may be beyond 32 bits, this is not.
fn whole(sum: i32, x: &Halves) -> i32 {
    sum.wrapping_mul(4).wrapping_sub(x.sum.wrapping_mul(MIDDLE))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Halves, RUN, UPPER, whole};
    use std::arch::x86_64::*;

    /// Rows at a time, so that what is loaded of the vector serves them all.
    const ROWS: usize = 4;
    /// Bytes ahead of the loads at which memory is asked for.
    const AHEAD: usize = 8192;

    /// `dots`, by `some` rows at a time.
    macro_rules! dots {
        ($name:ident, $some:ident, $features:literal) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(upper: &[i8], x: &Halves, out: &mut [i32]) {
                let len = x.upper.len() / 4 * 3;
                let whole_rows = out.len() / ROWS * ROWS;
                for (j, out) in out[..whole_rows].chunks_exact_mut(ROWS).enumerate() {
                    out.copy_from_slice(&$some::<ROWS>(&upper[j * ROWS * len..], x));
                }
                for (j, out) in out.iter_mut().enumerate().skip(whole_rows) {
                    *out = $some::<1>(&upper[j * len..], x)[0];
                }
            }
        };
    }
    dots!(avx512vnni, some512, "avx512f,avx512bw,avx512vnni");
    dots!(avx2, some256, "avx2");

    /// The four times 64 codes of a run.
    ///
    /// # Safety
    /// There are 192 bytes.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn codes(run: *const i8) -> [__m512i; 4] {
        // SAFETY: the caller vouches for three vectors.
        let [a, b, two] = [0, 64, 128].map(|at| unsafe { _mm512_loadu_si512(run.add(at).cast()) });
        let (four, above) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        // Bits of a neighbour that a shift brings are masked.
        let parts = [
            (a, _mm512_slli_epi16::<4>(two)),
            (_mm512_srli_epi16::<4>(a), _mm512_slli_epi16::<2>(two)),
            (b, two),
            (_mm512_srli_epi16::<4>(b), _mm512_srli_epi16::<2>(two)),
        ];
        // Where the bit of `four` is set the first, else the second.
        parts.map(|(low, high)| _mm512_ternarylogic_epi32::<0xca>(four, low, _mm512_and_si512(high, above)))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn some512<const R: usize>(upper: &[i8], x: &Halves) -> [i32; R] {
        let cols = x.upper.len();
        assert!(cols.is_multiple_of(RUN) && x.lower.len() == cols && upper.len() >= R * (cols / RUN) * UPPER);
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
        for run in 0..cols / RUN {
            // SAFETY: the assertion found `R` rows of so many runs, and as many numbers. What is prefetched may lie anywhere.
            unsafe {
                for (j, sums) in sums.iter_mut().enumerate() {
                    let row = upper.as_ptr().add((j * (cols / RUN) + run) * UPPER);
                    [0, 64, 128].iter().for_each(|at| _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(AHEAD + at)));
                    for (part, codes) in codes(row).into_iter().enumerate() {
                        let at = run * RUN + part * 64;
                        let halves = [&x.upper, &x.lower].map(|half| _mm512_loadu_si512(half.as_ptr().add(at).cast()));
                        for (sum, half) in sums.iter_mut().zip(halves) {
                            *sum = _mm512_dpbusd_epi32(*sum, codes, half);
                        }
                    }
                }
            }
        }
        sums.map(|[upper, lower]| {
            let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower);
            whole(_mm512_reduce_add_epi32(sum), x)
        })
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn some256<const R: usize>(upper: &[i8], x: &Halves) -> [i32; R] {
        let cols = x.upper.len();
        assert!(cols.is_multiple_of(RUN) && x.lower.len() == cols && upper.len() >= R * (cols / RUN) * UPPER);
        let mut sums = [_mm256_setzero_si256(); R];
        for run in 0..cols / RUN {
            for (j, sum) in sums.iter_mut().enumerate() {
                for half in [0, 32] {
                    // SAFETY: the assertion found `R` rows of so many runs, and as many numbers. What is prefetched may lie
                    // anywhere.
                    unsafe {
                        let row = upper.as_ptr().add((j * (cols / RUN) + run) * UPPER + half);
                        [0, 64, 128].iter().for_each(|at| _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(AHEAD + at)));
                        let codes = half_codes(row);
                        let at = run * RUN + half;
                        let of_upper = products(codes, x.upper.as_ptr().add(at), 256);
                        let of_lower = products(codes, x.lower.as_ptr().add(at), 1);
                        *sum = _mm256_add_epi32(*sum, _mm256_add_epi32(of_upper, of_lower));
                    }
                }
            }
        }
        sums.map(|sum| {
            let mut lanes = [0; 8];
            // SAFETY: the type of the array says eight numbers of 32 bits: one vector.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
            whole(lanes.iter().fold(0, |sum: i32, lane| sum.wrapping_add(*lane)), x)
        })
    }

    /// Of each 64 codes of a run 32.
    ///
    /// # Safety
    /// There are 32 bytes, and so from the 64th and the 128th on.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn half_codes(run: *const i8) -> [__m256i; 4] {
        // SAFETY: the caller vouches for three vectors.
        let (a, b, two) = unsafe {
            let at = |at: usize| _mm256_loadu_si256(run.add(at).cast());
            (at(0), at(64), at(128))
        };
        // Bits of a neighbour that a shift brings are masked.
        [
            six(a, _mm256_slli_epi16::<4>(two)),
            six(_mm256_srli_epi16::<4>(a), _mm256_slli_epi16::<2>(two)),
            six(b, two),
            six(_mm256_srli_epi16::<4>(b), _mm256_srli_epi16::<2>(two)),
        ]
    }

    /// The lower four bits of the first, the two above of the second.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn six(low: __m256i, high: __m256i) -> __m256i {
        let (four, above) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
        _mm256_or_si256(_mm256_and_si256(low, four), _mm256_and_si256(high, above))
    }

    /// Sums of products of codes of six bits with bytes, sixteen in each lane, times `factor`. Four such products are below 2^15.
    ///
    /// # Safety
    /// There are four times 32 bytes, 64 apart.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn products(codes: [__m256i; 4], x: *const i8, factor: i16) -> __m256i {
        // SAFETY: the caller vouches for four vectors.
        let (a, b, c, d) = unsafe {
            let of = |i: usize| _mm256_maddubs_epi16(codes[i], _mm256_loadu_si256(x.add(64 * i).cast()));
            (of(0), of(1), of(2), of(3))
        };
        let factor = _mm256_set1_epi16(factor);
        let (ab, cd) = (_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
        _mm256_add_epi32(_mm256_madd_epi16(ab, factor), _mm256_madd_epi16(cd, factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Dots<'a> = &'a dyn Fn(&[i8], &Halves, &mut [i32]);

    fn codes(rows: usize, cols: usize) -> Vec<i8> {
        (0..rows * cols).map(|i| ((i * 7919 % 255) as i32 - 127) as i8).collect()
    }

    #[test]
    fn planes_are_the_codes_again() {
        let codes = codes(1, 3 * RUN);
        let (mut upper, mut lower, mut again) = (vec![1; 3 * UPPER], vec![1; 3 * 64], vec![0; codes.len()]);
        split(&codes, &mut upper, &mut lower);
        join(&upper, &lower, &mut again);
        assert_eq!(again, codes);
    }

    #[test]
    fn sums_are_those_of_the_upper_bits() {
        for (rows, cols) in [(1, RUN), (4, RUN), (7, 4 * RUN), (9, 20 * RUN)] {
            let codes = codes(rows, cols);
            let most = (i32::MAX as usize / (127 * cols)).min(LARGEST as usize) as i32;
            let x: Vec<i16> = (0..cols).map(|i| ((i as i32 * 7919) % (2 * most + 1) - most) as i16).collect();
            let mut upper = vec![0; rows * cols / 4 * 3];
            for (codes, upper) in codes.chunks(cols).zip(upper.chunks_mut(cols / 4 * 3)) {
                split(codes, upper, &mut vec![0; cols / 4]);
            }
            let taken = |code: i8| ((i32::from(code) + 128) >> 2) * 4 - MIDDLE;
            let dot =
                |row: &[i8]| -> i64 { row.iter().zip(&x).map(|(c, x)| i64::from(taken(*c)) * i64::from(*x)).sum() };
            let want: Vec<i64> = codes.chunks(cols).map(dot).collect();
            let ways: [Dots; 2] = [&dots, &portable];
            for way in ways {
                let mut got = vec![0; rows];
                way(&upper, &Halves::new(&x), &mut got);
                assert_eq!(got.into_iter().map(i64::from).collect::<Vec<_>>(), want, "{rows} x {cols}");
            }
            for code in i8::MIN + 1..=i8::MAX {
                assert!((taken(code) as f32 + 0.5 - f32::from(code)).abs() <= MISSED, "{code}");
            }
        }
    }

    /// All codes and both halves of all numbers as large as they may be: no sum on the way overflows.
    #[test]
    fn the_largest_sums_fit() {
        for [code, x] in
            [[127, 127 * 256 - 128], [127, -126 * 256 - 128], [127, 127 * 256 + 127], [-127, -126 * 256 - 128]]
        {
            let (mut upper, x) = (vec![0; UPPER], Halves::new(&[x as i16; RUN]));
            split(&[code as i8; RUN], &mut upper, &mut [0; 64]);
            let [mut got, mut want] = [[0], [0]];
            dots(&upper, &x, &mut got);
            portable(&upper, &x, &mut want);
            assert_eq!(got, want);
        }
    }
}
