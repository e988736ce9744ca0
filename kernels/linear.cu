// out (+)= x W^T and d_x (+)= d_out W with a dense W. Which kernel takes which shape:
// src/cuda/launch/gemm/linear.rs. `simt` and `mma` are what simt.cuh and mma.cuh make of a dense weight.
#include "params.h"
#include "simt.cuh"
#include "mma.cuh"

template <class T, class O> __device__ Gemm<T, O> gemm_of(const LinearParams &p, bool grad) {
    unsigned m = grad ? p.cols : p.rows, k = grad ? p.rows : p.cols;
    return {p.x, p.out, p.partial, p.n, m, k, p.accumulate, p.splits};
}

template <class T> __device__ Dense<T> dense_of(const LinearParams &p) {
    return {static_cast<const T *>(p.weight), p.rows, p.cols};
}

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
// The weight is operand A of the tensor cores, straight from memory: 16 of its rows, with up to 16 tokens as B. Lane
// (g, t) holds k = 16 t .. 16 t + 15 of each 64, of rows g and g + 8, and x of token g at the same k; which of them
// the tensor cores call which column does not matter to a sum. Wants x, its rows and the weight aligned to 16 bytes and
// cols a multiple of 8.
//
// The weight is read once and never again, so it does not pass through shared memory: a warp asks for 4 KiB of it, 16
// rows by 128, before it multiplies, and 24 warps on a multiprocessor (3 CTAs; 2 with 16 tokens, by registers) keep 96
// KiB under way. The 8 warps of a CTA share the k of one tile of rows, so that a weight of few rows has CTAs enough. x
// comes from L1. The bound is the memory.

constexpr int SKINNY_WARPS = LINEAR_SKINNY_THREADS / 32;
constexpr int SKINNY_K = 128; // what a warp loads at a time of 16 rows

template <class T> struct SkinnyRow {
    const T *row; // null: zeros
    unsigned cols;

    // 8 elements from `k`.
    __device__ __forceinline__ uint4 load(unsigned k) const {
        return row && k < cols ? __ldg(reinterpret_cast<const uint4 *>(row + k)) : uint4{};
    }
};

template <class T, class O, int TOKENS8> __device__ void skinny(const LinearParams &p) {
    constexpr unsigned TOKENS = TOKENS8 * 8;
    __shared__ float sums[2][SKINNY_WARPS][TOKENS][16];
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    Dense<T> weight = dense_of<T>(p);
    auto weight_row = [&](unsigned row) {
        return SkinnyRow<T>{row < p.rows ? weight.w + size_t(row) * p.cols : nullptr, p.cols};
    };
    SkinnyRow<T> x[TOKENS8];
#pragma unroll
    for (int i = 0; i < TOKENS8; i++) {
        unsigned token = g + i * 8;
        x[i] = {token < p.n ? row_of<T>(p.x, token) : nullptr, p.cols};
    }
    unsigned tiles = (p.rows + 15) / 16, odd = 0;
    for (unsigned tile = blockIdx.x; tile < tiles; tile += gridDim.x, odd ^= 1) {
        SkinnyRow<T> low = weight_row(tile * 16 + g), high = weight_row(tile * 16 + g + 8);
        float acc[TOKENS8][4] = {};
        for (unsigned k0 = warp * SKINNY_K; k0 < p.cols; k0 += SKINNY_WARPS * SKINNY_K) {
            uint4 l[4], h[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                unsigned k = k0 + i / 2 * 64 + t * 16 + i % 2 * 8;
                l[i] = low.load(k), h[i] = high.load(k);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) { // 8 k of each lane: two matrix products
                uint32_t a0[4] = {l[i].x, h[i].x, l[i].y, h[i].y}, a1[4] = {l[i].z, h[i].z, l[i].w, h[i].w};
#pragma unroll
                for (int j = 0; j < TOKENS8; j++) {
                    uint4 b = x[j].load(k0 + i / 2 * 64 + t * 16 + i % 2 * 8);
                    mma_m16n8k16<T>(acc[j], a0, b.x, b.y);
                    mma_m16n8k16<T>(acc[j], a1, b.z, b.w);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < TOKENS8 * 4; i++)
            sums[odd][warp][i / 4 * 8 + t * 2 + i % 2][g + i % 4 / 2 * 8] = acc[i / 4][i % 4];
        __syncthreads(); // one is enough: the next tile writes the other half of `sums`
        for (unsigned i = threadIdx.x; i < TOKENS * 16; i += SKINNY_WARPS * 32) {
            unsigned token = i / 16, row = tile * 16 + i % 16;
            if (token >= p.n || row >= p.rows) continue;
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < SKINNY_WARPS; w++) sum += sums[odd][w][token][i % 16];
            O *o = row_of<O>(p.out, token) + row;
            *o = from_f32<O>(p.accumulate ? to_f32(*o) + sum : sum);
        }
    }
}
ENTRIES(linear_skinny8, LinearParams, LINEAR_SKINNY_THREADS, LINEAR_SKINNY8_CTAS, skinny, 1)
ENTRIES(linear_skinny16, LinearParams, LINEAR_SKINNY_THREADS, LINEAR_SKINNY16_CTAS, skinny, 2)
ENTRIES_F32_OUT(linear_skinny8, LinearParams, LINEAR_SKINNY_THREADS, LINEAR_SKINNY8_CTAS, skinny, 1)
ENTRIES_F32_OUT(linear_skinny16, LinearParams, LINEAR_SKINNY_THREADS, LINEAR_SKINNY16_CTAS, skinny, 2)

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
