#pragma once
// Up to 16 tokens and a dense weight, which is read once. The weight is operand A of the tensor cores, straight from memory:
// 16 of its rows, with up to 16 tokens as B. Lane (g, t) holds k = 16 t .. 16 t + 15 of each 64, of rows g and g + 8, and x of
// token g at the same k; which of them the tensor cores call which column does not matter to a sum. Wants x and the
// weight, and their rows, aligned to 16 bytes and cols a multiple of 8.
//
// The weight is read once and never again, so it does not pass through shared memory: a warp asks for 4 KiB of it, 16
// rows by 128, as soon as the last ones are multiplied, and 24 warps on a multiprocessor (3 CTAs; 2 with 16 tokens, by
// registers) keep 96 KiB under way. The 8 warps of a CTA share the k of one tile of rows, so that a weight of few rows has
// CTAs enough. x comes from L1. The bound is the memory.
#include "gemm.cuh"
#include "ptx.cuh"

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

// 16 rows of the weight, one after the other.
struct SkinnyTile {
    unsigned tile;

    __device__ __forceinline__ unsigned operator()(unsigned i) const { return tile * 16 + i; }
};

template <class T, class O, int TOKENS8> struct Skinny {
    static constexpr unsigned TOKENS = TOKENS8 * 8;
    const LinearParams &p;
    const unsigned warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    SkinnyRow<T> x[TOKENS8];
    uint4 low[4], high[4]; // of the weight, what was asked for: of rows g and g + 8
    unsigned odd = 0; // which half of the sums the next tile takes

    __device__ __forceinline__ explicit Skinny(const LinearParams &p) : p(p) {
#pragma unroll
        for (int i = 0; i < TOKENS8; i++) {
            unsigned token = g + i * 8;
            x[i] = {token < p.n ? row_of<T>(p.x, token) : nullptr, p.cols};
        }
    }
    __device__ __forceinline__ SkinnyRow<T> weight_row(unsigned row) const {
        return {row < p.rows ? row_of<T>(p.weight, row) : nullptr, p.cols};
    }
    // This lane's columns of the 128, 8 of them.
    __device__ __forceinline__ unsigned column(int i) const { return i / 2 * 64 + t * 16 + i % 2 * 8; }
    template <class Rows> __device__ __forceinline__ void load(const Rows &of, unsigned k0) {
        SkinnyRow<T> rows[2] = {weight_row(of(g)), weight_row(of(g + 8))};
#pragma unroll
        for (int i = 0; i < 4; i++) low[i] = rows[0].load(k0 + column(i)), high[i] = rows[1].load(k0 + column(i));
    }

    // Asks for this warp's first part of 16 rows.
    template <class Rows> __device__ __forceinline__ void ask(const Rows &rows) { load(rows, warp * SKINNY_K); }

    // The outputs of 16 rows of the weight, which were asked for, by the whole CTA; asks for those of `next`.
    template <class Rows> __device__ __forceinline__ void tile(const Rows &rows, const Rows &next) {
        __shared__ float sums[2][SKINNY_WARPS][TOKENS][16];
        float acc[TOKENS8][4] = {};
        for (unsigned k0 = warp * SKINNY_K; k0 < p.cols; k0 += SKINNY_WARPS * SKINNY_K) {
#pragma unroll
            for (int i = 0; i < 4; i++) { // 8 k of each lane: two matrix products
                uint32_t a0[4] = {low[i].x, high[i].x, low[i].y, high[i].y};
                uint32_t a1[4] = {low[i].z, high[i].z, low[i].w, high[i].w};
#pragma unroll
                for (int j = 0; j < TOKENS8; j++) {
                    uint4 b = x[j].load(k0 + column(i));
                    mma_m16n8k16<T>(acc[j], a0, b.x, b.y);
                    mma_m16n8k16<T>(acc[j], a1, b.z, b.w);
                }
            }
            if (k0 + SKINNY_WARPS * SKINNY_K < p.cols) load(rows, k0 + SKINNY_WARPS * SKINNY_K);
        }
        ask(next);
#pragma unroll
        for (int i = 0; i < TOKENS8 * 4; i++)
            sums[odd][warp][i / 4 * 8 + t * 2 + i % 2][g + i % 4 / 2 * 8] = acc[i / 4][i % 4];
        __syncthreads(); // one is enough: the next tile writes the other half of `sums`
        for (unsigned i = threadIdx.x; i < TOKENS * 16; i += SKINNY_WARPS * 32) {
            unsigned token = i / 16, row = rows(i % 16);
            if (token >= p.n || row >= p.rows) continue;
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < SKINNY_WARPS; w++) sum += sums[odd][w][token][i % 16];
            O *o = row_of<O>(p.out, token) + row;
            *o = from_f32<O>(p.accumulate ? to_f32(*o) + sum : sum);
        }
        odd ^= 1;
    }
};
