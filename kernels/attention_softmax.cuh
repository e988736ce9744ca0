#pragma once
// What becomes of the scores of a tile.
#include "attention.cuh"

// The running softmax of a warp's rows; a lane holds the rows l / 4 + 8 h + 16 m and its share of their sums.
template <int M> struct Softmax {
    float max[M][2], sum[M][2];

    __device__ __forceinline__ void begin() {
#pragma unroll
        for (int m = 0; m < M; m++) max[m][0] = max[m][1] = -INFINITY, sum[m][0] = sum[m][1] = 0;
    }

    // Scores to exponentials (base 2, of `scale` times the score). `shrink` is what to multiply the sums so far by.
    template <int KEYS>
    __device__ __forceinline__ void weigh(float (&s)[M][KEYS][4], float (&shrink)[M][2], float scale) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float top = max[m][h];
#pragma unroll
                for (int n = 0; n < KEYS; n++) top = fmaxf(top, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
                // Of a row without a finite score every exponential is 0.
                float base = top == -INFINITY ? 0.f : top * scale;
                shrink[m][h] = exp2_fast(max[m][h] * scale - base);
                max[m][h] = top;
                float total = 0;
#pragma unroll
                for (int n = 0; n < KEYS; n++)
#pragma unroll
                    for (int i = 2 * h; i < 2 * h + 2; i++) {
                        s[m][n][i] = exp2_fast(s[m][n][i] * scale - base);
                        total += s[m][n][i];
                    }
                sum[m][h] = sum[m][h] * shrink[m][h] + total;
            }
    }
    template <int D> __device__ __forceinline__ static void rescale(float (&o)[M][D][4], const float (&shrink)[M][2]) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < D; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) o[m][n][i] *= shrink[m][i / 2];
    }

    // Adds each row's sum up over the four lanes that have a share of it; stores the logarithm for rows below `len`, of
    // which this warp's first is `query`, and gives back what to multiply the rows by.
    __device__ __forceinline__ void finish(float (&inverse)[M][2], float *lse, unsigned query, unsigned len,
                                           float scale) {
        unsigned lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float total = sum[m][h];
                total += __shfl_xor_sync(~0u, total, 1);
                total += __shfl_xor_sync(~0u, total, 2);
                inverse[m][h] = 1.f / total;
                unsigned row = query + m * 16 + h * 8 + lane / 4;
                if (lane % 4 == 0 && row < len) lse[row] = max[m][h] * scale + logf(total);
            }
    }
};

// Hides the keys after each query; `query` and `key` are those of element [0][0] of the warp.
template <int M, int KEYS>
__device__ __forceinline__ void mask(float (&s)[M][KEYS][4], unsigned query, unsigned key) {
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < KEYS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (key + n * 8 + lane % 4 * 2 + i % 2 > query + m * 16 + i / 2 * 8 + lane / 4) s[m][n][i] = -INFINITY;
}

// Hides the keys from `valid` on; `valid` counts from the first of the tile.
template <int M, int KEYS> __device__ __forceinline__ void mask_from(float (&s)[M][KEYS][4], unsigned valid) {
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < KEYS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (n * 8 + lane % 4 * 2 + i % 2 >= valid) s[m][n][i] = -INFINITY;
}
