//! Rows to the order that the micro-kernel reads: a transposition.
#![allow(unsafe_code)]

use super::{Level, level};

/// Rows that are transposed at once.
pub(in crate::cpu) const ROWS: usize = 8;

/// Writes element `k` of row `r` of `rows` to `out[k * width + first + r]`, for `k < depth` and `first + r < width`.
///
/// A row begins every `stride` elements.
pub(in crate::cpu) fn interleave(
    rows: &[f32],
    stride: usize,
    depth: usize,
    first: usize,
    width: usize,
    out: &mut [f32],
) {
    assert!(depth <= stride && out.len() >= depth * width);
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx2 && first + ROWS <= width && rows.len() == ROWS * stride {
        done = depth / 8 * 8;
        for k in (0..done).step_by(8) {
            // SAFETY: eight rows of `stride >= k + 8` elements are read, eight of `width >= first + 8` written: the
            // assertion and the condition above hold. `level` found AVX2, which includes AVX.
            unsafe { x86::transpose(rows.as_ptr().add(k), stride, out.as_mut_ptr().add(k * width + first), width) }
        }
    }
    for (r, row) in rows.chunks_exact(stride).take(width - first).enumerate() {
        for k in done..depth {
            out[k * width + first + r] = row[k];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Transposes 8 x 8 elements.
    ///
    /// # Safety
    /// Eight rows of eight elements can be read, a stride apart, and written, a width apart.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn transpose(x: *const f32, stride: usize, out: *mut f32, width: usize) {
        // SAFETY: `interleave`, the only caller, vouches for eight elements at `i * stride`.
        let row: [__m256; 8] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x.add(i * stride)) });
        // Pairs of rows, then quadruples, then halves.
        let pair = |i: usize| [_mm256_unpacklo_ps(row[i], row[i + 1]), _mm256_unpackhi_ps(row[i], row[i + 1])];
        let quad = |i: usize| {
            let ([a, b], [c, d]) = (pair(i), pair(i + 2));
            [
                _mm256_shuffle_ps::<0x44>(a, c),
                _mm256_shuffle_ps::<0xee>(a, c),
                _mm256_shuffle_ps::<0x44>(b, d),
                _mm256_shuffle_ps::<0xee>(b, d),
            ]
        };
        let (low, high) = (quad(0), quad(4));
        for i in 0..4 {
            // SAFETY: `interleave`, the only caller, vouches for eight elements at `i * width`, for `i` below eight.
            unsafe {
                _mm256_storeu_ps(out.add(i * width), _mm256_permute2f128_ps::<0x20>(low[i], high[i]));
                _mm256_storeu_ps(out.add((i + 4) * width), _mm256_permute2f128_ps::<0x31>(low[i], high[i]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaves() {
        let rows: Vec<f32> = (0..ROWS * 30).map(|i| i as f32).collect();
        for (depth, first, width) in [(30, 0, 8), (29, 8, 16), (30, 8, 12), (7, 0, 6)] {
            let mut out = vec![-1.0; depth * width];
            interleave(&rows, 30, depth, first, width, &mut out);
            for k in 0..depth {
                for r in 0..width {
                    let inside = (first..first + ROWS).contains(&r);
                    let want = if inside { rows[(r - first) * 30 + k] } else { -1.0 };
                    assert_eq!(out[k * width + r], want, "{k} {r}");
                }
            }
        }
    }
}
