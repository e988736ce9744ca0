//! Which vector instructions this machine has, found at run time, and code compiled for them.
//!
//! What every SAFETY comment in this folder rests on: [`level`] names a level only where `detect` found all of its
//! instructions, so that a function compiled for a level may be called wherever `level` is at least that.
#![allow(unsafe_code)]

pub(super) mod convert;
pub(super) mod decode;
pub(super) mod fixed;
pub(super) mod gemv;
pub(super) mod int8;
mod look_up;
pub(super) mod pack;
pub(super) mod planes;
pub(super) mod sum;
pub(super) mod tile;

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
    /// AVX-512 VNNI, besides.
    Avx512Vnni,
    /// AVX-512 BF16, besides.
    Avx512Bf16,
}

static LEVEL: LazyLock<Level> = LazyLock::new(|| match chosen() {
    Ok(level) => level,
    Err(wanted) => panic!("{VARIABLE} {wanted}"),
});

/// What the hot loops of this process are compiled for: the best that the machine has, or less where [`VARIABLE`] says so.
#[inline]
pub(super) fn level() -> Level {
    *LEVEL
}

/// The environment variable that chooses among the instructions that the machine has.
pub const VARIABLE: &str = "HALFBYTE_CPU";

/// What [`VARIABLE`] may say besides `auto`.
const LEVELS: [(&str, Level); 5] = [
    ("portable", Level::Portable),
    ("avx2", Level::Avx2),
    ("avx512", Level::Avx512),
    ("avx512vnni", Level::Avx512Vnni),
    ("avx512bf16", Level::Avx512Bf16),
];

/// Compares what [`VARIABLE`] asks for with the instructions that the machine has.
///
/// # Errors
/// There are no such instructions: what it must be. The first op would panic.
pub fn check_level() -> Result<(), String> {
    chosen().map(|_| ())
}

fn chosen() -> Result<Level, String> {
    let best = detect();
    let name = std::env::var_os(VARIABLE).unwrap_or_default();
    if name.is_empty() || name == "auto" {
        return Ok(if best == Level::Avx512Bf16 && !fast_bf16() { Level::Avx512Vnni } else { best });
    }
    let known = || LEVELS.into_iter().filter(|(_, level)| *level <= best);
    let names: Vec<&str> = known().map(|(name, _)| name).collect();
    let found = known().find(|(known, _)| name == *known);
    found
        .map(|(_, level)| level)
        .ok_or_else(|| format!("must be auto, or of what this machine has: {}", names.join(", ")))
}

/// Whether products of pairs of bf16 are faster than two of f32. Intel's cores take two cycles for what AMD's do in one,
/// but two of f32 each cycle.
#[cfg(target_arch = "x86_64")]
fn fast_bf16() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn fast_bf16() -> bool {
    true
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let (vnni, bf16) = (is_x86_feature_detected!("avx512vnni"), is_x86_feature_detected!("avx512bf16"));
    let levels = [(Level::Avx2, avx2), (Level::Avx512, avx512), (Level::Avx512Vnni, vnni), (Level::Avx512Bf16, bf16)];
    levels.into_iter().take_while(|(_, found)| *found).last().map_or(Level::Portable, |(level, _)| level)
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
            Level::Avx512Vnni => "avx512-vnni",
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
        ("avx512_vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found = [("neon", cfg!(target_arch = "aarch64"))];
    found.into_iter().filter(|(_, have)| *have).map(|(name, _)| name).collect()
}

/// Asks for memory that will be read soon.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn prefetch<T>(x: &[T]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in x.chunks(64 / size_of::<T>().clamp(1, 64)) {
        // SAFETY: what is prefetched may lie anywhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
}

/// Asks for nothing.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn prefetch<T>(_: &[T]) {}

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
        // SAFETY: `detect` found AVX2, FMA and F16C.
        Level::Avx2 => unsafe { avx2(f) },
        // SAFETY: `detect` found AVX-512 F, BW, DQ and VL, besides AVX2, FMA and F16C.
        _ => unsafe { avx512(f) },
    }
}

/// Runs `f`. The architecture's base set is all that is known.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    f()
}
