//! The innermost loop of every matrix product: a tile of the result in registers.
#![allow(unsafe_code)]

use super::{Level, fixed, fixed::Limit, level};
use std::sync::LazyLock;

/// A micro-kernel: `c += a b` for `a` of `[rows, k]`, whose rows and columns may begin anywhere, `b` of `[k, cols]` and
/// `c` of `[rows, cols]`, both without gaps.
pub(in crate::cpu) struct Tile {
    /// Rows of the tile.
    pub(in crate::cpu) rows: usize,
    /// Columns of the tile.
    pub(in crate::cpu) cols: usize,
    /// What an element along `k` is.
    pub(in crate::cpu) form: Form,
    run: unsafe fn(usize, *const f32, [usize; 2], *const f32, *mut f32),
}

/// How a product's operands lie in memory along `k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cpu) enum Form {
    /// Each element as f32.
    Plain,
    /// Two elements, which are exact in bf16, in the place of one.
    Pairs,
    /// Blocks in [fixed point](fixed).
    Fixed(Limit),
}

impl Form {
    /// Places that `depth` elements take.
    pub(in crate::cpu) fn words(self, depth: usize) -> usize {
        match self {
            Form::Plain => depth,
            Form::Pairs => depth.div_ceil(2),
            Form::Fixed(_) => depth.div_ceil(fixed::BLOCK) * fixed::WORDS,
        }
    }

    /// How the weight lies that is multiplied with what lies so.
    pub(in crate::cpu) fn of_weight(self) -> Form {
        match self {
            Form::Fixed(_) => Form::Fixed(Limit::Sum),
            form => form,
        }
    }
}

static TILE: LazyLock<Tile> = LazyLock::new(|| match level() {
    #[cfg(target_arch = "x86_64")]
    Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => {
        Tile { rows: 8, cols: 32, form: Form::Plain, run: x86::avx512 }
    }
    #[cfg(target_arch = "x86_64")]
    Level::Avx2 => Tile { rows: 6, cols: 16, form: Form::Plain, run: x86::avx2 },
    _ => Tile { rows: 4, cols: 8, form: Form::Plain, run: portable::<4, 8> },
});

/// The micro-kernel for operands that are exact in bf16, where it is faster than that for f32.
#[inline]
pub(in crate::cpu) fn tile_of_pairs() -> Option<&'static Tile> {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        return Some(&Tile { rows: 8, cols: 32, form: Form::Pairs, run: x86::avx512bf16 });
    }
    None
}

/// The micro-kernel of large products whose operands are exact in bf16, where integers are faster than f32: for operands in
/// fixed point, which are nearly as exact.
#[inline]
pub(in crate::cpu) fn tile_of_integers() -> Option<&'static Tile> {
    #[cfg(target_arch = "x86_64")]
    match level() {
        Level::Avx512Vnni => {
            return Some(&Tile { rows: 8, cols: 32, form: Form::Fixed(Limit::Each), run: fixed::tile::avx512vnni });
        }
        Level::Avx2 => {
            return Some(&Tile { rows: 6, cols: 16, form: Form::Fixed(Limit::Each), run: fixed::tile::avx2 });
        }
        _ => {}
    }
    None
}

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

    /// Adds the product to `c`. Sums run over `k` in order, then are added once to `c`. Element `(row, k)` of `a` is
    /// `a[row * steps[0] + k * steps[1]]`.
    #[inline]
    pub(in crate::cpu) fn run(&self, k: usize, a: &[f32], steps: [usize; 2], b: &[f32], c: &mut [f32]) {
        let last = (self.rows - 1) * steps[0] + k.saturating_sub(1) * steps[1];
        assert!((k == 0 || a.len() > last) && b.len() >= k * self.cols && c.len() >= self.len());
        // SAFETY: the lengths were just checked; whoever made the tile asked `level` for its instructions.
        unsafe { (self.run)(k, a.as_ptr(), steps, b.as_ptr(), c.as_mut_ptr()) }
    }

    /// The same for an `a` that is packed: `[k, rows]` without gaps.
    #[inline]
    pub(in crate::cpu) fn run_packed(&self, k: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
        self.run(k, a, [1, self.rows], b, c);
    }
}

/// One multiplication and addition, fused where every machine of the architecture can.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

