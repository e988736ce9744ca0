//! Which of its algorithms cuBLASLt is to use for a product.
#![allow(unsafe_code)]

use super::{ALIGNMENT, BlasShape, Descriptor, Plan, WORKSPACE};
use core::ffi::c_void;
use cudarc::cublaslt::{
    result::{self, CublasError},
    sys::{self, cublasLtMatmulAlgo_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulTile_t as Tile},
};
use std::mem::MaybeUninit;

/// How many algorithms cuBLASLt is asked for.
const CANDIDATES: usize = 8;
/// From so many outputs on a product is large.
const LARGE_PRODUCT: usize = 32 << 20;
/// The largest tiles that one CTA can have: they read least.
const LARGE_TILES: [Tile; 2] = [Tile::CUBLASLT_MATMUL_TILE_256x128, Tile::CUBLASLT_MATMUL_TILE_128x256];
/// From so many tokens on a product's rate for long is what counts.
const MANY_TOKENS: usize = 4096;
/// Tiles of which forward products for long do more a second than of any other, by these factors where all multiprocessors
/// have some (docs/kernels.md).
const STEADY_TILES: [(Tile, f32); 2] =
    [(Tile::CUBLASLT_MATMUL_TILE_176x128, 1.05), (Tile::CUBLASLT_MATMUL_TILE_168x128, 1.025)];

/// An algorithm that would do.
#[derive(Clone, Copy)]
struct Candidate {
    algorithm: cublasLtMatmulAlgo_t,
    /// How often its tiles fill all multiprocessors.
    waves: f32,
}

impl Candidate {
    /// The share of multiprocessors that have a tile, in the mean.
    fn occupancy(&self) -> f32 {
        self.waves / self.waves.ceil()
    }

    /// As a number, since a newer library may have new tiles.
    fn has_tile(&self, wanted: Tile) -> bool {
        tile(&self.algorithm).is_ok_and(|tile| tile == wanted as u32)
    }
}

/// The algorithm that cuBLASLt thinks the fastest; for a large product the first of its candidates with large tiles, or, of
/// many tokens, one with steady tiles that does more. What limits products that go on for long is the GPU's power, which cuBLASLt
/// does not look at (docs/kernels.md has what was measured).
pub(super) fn choose(
    handle: sys::cublasLtHandle_t,
    plan: &Plan,
    shape: &BlasShape,
) -> Result<cublasLtMatmulAlgo_t, CublasError> {
    let found = candidates(handle, plan)?;
    let large = |candidate: &&Candidate| LARGE_TILES.iter().any(|&tile| candidate.has_tile(tile));
    let frugal = found.iter().find(large).filter(|_| shape.n * shape.m >= LARGE_PRODUCT);
    let first = frugal.or(found.first()).ok_or(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))?;
    let steady = is_long(shape).then(|| steady(&found, first.occupancy())).flatten();
    Ok(steady.unwrap_or(first).algorithm)
}

/// Whether steady tiles were measured for such a product.
fn is_long(shape: &BlasShape) -> bool {
    !shape.grad && !shape.accumulate && shape.n >= MANY_TOKENS && shape.n * shape.m >= LARGE_PRODUCT / 2
}

/// The candidate with steady tiles that does the most, where that is more than `most`.
fn steady(found: &[Candidate], most: f32) -> Option<&Candidate> {
    let rated = STEADY_TILES.iter().filter_map(|&(tile, rate)| {
        let candidate = found.iter().find(|candidate| candidate.has_tile(tile))?;
        Some((candidate, rate * candidate.occupancy()))
    });
    let better = rated.filter(|&(_, rate)| rate > most);
    better.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(candidate, _)| candidate)
}

/// The fastest first.
fn candidates(handle: sys::cublasLtHandle_t, plan: &Plan) -> Result<Vec<Candidate>, CublasError> {
    let Plan { product, weight, x, out, .. } = plan;
    let preference = Descriptor(result::create_matmul_pref()?, result::destroy_matmul_pref);
    prefer(preference.0)?;
    let mut found = [const { MaybeUninit::<cublasLtMatmulHeuristicResult_t>::uninit() }; CANDIDATES];
    let mut count = 0;
    // SAFETY: all descriptors are the plan's or were made above, and live until the call returns, which writes `count`
    // results of the `CANDIDATES` that there is room for.
    let found = unsafe {
        let (found_ptr, room) = (found.as_mut_ptr().cast(), CANDIDATES as i32);
        let preference = preference.0;
        sys::cublasLtMatmulAlgoGetHeuristic(
            handle, product.0, weight.0, x.0, out.0, out.0, preference, room, found_ptr, &mut count,
        )
        .result()?;
        found.iter().take(count.unsigned_abs() as usize).map(|found| found.assume_init_ref())
    };
    let fitting = found.filter(|found| found.state.result().is_ok());
    Ok(fitting.map(|found| Candidate { algorithm: found.algo, waves: found.wavesCount }).collect())
}

/// The output tile of an algorithm.
fn tile(algorithm: &cublasLtMatmulAlgo_t) -> Result<u32, CublasError> {
    let attribute = sys::cublasLtMatmulAlgoConfigAttributes_t::CUBLASLT_ALGO_CONFIG_TILE_ID;
    let (mut tile, mut written) = (0_u32, 0);
    let (to, size) = ((&raw mut tile).cast(), size_of_val(&tile));
    // SAFETY: the attribute is 32 bits, written before the call returns.
    unsafe { sys::cublasLtMatmulAlgoConfigGetAttribute(algorithm, attribute, to, size, &mut written) }.result()?;
    Ok(tile)
}

/// Workspace, alignments, and sums of parts in f32 only.
fn prefer(preference: sys::cublasLtMatmulPreference_t) -> Result<(), CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let workspace = WORKSPACE as u64;
    let parts = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    let alignments = [
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ];
    // SAFETY: the workspace is a 64-bit number, the others are 32-bit ones.
    unsafe {
        let set = |attribute, value: *const c_void, size| {
            result::set_matmul_pref_attribute(preference, attribute, value, size)
        };
        set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), 8)?;
        set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const parts).cast(), 4)?;
        for attribute in alignments {
            set(attribute, (&raw const ALIGNMENT).cast(), 4)?;
        }
    }
    Ok(())
}
