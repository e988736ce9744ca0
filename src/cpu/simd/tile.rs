//! The innermost loop of every matrix product: a tile of the result in registers.
#![allow(unsafe_code)]

use super::{Level, level};
use std::sync::LazyLock;

/// A micro-kernel: `c += aᵀ b` for `a` of `[k, rows]`, `b` of `[k, cols]` and `c` of `[rows, cols]`, all without gaps.
pub(in crate::cpu) struct Tile {
    /// Rows of the tile.
    pub(in crate::cpu) rows: usize,
    /// Columns of the tile.
    pub(in crate::cpu) cols: usize,
    run: unsafe fn(usize, *const f32, *const f32, *mut f32),
}

static TILE: LazyLock<Tile> = LazyLock::new(|| match level() {
    #[cfg(target_arch = "x86_64")]
    Level::Avx512 | Level::Avx512Bf16 => Tile { rows: 8, cols: 32, run: x86::avx512 },
    #[cfg(target_arch = "x86_64")]
    Level::Avx2 => Tile { rows: 6, cols: 16, run: x86::avx2 },
    _ => Tile { rows: 4, cols: 8, run: portable::<4, 8> },
});

/// The micro-kernel of this machine.
#[inline]
pub(in crate::cpu) fn tile() -> &'static Tile {
    &TILE
}

impl Tile {
    /// Elements of the result.
    pub(in crate::cpu) fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Adds the product to `c`. Sums run over `k` in order, then are added once to `c`.
    #[inline]
    pub(in crate::cpu) fn run(&self, k: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
        assert!(a.len() >= k * self.rows && b.len() >= k * self.cols && c.len() >= self.len());
        // SAFETY: the lengths were just checked; whoever made the tile asked `level` for its instructions.
        unsafe { (self.run)(k, a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) }
    }
}

/// One multiplication and addition, fused where every machine of the architecture can.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

/// # Safety
/// `a` has `k * R` elements, `b` `k * C`, `c` `R * C`.
unsafe fn portable<const R: usize, const C: usize>(k: usize, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: `Tile::run`, the only caller, has checked the lengths.
    let (a, b, c) = unsafe {
        (
            std::slice::from_raw_parts(a.cast::<[f32; R]>(), k),
            std::slice::from_raw_parts(b.cast::<[f32; C]>(), k),
            std::slice::from_raw_parts_mut(c.cast::<[f32; C]>(), R),
        )
    };
    let mut acc = [[0.0; C]; R];
    for (a, b) in a.iter().zip(b) {
        for (acc, a) in acc.iter_mut().zip(a) {
            for j in 0..C {
                acc[j] = multiply_add(*a, b[j], acc[j]);
            }
        }
    }
    for (c, acc) in c.iter_mut().zip(acc) {
        c.iter_mut().zip(acc).for_each(|(c, acc)| *c += acc);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Eight rows of two vectors.
    ///
    /// # Safety
    /// `a` has `k * 8` elements, `b` `k * 32`, `c` `8 * 32`; the machine has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(k: usize, a: *const f32, b: *const f32, c: *mut f32) {
        let mut acc = [[_mm512_setzero_ps(); 2]; 8];
        for k in 0..k {
            // SAFETY: `Tile::run`, the only caller, has checked the lengths.
            unsafe {
                let (a, b) = (a.add(k * 8), b.add(k * 32));
                let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(i));
                    acc[0] = _mm512_fmadd_ps(x, b0, acc[0]);
                    acc[1] = _mm512_fmadd_ps(x, b1, acc[1]);
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                // SAFETY: `Tile::run`, the only caller, has checked the lengths.
                unsafe {
                    let c = c.add(i * 32 + j * 16);
                    _mm512_storeu_ps(c, _mm512_add_ps(_mm512_loadu_ps(c), *acc));
                }
            }
        }
    }

    /// Six rows of two vectors.
    ///
    /// # Safety
    /// `a` has `k * 6` elements, `b` `k * 16`, `c` `6 * 16`; the machine has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(k: usize, a: *const f32, b: *const f32, c: *mut f32) {
        let mut acc = [[_mm256_setzero_ps(); 2]; 6];
        for k in 0..k {
            // SAFETY: `Tile::run`, the only caller, has checked the lengths.
            unsafe {
                let (a, b) = (a.add(k * 6), b.add(k * 16));
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(i));
                    acc[0] = _mm256_fmadd_ps(x, b0, acc[0]);
                    acc[1] = _mm256_fmadd_ps(x, b1, acc[1]);
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                // SAFETY: `Tile::run`, the only caller, has checked the lengths.
                unsafe {
                    let c = c.add(i * 16 + j * 8);
                    _mm256_storeu_ps(c, _mm256_add_ps(_mm256_loadu_ps(c), *acc));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tile: &Tile) {
        let (k, value) = (37, |i: usize| ((i * 7) % 13) as f32 - 6.0);
        let a: Vec<f32> = (0..k * tile.rows).map(value).collect();
        let b: Vec<f32> = (0..k * tile.cols).map(|i| value(i + 5)).collect();
        let mut c = vec![1.0; tile.len()];
        tile.run(k, &a, &b, &mut c);
        for (i, got) in c.iter().enumerate() {
            let (row, col) = (i / tile.cols, i % tile.cols);
            // Small integers: exact.
            let want: f32 = (0..k).map(|k| a[k * tile.rows + row] * b[k * tile.cols + col]).sum();
            assert_eq!(*got, want + 1.0, "({row}, {col})");
        }
    }

    #[test]
    fn tiles_multiply() {
        check(tile());
        check(&Tile { rows: 4, cols: 8, run: portable::<4, 8> });
        #[cfg(target_arch = "x86_64")]
        if level() >= Level::Avx2 {
            check(&Tile { rows: 6, cols: 16, run: x86::avx2 });
        }
    }
}
