//! Reductions of rows, in orders that depend only on the length and on the machine's vectors.
#![allow(unsafe_code)]

use super::{Level, level};

/// Partial results of the portable reductions.
const LANES: usize = 8;

/// `sum_i x[i] y[i]`.
#[inline]
pub(in crate::cpu) fn dot(x: &[f32], y: &[f32]) -> f32 {
    match level() {
        // SAFETY: `level` found AVX-512 F and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { x86::avx512::dot(x, y) },
        // SAFETY: `level` found AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2::dot(x, y) },
        _ => fold(x.iter().zip(y).map(|(x, y)| x * y), 0.0, |a, b| a + b),
    }
}

/// `out[j] = x · rows[j]`, for rows as long as `x` and without gaps.
#[inline]
pub(in crate::cpu) fn dots(x: &[f32], rows: &[f32], out: &mut [f32]) {
    debug_assert_eq!(rows.len(), x.len() * out.len());
    match level() {
        // SAFETY: `level` found AVX-512 F and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { x86::avx512::dots(x, rows, out) },
        // SAFETY: `level` found AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2::dots(x, rows, out) },
        _ => rows.chunks_exact(x.len()).zip(out).for_each(|(row, out)| *out = dot(x, row)),
    }
}

/// `out += sum_j factors[j] rows[j]`, for rows as long as `out` and without gaps; in the order of the rows.
#[inline]
pub(in crate::cpu) fn add_rows(factors: &[f32], rows: &[f32], out: &mut [f32]) {
    debug_assert_eq!(rows.len(), factors.len() * out.len());
    match level() {
        // SAFETY: `level` found AVX-512 F and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { x86::avx512::add_rows(factors, rows, out) },
        // SAFETY: `level` found AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2::add_rows(factors, rows, out) },
        _ => {
            for (factor, row) in factors.iter().zip(rows.chunks_exact(out.len())) {
                out.iter_mut().zip(row).for_each(|(out, x)| *out += factor * x);
            }
        }
    }
}

/// `sum_i x[i]`.
#[inline]
pub(in crate::cpu) fn sum(x: &[f32]) -> f32 {
    match level() {
        // SAFETY: `level` found AVX-512 F and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { x86::avx512::sum(x) },
        // SAFETY: `level` found AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2::sum(x) },
        _ => fold(x.iter().copied(), 0.0, |a, b| a + b),
    }
}

/// The largest element, or `-inf` when there is none. NaNs are passed over: sums of exponentials find them.
#[inline]
pub(in crate::cpu) fn max(x: &[f32]) -> f32 {
    match level() {
        // SAFETY: `level` found AVX-512 F and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { x86::avx512::max(x) },
        // SAFETY: `level` found AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2::max(x) },
        _ => fold(x.iter().copied(), f32::NEG_INFINITY, f32::max),
    }
}

