#pragma once
// What the adapter's kernels share: dropout, and loads of what a thread gives to the tensor cores.
#include "params.h"
#include "philox.cuh"
#include "ptx.cuh"

__device__ __forceinline__ Dropout dropout_of(const DropoutParams &p) { return {p.seed, p.stream, p.threshold, 1.f}; }

// Zeroes the dropped ones of eight 16-bit elements, the columns of `quad` and the next.
__device__ __forceinline__ void drop8(uint4 &x, const Dropout &dropout, uint32_t row, uint32_t quad) {
    auto mask = [&](uint32_t low, uint32_t high) {
        return (low >= dropout.threshold ? 0xffffu : 0u) | (high >= dropout.threshold ? 0xffff0000u : 0u);
    };
    uint4 a = dropout.words(row, quad), b = dropout.words(row, quad + 1);
    x.x &= mask(a.x, a.y);
    x.y &= mask(a.z, a.w);
    x.z &= mask(b.x, b.y);
    x.w &= mask(b.z, b.w);
}

// Is element (row, col) kept?
__device__ __forceinline__ bool kept(const Dropout &dropout, uint32_t row, uint32_t col) {
    if (dropout.threshold == 0) return true;
    uint4 words = dropout.words(row, col / 4);
    uint32_t word = col % 4 < 2 ? (col % 4 == 0 ? words.x : words.y) : (col % 4 == 2 ? words.z : words.w);
    return word >= dropout.threshold;
}

__device__ __forceinline__ uint4 load16(const void *p) { return *static_cast<const uint4 *>(p); }
__device__ __forceinline__ void store16(void *p, const uint4 &v) { *static_cast<uint4 *>(p) = v; }
__device__ __forceinline__ uint2 load8bytes(const void *p) { return *static_cast<const uint2 *>(p); }
