#pragma once
// What becomes of the scores of a tile and of their gradients, on the way back.
#include "attention.cuh"

// ---- keys as rows: [keys, queries]

// Scores to weights; keys after their query get 0. `lse` belongs to the queries, in shared memory; `key` is the first
// row's distance from the first query.
template <int N>
__device__ __forceinline__ void weigh_keys(float (&s)[1][N][4], const float *lse, float scale, bool diagonal, int key) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++) {
        int query = n * 8 + lane % 4 * 2;
        float2 l = *reinterpret_cast<const float2 *>(lse + query);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float weight = exp2_fast(s[0][n][i] * scale - (i % 2 ? l.y : l.x) * LOG2_E);
            s[0][n][i] = diagonal && key + i / 2 * 8 + lane / 4 > query + i % 2 ? 0.f : weight;
        }
    }
}

// ds = p (dp - delta), in place of dp; 0 where the key is after its query.
template <int N>
__device__ __forceinline__ void slope_keys(float (&dp)[1][N][4], const float (&p)[1][N][4], const float *delta,
                                           bool diagonal, int key) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++) {
        int query = n * 8 + lane % 4 * 2;
        float2 d = *reinterpret_cast<const float2 *>(delta + query);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float slope = p[0][n][i] * (dp[0][n][i] - (i % 2 ? d.y : d.x));
            dp[0][n][i] = diagonal && key + i / 2 * 8 + lane / 4 > query + i % 2 ? 0.f : slope;
        }
    }
}

// ---- queries as rows: [queries, keys]

// Scores to weights; `lse` in base 2.
template <int M, int N>
__device__ __forceinline__ void weigh_queries(float (&s)[M][N][4], const float (&lse)[M][2], float scale) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[m][n][i] = exp2_fast(s[m][n][i] * scale - lse[m][i / 2]);
}

// ds = p (dp - delta), in place of p; 0 where the key is after its query.
template <int M, int N>
__device__ __forceinline__ void slope_queries(float (&p)[M][N][4], const float (&dp)[M][N][4],
                                              const float (&delta)[M][2], bool diagonal, unsigned query, unsigned key) {
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float slope = p[m][n][i] * (dp[m][n][i] - delta[m][i / 2]);
                bool hidden = diagonal && key + n * 8 + lane % 4 * 2 + i % 2 > query + m * 16 + i / 2 * 8 + lane / 4;
                p[m][n][i] = hidden ? 0.f : slope;
            }
}

// lse in base 2 and delta of a warp's rows, of which the first is `query`.
template <int M> struct RowScalars {
    float lse[M][2], delta[M][2];

    __device__ __forceinline__ RowScalars(const float *all_lse, const float *all_delta, unsigned query, unsigned len) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                unsigned row = query + m * 16 + h * 8 + threadIdx.x % 32 / 4;
                lse[m][h] = row < len ? all_lse[row] * LOG2_E : 0.f;
                delta[m][h] = row < len ? all_delta[row] : 0.f;
            }
    }
};
