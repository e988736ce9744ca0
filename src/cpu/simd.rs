//! Which vector instructions this machine has, found at run time, and code compiled for them.
//!
//! The files `simd*.rs` are the only ones of the CPU backend with `unsafe` in them.
#![allow(unsafe_code)]

use std::sync::LazyLock;

/// What the hot loops are compiled for, from little to much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Whatever every machine of the architecture has (NEON on 64-bit ARM).
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, besides.
    Avx512,
    /// AVX-512 BF16, besides.
    Avx512Bf16,
}

static LEVEL: LazyLock<Level> = LazyLock::new(detect);

/// What this machine can do.
#[inline]
pub(super) fn level() -> Level {
    *LEVEL
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512, is_x86_feature_detected!("avx512bf16")) {
        (true, true, true) => Level::Avx512Bf16,
        (true, true, false) => Level::Avx512,
        (true, false, _) => Level::Avx2,
        (false, ..) => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Level::Portable if cfg!(target_arch = "aarch64") => "neon",
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512-bf16",
        })
    }
}

/// The vector extensions that were found, by the names that `/proc/cpuinfo` gives them.
pub fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("sse2", true),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found = [("neon", cfg!(target_arch = "aarch64"))];
    found.into_iter().filter(|(_, have)| *have).map(|(name, _)| name).collect()
}

/// Runs `f`, compiled for the best instructions of this machine. Only what is inlined is: `f` must be a closure with
/// `#[inline(always)]`, and call such functions.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    fn avx512<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    match level() {
        Level::Portable => f(),
        // SAFETY: `detect` found the features that the function is compiled for.
        Level::Avx2 => unsafe { avx2(f) },
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Bf16 => unsafe { avx512(f) },
    }
}

/// Runs `f`. The architecture's base set is all that is known.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
mod f16c {
    use std::arch::x86_64::*;

    /// Eight at a time; the caller does the tail.
    #[target_feature(enable = "avx,f16c")]
    pub(super) fn widen(x: &[[u16; 8]], out: &mut [[f32; 8]]) {
        for (x, out) in x.iter().zip(out) {
            // SAFETY: both arrays are as long as the vectors.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast()))) }
        }
    }

    /// Eight at a time; the caller does the tail.
    #[target_feature(enable = "avx,f16c")]
    pub(super) fn narrow(x: &[[f32; 8]], out: &mut [[u16; 8]]) {
        for (x, out) in x.iter().zip(out) {
            // SAFETY: both arrays are as long as the vectors.
            unsafe {
                let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
                _mm_storeu_si128(out.as_mut_ptr().cast(), half);
            }
        }
    }
}

/// Widens bits of f16.
pub(super) fn widen_f16(x: &[u16], out: &mut [f32]) {
    let done = vectors(x.len());
    #[cfg(target_arch = "x86_64")]
    if done > 0 {
        // SAFETY: `vectors` is not zero only where `detect` found F16C.
        unsafe { f16c::widen(x.as_chunks().0, out.as_chunks_mut().0) }
    }
    for (out, &x) in out[done..].iter_mut().zip(&x[done..]) {
        *out = half::f16::from_bits(x).to_f32();
    }
}

/// Rounds to bits of f16.
pub(super) fn narrow_f16(x: &[f32], out: &mut [u16]) {
    let done = vectors(x.len());
    #[cfg(target_arch = "x86_64")]
    if done > 0 {
        // SAFETY: as above.
        unsafe { f16c::narrow(x.as_chunks().0, out.as_chunks_mut().0) }
    }
    for (out, &x) in out[done..].iter_mut().zip(&x[done..]) {
        *out = half::f16::from_f32(x).to_bits();
    }
}

/// Rounds each element to f16.
pub(super) fn round_f16(x: &mut [f32]) {
    for chunk in x.chunks_mut(64) {
        let mut bits = [0; 64];
        narrow_f16(chunk, &mut bits[..chunk.len()]);
        widen_f16(&bits[..chunk.len()], chunk);
    }
}

/// How many of `n` elements F16C converts here.
fn vectors(n: usize) -> usize {
    if level() >= Level::Avx2 { n / 8 * 8 } else { 0 }
}
