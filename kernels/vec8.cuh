#pragma once
// Eight consecutive elements at a time, as f32: what a thread of the memory-bound kernels works on. Eight,
// because that is 16 bytes of a 16-bit type, the widest load; of f32 it is two loads.
#include "params.h"
#include "types.cuh"

struct Vec8 {
    float v[8];
};
static_assert(ELEMENTWISE_PER_THREAD == 8 && QUANTIZE_PER_THREAD == 8, "these kernels are made of Vec8");

// `p` is 16-byte aligned.
template <class T> __device__ __forceinline__ Vec8 load8(const T *p) {
    Vec8 out;
#pragma unroll
    for (int i = 0; i < 8; i += VEC<T>) {
        Pack<T> pack = load_pack(p + i);
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) out.v[i + j] = to_f32(pack.v[j]);
    }
    return out;
}

template <class T> __device__ __forceinline__ void store8(T *p, const Vec8 &x) {
#pragma unroll
    for (int i = 0; i < 8; i += VEC<T>) {
        Pack<T> pack;
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) pack.v[j] = from_f32<T>(x.v[i + j]);
        store_pack(p + i, pack);
    }
}

// The same for the `n` elements that there are (more than 8 count as 8); the others are zeros. `packed`: `p` is
// 16-byte aligned.
template <class T> __device__ __forceinline__ Vec8 load8(const T *p, size_t n, bool packed) {
    if (packed && n >= 8) return load8(p);
    Vec8 out;
#pragma unroll
    for (int j = 0; j < 8; j++) out.v[j] = j < n ? to_f32(p[j]) : 0.f;
    return out;
}

template <class T> __device__ __forceinline__ void store8(T *p, const Vec8 &x, size_t n, bool packed) {
    if (packed && n >= 8) return store8(p, x);
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (j < n) p[j] = from_f32<T>(x.v[j]);
}

// Where a thread works that has eight columns of one of many rows, each in CTAs of its own.
struct Place {
    size_t row;
    unsigned col;
    __device__ __forceinline__ Place(unsigned cols) {
        constexpr unsigned CTA = ELEMENTWISE_THREADS * ELEMENTWISE_PER_THREAD;
        unsigned per_row = (cols + CTA - 1) / CTA;
        row = blockIdx.x / per_row;
        col = blockIdx.x % per_row * CTA + threadIdx.x * ELEMENTWISE_PER_THREAD;
    }
};
