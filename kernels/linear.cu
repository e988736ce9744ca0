// out (+)= x W^T and d_x (+)= d_out W with a dense W. Which kernel takes which shape:
// src/cuda/launch/gemm/linear.rs. `simt` and `mma` are what simt.cuh and mma.cuh make of a dense weight.
#include "params.h"
#include "simt.cuh"
#include "mma.cuh"
#include "skinny.cuh"

// ------------------------------------------------------------------------------------------------- any shape: FMA

template <class T, class O, bool GRAD> __device__ void simt(const LinearParams &p) {
    simt_gemm<GRAD>(gemm_of<T, O>(p, GRAD), dense_of<T>(p));
}
ENTRIES(linear_simt, LinearParams, SIMT_THREADS, 2, simt, false)
ENTRIES_F32_OUT(linear_simt, LinearParams, SIMT_THREADS, 2, simt, false)
ENTRY_F32(linear_simt, LinearParams, SIMT_THREADS, 2, simt, false)
ENTRIES(linear_grad_simt, LinearParams, SIMT_THREADS, 2, simt, true)
ENTRY_F32(linear_grad_simt, LinearParams, SIMT_THREADS, 2, simt, true)

template <class T, class O, bool> __device__ void rows(const LinearParams &p) {
    simt_rows(gemm_of<T, O>(p, false), dense_of<T>(p));
}
ENTRIES(linear_simt_rows, LinearParams, SIMT_THREADS, 2, rows, false)
ENTRIES_F32_OUT(linear_simt_rows, LinearParams, SIMT_THREADS, 2, rows, false)
ENTRY_F32(linear_simt_rows, LinearParams, SIMT_THREADS, 2, rows, false)

// ------------------------------------------------------------------------------ 17 tokens and more: tensor cores

template <class T, class O, bool GRAD, int TOKENS> __device__ void mma(const LinearParams &p) {
    DenseStager<T, GRAD> stager{dense_of<T>(p)};
    mma_gemm<GRAD, TOKENS>(gemm_of<T, O>(p, GRAD), stager);
}
ENTRIES(linear_mma32, LinearParams, MMA_THREADS, 2, mma, false, 32)
ENTRIES(linear_mma64, LinearParams, MMA_THREADS, 2, mma, false, 64)
ENTRIES(linear_mma128, LinearParams, MMA_THREADS, 2, mma, false, 128)
ENTRIES_F32_OUT(linear_mma32, LinearParams, MMA_THREADS, 2, mma, false, 32)
ENTRIES_F32_OUT(linear_mma64, LinearParams, MMA_THREADS, 2, mma, false, 64)
ENTRIES_F32_OUT(linear_mma128, LinearParams, MMA_THREADS, 2, mma, false, 128)
ENTRIES(linear_grad_mma32, LinearParams, MMA_THREADS, 2, mma, true, 32)
ENTRIES(linear_grad_mma64, LinearParams, MMA_THREADS, 2, mma, true, 64)
ENTRIES(linear_grad_mma128, LinearParams, MMA_THREADS, 2, mma, true, 128)

// -------------------------------------------------------------------------- up to 16 tokens: one pass over the weight

template <class T, class O, int TOKENS8> __device__ void skinny(const LinearParams &p) {
    let_next_start();
    if (!p.settled) wait_for_last();
    Skinny<T, O, TOKENS8> product(p);
    product.ask(SkinnyTile{blockIdx.x});
    if (p.settled) wait_for_last();
    unsigned tiles = (p.rows + 15) / 16;
    for (unsigned tile = blockIdx.x; tile < tiles; tile += gridDim.x) product.tile(SkinnyTile{tile}, SkinnyTile{tile + gridDim.x});
}
EARLY_ENTRIES(linear_skinny8, LinearParams, LINEAR_SKINNY_THREADS, LINEAR_SKINNY8_CTAS, skinny, 1)
EARLY_ENTRIES(linear_skinny16, LinearParams, LINEAR_SKINNY_THREADS, LINEAR_SKINNY16_CTAS, skinny, 2)
EARLY_ENTRIES_F32_OUT(linear_skinny8, LinearParams, LINEAR_SKINNY_THREADS, LINEAR_SKINNY8_CTAS, skinny, 1)
EARLY_ENTRIES_F32_OUT(linear_skinny16, LinearParams, LINEAR_SKINNY_THREADS, LINEAR_SKINNY16_CTAS, skinny, 2)

// ------------------------------------------------------------------------------------------------------ split sums
// out [n, rows] (+)= sum over s of partial [splits, n, rows], in order. linear4 uses it too, with rows = its outputs.
template <class T, class O, bool> __device__ void sum(const LinearParams &p) {
    size_t len = size_t(p.n) * p.rows, step = size_t(gridDim.x) * blockDim.x;
    for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < len; i += step) {
        float total = 0.f;
        for (unsigned s = 0; s < p.splits; s++) total += p.partial[s * len + i];
        O *o = row_of<O>(p.out, i / p.rows) + i % p.rows;
        *o = from_f32<O>(p.accumulate ? to_f32(*o) + total : total);
    }
}
ENTRIES(linear_sum, LinearParams, GEMM_SUM_THREADS, 4, sum, false)
ENTRIES_F32_OUT(linear_sum, LinearParams, GEMM_SUM_THREADS, 4, sum, false)
ENTRY_F32(linear_sum, LinearParams, GEMM_SUM_THREADS, 4, sum, false)
