#pragma once
// What the adapter's kernels share: dropout, and loads of what a thread gives to the tensor cores.
#include "params.h"
#include "philox.cuh"
#include "ptx.cuh"

// CTAs a multiprocessor of the kernels with most registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000 // where two would spill
constexpr int WIDEST_CTAS = 1;
#else
constexpr int WIDEST_CTAS = 2;
#endif

__device__ __forceinline__ Dropout dropout_of(const DropoutParams &p) { return {p.seed, p.stream, p.threshold, 1.f}; }

// Zeroes the dropped ones of eight 16-bit elements, whose words are these.
__device__ __forceinline__ void drop8(uint4 &x, const Dropout &dropout, const uint4 &words) {
    auto mask = [&](uint32_t word) { return (dropout.low(word) ? 0xffffu : 0u) | (dropout.high(word) ? 0xffff0000u : 0u); };
    x.x &= mask(words.x);
    x.y &= mask(words.y);
    x.z &= mask(words.z);
    x.w &= mask(words.w);
}
// The same of the columns of `oct`.
__device__ __forceinline__ void drop8(uint4 &x, const Dropout &dropout, uint32_t row, uint32_t oct) {
    drop8(x, dropout, dropout.words(row, oct));
}

// Is element (row, col) kept?
__device__ __forceinline__ bool kept(const Dropout &dropout, uint32_t row, uint32_t col) {
    if (dropout.threshold == 0) return true;
    uint4 words = dropout.words(row, col / 8);
    uint32_t word = col % 8 < 4 ? (col % 8 < 2 ? words.x : words.y) : (col % 8 < 6 ? words.z : words.w);
    return col % 2 ? dropout.high(word) : dropout.low(word);
}

__device__ __forceinline__ uint4 load16(const void *p) { return *static_cast<const uint4 *>(p); }
__device__ __forceinline__ void store16(void *p, const uint4 &v) { *static_cast<uint4 *>(p) = v; }
__device__ __forceinline__ uint2 load8bytes(const void *p) { return *static_cast<const uint2 *>(p); }
