#pragma once
// Parts of gradients, added up in order.
#include "params.h"
#include "types.cuh"

// To the gradient. Where that is transposed, [cols, r], a thread has SUMS rows of a column, which
// are neighbours there: one at a time, each would read and write a whole sector of its own. Several parts are asked for at
// once: one at a time, they would wait for the memory as often as there are parts.
constexpr unsigned SUMS = LORA_WEIGHT_GRAD_SUMS;

template <unsigned AHEAD, unsigned ROWS>
__device__ __forceinline__ void sum_parts(const LoraWeightGradParams &p, unsigned row, unsigned col, float (&sums)[ROWS]) {
    size_t len = size_t(p.r) * p.cols;
    for (unsigned first = 0; first < p.splits; first += AHEAD) {
        float parts[AHEAD][ROWS];
#pragma unroll
        for (unsigned s = 0; s < AHEAD; s++)
#pragma unroll
            for (unsigned j = 0; j < ROWS; j++)
                if (first + s < p.splits)
                    parts[s][j] = p.partial[(first + s) * len + size_t(min(row + j, p.r - 1)) * p.cols + col];
#pragma unroll
        for (unsigned s = 0; s < AHEAD; s++)
#pragma unroll
            for (unsigned j = 0; j < ROWS; j++)
                if (first + s < p.splits) sums[j] += parts[s][j];
    }
#pragma unroll
    for (unsigned j = 0; j < ROWS; j++) sums[j] *= p.scale;
}
__device__ __forceinline__ void add_transposed(const LoraWeightGradParams &p, unsigned row, unsigned col) {
    float *out = p.out + size_t(col) * p.r + row, sums[SUMS] = {};
    sum_parts<1>(p, row, col, sums);
    if (aligned16(out, p.r) && row + SUMS <= p.r) {
#pragma unroll
        for (unsigned j = 0; j < SUMS; j += 4) {
            float4 &four = reinterpret_cast<float4 *>(out)[j / 4];
            float4 old = four;
            four = {old.x + sums[j], old.y + sums[j + 1], old.z + sums[j + 2], old.w + sums[j + 3]};
        }
        return;
    }
#pragma unroll
    for (unsigned j = 0; j < SUMS; j++)
        if (row + j < p.r) out[j] += sums[j];
}

// d_xa: a thread has four columns of a token.
template <class T> __device__ void sum_d_xa(const LoraOutGradParams &p, unsigned columns, unsigned i) {
    unsigned row = i / (columns / 4), col = i % (columns / 4) * 4;
    if (row >= p.d_xa_t.stride || col >= p.d_b.r) return;
    constexpr unsigned AHEAD = 4;
    const float4 *part = reinterpret_cast<const float4 *>(p.partial + size_t(min(row, p.d_b.n - 1)) * columns + col);
    size_t step = size_t(p.d_b.n) * columns / 4;
    float4 sum = {0, 0, 0, 0};
    for (unsigned first = 0; first < p.groups; first += AHEAD) {
        float4 parts[AHEAD];
#pragma unroll
        for (unsigned g = 0; g < AHEAD; g++)
            if (first + g < p.groups) parts[g] = part[(first + g) * step];
#pragma unroll
        for (unsigned g = 0; g < AHEAD; g++)
            if (first + g < p.groups)
                sum = {sum.x + parts[g].x, sum.y + parts[g].y, sum.z + parts[g].z, sum.w + parts[g].w};
    }
    const float four[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        T v = from_f32<T>(row < p.d_b.n ? p.d_b.scale * four[j] : 0.f);
        row_of<T>(p.d_xa_t, col + j)[row] = v;
        if (row >= p.d_b.n) continue;
        row_of<T>(p.d_xa, row)[col + j] = v;
        if (p.beside.ptr) row_of<T>(p.beside, row)[col + j] = v;
    }
}

// CTA `block` of the sums of both: of each part, d_xa first.
template <class T> __device__ void out_grad_sum(const LoraOutGradSumsParams &p, unsigned block) {
    unsigned which = block / p.blocks, i = block % p.blocks * LORA_WEIGHT_GRAD_THREADS + threadIdx.x;
    const LoraOutGradParams &part = p.of.parts[which / 2];
    if (which % 2 == 0) return sum_d_xa<T>(part, p.of.columns, i);
    unsigned row = i / part.d_b.cols * SUMS, col = i % part.d_b.cols;
    if (row < part.d_b.r) add_transposed(part.d_b, row, col);
}