/// Reduces in `LANES` interleaved parts, then these in order.
fn fold(x: impl Iterator<Item = f32>, start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    for (i, x) in x.enumerate() {
        lanes[i % LANES] = f(lanes[i % LANES], x);
    }
    lanes.into_iter().fold(start, f)
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    /// The sum of the elements, in the order of `_mm512_reduce_add_ps`: halves, then quarters, then pairs.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(in crate::cpu::simd) fn reduce_add(x: __m256) -> f32 {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
    }

    /// The reductions for one width of vectors: four accumulators over whole steps, then one over whole vectors, then
    /// the tail.
    macro_rules! reductions {
        ($name:ident, $features:literal, $lanes:literal, $set:ident, $load:ident, $store:ident, $add:ident, $max:ident, $fma:ident, $vector:ident, $lane_sum:path) => {
            pub(super) mod $name {
                use std::arch::x86_64::*;

                #[target_feature(enable = $features)]
                pub(in super::super) fn dot(x: &[f32], y: &[f32]) -> f32 {
                    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<{ 4 * $lanes }>(), y.as_chunks::<{ 4 * $lanes }>());
                    let mut acc = [$set(0.0); 4];
                    for (x, y) in x.iter().zip(y) {
                        for (i, acc) in acc.iter_mut().enumerate() {
                            // SAFETY: `as_chunks` made the arrays four vectors long.
                            unsafe {
                                let (x, y) = ($load(x.as_ptr().add(i * $lanes)), $load(y.as_ptr().add(i * $lanes)));
                                *acc = $fma(x, y, *acc);
                            }
                        }
                    }
                    let ((x, x_tail), (y, y_tail)) = (x_rest.as_chunks::<$lanes>(), y_rest.as_chunks::<$lanes>());
                    for (x, y) in x.iter().zip(y) {
                        // SAFETY: `as_chunks` made the arrays one vector long.
                        acc[0] = unsafe { $fma($load(x.as_ptr()), $load(y.as_ptr()), acc[0]) };
                    }
                    let tail = x_tail.iter().zip(y_tail).fold(0.0, |sum: f32, (x, y)| x.mul_add(*y, sum));
                    tail + $lane_sum($add($add(acc[0], acc[1]), $add(acc[2], acc[3])))
                }

                #[target_feature(enable = $features)]
                pub(in super::super) fn dots(x: &[f32], rows: &[f32], out: &mut [f32]) {
                    for (row, out) in rows.chunks_exact(x.len()).zip(out) {
                        *out = dot(x, row);
                    }
                }

                #[target_feature(enable = $features)]
                pub(in super::super) fn add_rows(factors: &[f32], rows: &[f32], out: &mut [f32]) {
                    let cols = out.len();
                    let wide = cols / (4 * $lanes) * (4 * $lanes);
                    let vectors = cols / $lanes * $lanes;
                    (0..wide).step_by(4 * $lanes).for_each(|at| strip::<4>(factors, &rows[at..], cols, &mut out[at..]));
                    (wide..vectors)
                        .step_by($lanes)
                        .for_each(|at| strip::<1>(factors, &rows[at..], cols, &mut out[at..]));
                    for (factor, row) in factors.iter().zip(rows.chunks_exact(cols)) {
                        for (out, x) in out[vectors..].iter_mut().zip(&row[vectors..]) {
                            *out = factor.mul_add(*x, *out);
                        }
                    }
                }

                /// The first vectors of all rows, which begin `cols` elements apart.
                #[target_feature(enable = $features)]
                #[inline]
                fn strip<const N: usize>(factors: &[f32], rows: &[f32], cols: usize, out: &mut [f32]) {
                    assert!(out.len() >= N * $lanes && rows.len() + cols >= factors.len() * cols + N * $lanes);
                    // SAFETY: that many elements are there, by the assertion.
                    let mut acc: [_; N] = std::array::from_fn(|i| unsafe { $load(out.as_ptr().add(i * $lanes)) });
                    for (j, factor) in factors.iter().enumerate() {
                        for (i, acc) in acc.iter_mut().enumerate() {
                            // SAFETY: row `j` of `factors.len()` has that many elements, by the assertion.
                            let x = unsafe { $load(rows.as_ptr().add(j * cols + i * $lanes)) };
                            *acc = $fma($set(*factor), x, *acc);
                        }
                    }
                    for (i, acc) in acc.into_iter().enumerate() {
                        // SAFETY: that many elements are there, by the assertion.
                        unsafe { $store(out.as_mut_ptr().add(i * $lanes), acc) };
                    }
                }

                #[target_feature(enable = $features)]
                pub(in super::super) fn sum(x: &[f32]) -> f32 {
                    reduce(
                        x,
                        0.0,
                        #[inline(always)]
                        |a, b| $add(a, b),
                        |a, b| a + b,
                    )
                }

                #[target_feature(enable = $features)]
                pub(in super::super) fn max(x: &[f32]) -> f32 {
                    // The instruction returns its second operand where there is a NaN.
                    reduce(
                        x,
                        f32::NEG_INFINITY,
                        #[inline(always)]
                        |a, b| $max(b, a),
                        f32::max,
                    )
                }

                #[target_feature(enable = $features)]
                #[inline]
                fn reduce<V>(x: &[f32], start: f32, vector: V, scalar: fn(f32, f32) -> f32) -> f32
                where
                    V: Fn($vector, $vector) -> $vector,
                {
                    let (x, rest) = x.as_chunks::<{ 4 * $lanes }>();
                    let mut acc = [$set(start); 4];
                    for x in x {
                        for (i, acc) in acc.iter_mut().enumerate() {
                            // SAFETY: `as_chunks` made the array four vectors long.
                            *acc = vector(*acc, unsafe { $load(x.as_ptr().add(i * $lanes)) });
                        }
                    }
                    let (x, tail) = rest.as_chunks::<$lanes>();
                    for x in x {
                        // SAFETY: `as_chunks` made the array one vector long.
                        acc[0] = vector(acc[0], unsafe { $load(x.as_ptr()) });
                    }
                    let mut lanes = [0.0; $lanes];
                    let acc = vector(vector(acc[0], acc[1]), vector(acc[2], acc[3]));
                    // SAFETY: the type of `lanes` says one vector.
                    unsafe { $store(lanes.as_mut_ptr(), acc) };
                    lanes.iter().chain(tail).fold(start, |a, b| scalar(a, *b))
                }
            }
        };
    }

    reductions!(
        avx512,
        "avx512f,fma",
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_max_ps,
        _mm512_fmadd_ps,
        __m512,
        _mm512_reduce_add_ps
    );
    reductions!(
        avx2,
        "avx2,fma",
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_max_ps,
        _mm256_fmadd_ps,
        __m256,
        super::reduce_add
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_of_every_length() {
        for n in 0..200 {
            // Small integers: exact in any order.
            let x: Vec<f32> = (0..n).map(|i| ((i * 7) % 23) as f32 - 11.0).collect();
            let y: Vec<f32> = (0..n).map(|i| ((i * 5) % 19) as f32 - 9.0).collect();
            assert_eq!(sum(&x), x.iter().sum::<f32>());
            assert_eq!(dot(&x, &y), x.iter().zip(&y).map(|(x, y)| x * y).sum::<f32>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn rows_of_every_length() {
        for cols in 1..150 {
            // Small integers: exact in any order.
            let rows: Vec<f32> = (0..3 * cols).map(|i| ((i * 7) % 23) as f32 - 11.0).collect();
            let x: Vec<f32> = (0..cols).map(|i| ((i * 5) % 19) as f32 - 9.0).collect();
            let (mut got, mut sums) = ([f32::NAN; 3], x.clone());
            dots(&x, &rows, &mut got);
            add_rows(&[1.0, -2.0, 3.0], &rows, &mut sums);
            for (row, got) in rows.chunks(cols).zip(got) {
                assert_eq!(got, x.iter().zip(row).map(|(x, y)| x * y).sum::<f32>());
            }
            for (i, got) in sums.into_iter().enumerate() {
                assert_eq!(got, x[i] + rows[i] - 2.0 * rows[cols + i] + 3.0 * rows[2 * cols + i]);
            }
        }
    }

    #[test]
    fn nan_reaches_sums_and_not_maxima() {
        for n in [1, 20, 64, 100] {
            for at in 0..n {
                let mut x = vec![1.0; n];
                x[at] = f32::NAN;
                assert!(sum(&x).is_nan() && dot(&x, &x).is_nan());
                assert_eq!(max(&x), if n == 1 { f32::NEG_INFINITY } else { 1.0 });
            }
        }
    }
}
