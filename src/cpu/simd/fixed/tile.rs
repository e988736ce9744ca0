//! Tiles of products in fixed point.

use super::WORDS;
use std::arch::x86_64::*;

/// A tile of so many rows of two vectors in fixed point; `$dot(sums, a, b)` adds products of two integers in each lane.
macro_rules! fixed_tile {
    (
        $name:ident, $features:literal, $rows:literal, $lanes:literal, $zero:ident, $load:ident, $load_ps:ident,
        $store:ident, $set:ident, $set_ps:ident, $mul:ident, $fma:ident, $float:ident, $dot:path
    ) => {
        /// Two vectors of each row in fixed point, `k` places of whole blocks.
        ///
        /// # Safety
        /// `a` has the elements that the steps lead to, `b` has `k` times two vectors, `c` two vectors of each row; the
        /// machine has the features.
        #[target_feature(enable = $features)]
        pub(in crate::cpu::simd) unsafe fn $name(
            k: usize,
            a: *const f32,
            [row, step]: [usize; 2],
            b: *const f32,
            c: *mut f32,
        ) {
            const WIDTH: usize = 2 * $lanes;
            for block in 0..k / WORDS {
                let mut acc = [[$zero(); 2]; $rows];
                // SAFETY: `Tile::run`, the only caller, has checked the lengths.
                let (a, b) = unsafe { (a.add(block * WORDS * step), b.add(block * WORDS * WIDTH)) };
                for k in 1..WORDS {
                    // SAFETY: `Tile::run`, the only caller, has checked the lengths. Bits are bits.
                    unsafe {
                        let (a, b) = (a.add(k * step), b.add(k * WIDTH));
                        let (b0, b1) = ($load(b.cast()), $load(b.add($lanes).cast()));
                        for (i, acc) in acc.iter_mut().enumerate() {
                            let x = $set(a.add(i * row).cast::<i32>().read());
                            acc[0] = $dot(acc[0], x, b0);
                            acc[1] = $dot(acc[1], x, b1);
                        }
                    }
                }
                for (i, acc) in acc.iter().enumerate() {
                    for (j, acc) in acc.iter().enumerate() {
                        // SAFETY: `Tile::run`, the only caller, has checked the lengths. The first place of a block is its
                        // scale.
                        unsafe {
                            let scale = $mul($set_ps(*a.add(i * row)), $load_ps(b.add(j * $lanes)));
                            let c = c.add(i * WIDTH + j * $lanes);
                            $store(c, $fma($float(*acc), scale, $load_ps(c)));
                        }
                    }
                }
            }
        }
    };
}

fixed_tile!(
    avx512vnni,
    "avx512f,avx512vnni",
    8,
    16,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_epi32,
    _mm512_set1_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    _mm512_cvtepi32_ps,
    _mm512_dpwssd_epi32
);

/// What `_mm256_dpwssd_epi32` does. (`_mm256_dpwssd_avx_epi32` would be it where there is AVX-VNNI: there was no machine to test it.)
#[target_feature(enable = "avx2")]
#[inline]
fn dot(sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(sums, _mm256_madd_epi16(a, b))
}

fixed_tile!(
    avx2,
    "avx2,fma",
    6,
    8,
    _mm256_setzero_si256,
    _mm256_loadu_si256,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_epi32,
    _mm256_set1_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps,
    _mm256_cvtepi32_ps,
    dot
);