/// # Safety
/// `a` has the elements that the steps lead to, `b` has `k * C`, `c` `R * C`.
unsafe fn portable<const R: usize, const C: usize>(
    k: usize,
    a: *const f32,
    [row, step]: [usize; 2],
    b: *const f32,
    c: *mut f32,
) {
    // SAFETY: `Tile::run`, the only caller, has checked the lengths.
    let (b, c) = unsafe {
        (std::slice::from_raw_parts(b.cast::<[f32; C]>(), k), std::slice::from_raw_parts_mut(c.cast::<[f32; C]>(), R))
    };
    let mut acc = [[0.0; C]; R];
    for (k, b) in b.iter().enumerate() {
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: `Tile::run`, the only caller, has checked that the steps stay in `a`.
            let a = unsafe { *a.add(i * row + k * step) };
            for j in 0..C {
                acc[j] = multiply_add(a, b[j], acc[j]);
            }
        }
    }
    for (c, acc) in c.iter_mut().zip(acc) {
        c.iter_mut().zip(acc).for_each(|(c, acc)| *c += acc);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, mem::transmute};

    /// Eight rows of two vectors.
    ///
    /// # Safety
    /// `a` has the elements that the steps lead to, `b` has `k * 32`, `c` `8 * 32`; the machine has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(k: usize, a: *const f32, [row, step]: [usize; 2], b: *const f32, c: *mut f32) {
        let mut acc = [[_mm512_setzero_ps(); 2]; 8];
        for k in 0..k {
            // SAFETY: `Tile::run`, the only caller, has checked the lengths.
            unsafe {
                let (a, b) = (a.add(k * step), b.add(k * 32));
                let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(i * row));
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

    /// Eight rows of two vectors, products in pairs.
    ///
    /// # Safety
    /// `a` has the elements that the steps lead to, `b` has `k * 32`, `c` `8 * 32`; the machine has AVX-512 F and BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn avx512bf16(k: usize, a: *const f32, [row, step]: [usize; 2], b: *const f32, c: *mut f32) {
        let mut acc = [[_mm512_setzero_ps(); 2]; 8];
        for k in 0..k {
            // SAFETY: `Tile::run`, the only caller, has checked the lengths. Bits are bits.
            unsafe {
                let (a, b) = (a.add(k * step), b.add(k * 32));
                let b0 = transmute::<__m512, __m512bh>(_mm512_loadu_ps(b));
                let b1 = transmute::<__m512, __m512bh>(_mm512_loadu_ps(b.add(16)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = transmute::<__m512, __m512bh>(_mm512_set1_ps(*a.add(i * row)));
                    acc[0] = _mm512_dpbf16_ps(acc[0], x, b0);
                    acc[1] = _mm512_dpbf16_ps(acc[1], x, b1);
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
    /// `a` has the elements that the steps lead to, `b` has `k * 16`, `c` `6 * 16`; the machine has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(k: usize, a: *const f32, [row, step]: [usize; 2], b: *const f32, c: *mut f32) {
        let mut acc = [[_mm256_setzero_ps(); 2]; 6];
        for k in 0..k {
            // SAFETY: `Tile::run`, the only caller, has checked the lengths.
            unsafe {
                let (a, b) = (a.add(k * step), b.add(k * 16));
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(i * row));
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
    use super::{super::convert::word, *};

    fn check(tile: &Tile) {
        let (k, value) = (37, |i: usize| ((i * 7) % 13) as f32 - 6.0);
        let a: Vec<f32> = (0..k * tile.rows).map(value).collect();
        let b: Vec<f32> = (0..k * tile.cols).map(|i| value(i + 5)).collect();
        // As a pair, with a second product of 3.
        let pair = |x: f32, odd: f32| if tile.form == Form::Pairs { word(x, odd) } else { x };
        let second = if tile.form == Form::Pairs { 3.0 * k as f32 } else { 0.0 };
        let a_words: Vec<f32> = a.iter().map(|x| pair(*x, 1.5)).collect();
        let b_words: Vec<f32> = b.iter().map(|x| pair(*x, 2.0)).collect();
        let mut c = vec![1.0; tile.len()];
        for steps in [[1, tile.rows], [k, 1]] {
            c.fill(1.0);
            tile.run(k, &a_words, steps, &b_words, &mut c);
            for (i, got) in c.iter().enumerate() {
                let (row, col) = (i / tile.cols, i % tile.cols);
                // Small integers: exact.
                let want: f32 = (0..k).map(|k| a[row * steps[0] + k * steps[1]] * b[k * tile.cols + col]).sum();
                assert_eq!(*got, want + second + 1.0, "({row}, {col})");
            }
        }
    }

    /// Two blocks in fixed point against the products of what stands in them.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn integers_multiply() {
        let Some(tile) = tile_of_integers() else {
            return eprintln!("this machine has no AVX2, or multiplies f32 no more slowly");
        };
        let depth = 2 * fixed::BLOCK;
        let value = |i: usize| ((i * 7919) % 1013) as f32 - 506.0;
        let rows = |limit, n: usize, seed: usize| -> Vec<Vec<f32>> {
            let row = |i: usize| {
                let mut row: Vec<f32> = (0..depth).map(|k| value(seed + i * depth + k)).collect();
                fixed::row(limit, &mut row, depth);
                row[..tile.form.words(depth)].to_vec()
            };
            (0..n).map(row).collect()
        };
        let (a, b) = (rows(Limit::Each, tile.rows, 0), rows(Limit::Sum, tile.cols, 77));
        let k = tile.form.words(depth);
        let packed: Vec<f32> = (0..k).flat_map(|k| b.iter().map(move |row| row[k])).collect();
        let mut c = vec![1.0; tile.len()];
        tile.run(k, &a.concat(), [k, 1], &packed, &mut c);
        let numbers = |words: &[f32]| -> Vec<f64> {
            let scale = f64::from(words[0]);
            let both = words[1..].iter().flat_map(|w| [w.to_bits() as i16, (w.to_bits() >> 16) as i16]);
            both.map(|x| f64::from(x) * scale).collect()
        };
        for (i, got) in c.iter().enumerate() {
            let (x, y) = (&a[i / tile.cols], &b[i % tile.cols]);
            let blocks = x.chunks(fixed::WORDS).zip(y.chunks(fixed::WORDS));
            let terms = blocks.flat_map(|(x, y)| numbers(x).into_iter().zip(numbers(y)));
            let (want, size) = terms.fold((1.0, 1.0), |(want, size), (x, y)| (want + x * y, size + (x * y).abs()));
            // Three roundings for each block and one of the scale, of half an ulp.
            assert!((f64::from(*got) - want).abs() <= 8.0 * 2f64.powi(-24) * size, "{i}: {got} {want}");
        }
    }

    #[test]
    fn tiles_multiply() {
        check(tile());
        tile_of_pairs().into_iter().for_each(check);
        check(&Tile { rows: 4, cols: 8, form: Form::Plain, run: portable::<4, 8> });
        #[cfg(target_arch = "x86_64")]
        if level() >= Level::Avx2 {
            check(&Tile { rows: 6, cols: 16, form: Form::Plain, run: x86::avx2 });
        }
    }
}
