#pragma once
// Products with FMA in f32, for f32 and for what the tensor-core kernels do not take: any shape, any stride.
// A weight source `W` gives index(row, col), and at(i) and at4(i): elements there, as rounded to the compute type.
//
// 256 threads, 16 by 16, have 4 x 4 outputs each: two 16-byte reads of shared memory feed 16 FMA. Tiles have k as rows,
// so that what a thread reads is contiguous; the 4 elements of padding keep rows aligned to 16 bytes and bring the
// transposing stores from 16 threads on a bank down to two.
#include "gemm.cuh"
#include "reduce.cuh"

constexpr int SIMT_THREADS = GEMM_SIMT_THREADS;
constexpr int SIMT_TILE = GEMM_SIMT_TILE;
constexpr int SIMT_K = GEMM_SIMT_TILE_K;

struct SimtTiles {
    float x[SIMT_K][SIMT_TILE + 4];
    float w[SIMT_K][SIMT_TILE + 4];
};

// Four consecutive elements of row `row`, from `col`; zeros outside [rows, cols).
template <class W> __device__ __forceinline__ float4 weight_row4(const W &w, unsigned row, unsigned col) {
    float4 v = {};
    if (row >= w.rows) return v;
    size_t i = w.index(row, col);
    if (w.cols % 4 == 0) return col < w.cols ? w.at4(i) : v;
    if (col < w.cols) v.x = w.at(i);
    if (col + 1 < w.cols) v.y = w.at(i + 1);
    if (col + 2 < w.cols) v.z = w.at(i + 2);
    if (col + 3 < w.cols) v.w = w.at(i + 3);
    return v;
}

// Tile [tokens 64, outputs 64] of a CTA: blockIdx.x counts tiles, tokens fastest; blockIdx.y is the part of k.
template <bool GRAD, class T, class O, class W> __device__ void simt_gemm(const Gemm<T, O> &p, const W &w) {
    __shared__ SimtTiles tiles;
    unsigned token_tiles = (p.n + SIMT_TILE - 1) / SIMT_TILE;
    unsigned token0 = blockIdx.x % token_tiles * SIMT_TILE, j0 = blockIdx.x / token_tiles * SIMT_TILE;
    unsigned tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    uint2 part = p.part(SIMT_K);
    float sums[4][4] = {};
    for (unsigned k0 = part.x; k0 < part.y; k0 += SIMT_K) {
        __syncthreads(); // the tiles before have been read
#pragma unroll
        for (int i = 0; i < SIMT_TILE / 16; i++) { // x: 16 threads read one row
            unsigned token = token0 + ty + 16 * i, k = k0 + tx;
            tiles.x[tx][ty + 16 * i] = token < p.n && k < p.k ? to_f32(row_of<T>(p.x, token)[k]) : 0.f;
        }
        if constexpr (GRAD) { // 16 rows of k, 64 outputs
            float4 v = weight_row4(w, k0 + ty, j0 + tx * 4);
            *reinterpret_cast<float4 *>(&tiles.w[ty][tx * 4]) = v;
        } else { // 64 rows of outputs, 16 of k
            unsigned j = threadIdx.x / 4, k = threadIdx.x % 4 * 4;
            float4 v = weight_row4(w, j0 + j, k0 + k);
            tiles.w[k][j] = v.x, tiles.w[k + 1][j] = v.y, tiles.w[k + 2][j] = v.z, tiles.w[k + 3][j] = v.w;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < SIMT_K; k++) {
            float4 a = *reinterpret_cast<const float4 *>(&tiles.x[k][ty * 4]);
            float4 b = *reinterpret_cast<const float4 *>(&tiles.w[k][tx * 4]);
            float as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 16; i++) sums[i / 4][i % 4] = fmaf(as[i / 4], bs[i % 4], sums[i / 4][i % 4]);
        }
    }
#pragma unroll
    for (int i = 0; i < 16; i++) p.store(token0 + ty * 4 + i / 4, j0 + tx * 4 + i % 4, sums[i / 4][i % 4]);
}

// Forward for up to 8 tokens: one warp for each weight row, whose lanes read it 4 elements each and multiply it with
// all tokens: the weight is read once. x comes from L1. No shared memory, no barrier.
template <class T, class O, class W>
__device__ __forceinline__ void simt_row(const Gemm<T, O> &p, const W &w, unsigned row) {
    constexpr int TOKENS = GEMM_SIMT_ROWS_TOKENS;
    unsigned lane = threadIdx.x % 32;
    float sums[TOKENS] = {};
#pragma unroll 2
    for (unsigned k = lane * 4; k < p.k; k += 128) {
        float4 v = weight_row4(w, row, k);
        float ws[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int token = 0; token < TOKENS; token++) {
            if (token >= p.n) break;
            const T *x = row_of<T>(p.x, token) + k;
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (k + i < p.k) sums[token] = fmaf(ws[i], to_f32(x[i]), sums[token]);
        }
    }
#pragma unroll
    for (int token = 0; token < TOKENS; token++) {
        if (token >= p.n) break;
        float sum = warp_sum(sums[token]);
        if (lane == 0) p.store(token, row, sum);
    }
}

template <class T, class O, class W> __device__ void simt_rows(const Gemm<T, O> &p, const W &w) {
    unsigned row = blockIdx.x * (SIMT_THREADS / 32) + threadIdx.x / 32;
    if (row < p.m) simt_row(p, w, row);
}
