#pragma once
// The compute types, rows of matrices, and 16-byte moves between memory and f32 registers.
#include "params.h"
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

using bf16 = __nv_bfloat16;
using f16 = __half;
using f32 = float;

__device__ __forceinline__ float to_f32(f32 v) { return v; }
__device__ __forceinline__ float to_f32(bf16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_f32(f16 v) { return __half2float(v); }

template <class T> __device__ __forceinline__ T from_f32(float v);
template <> __device__ __forceinline__ f32 from_f32<f32>(float v) { return v; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float v) { return __float2bfloat16_rn(v); }
template <> __device__ __forceinline__ f16 from_f32<f16>(float v) { return __float2half_rn(v); }

// Row `i` of a matrix of T.
template <class T> __device__ __forceinline__ const T *row_of(const Matrix &m, size_t i) {
    return static_cast<const T *>(m.ptr) + i * m.stride;
}
template <class T> __device__ __forceinline__ T *row_of(const MatrixMut &m, size_t i) {
    return static_cast<T *>(m.ptr) + i * m.stride;
}

// Elements of T in 16 bytes.
template <class T> constexpr int VEC = 16 / sizeof(T);

template <class T> struct alignas(16) Pack {
    T v[VEC<T>];
};

template <class T> __device__ __forceinline__ Pack<T> load_pack(const T *p) {
    return *reinterpret_cast<const Pack<T> *>(p);
}
template <class T> __device__ __forceinline__ void store_pack(T *p, const Pack<T> &v) {
    *reinterpret_cast<Pack<T> *>(p) = v;
}

// May rows that start at `p`, `stride` elements apart, be moved 16 bytes at a time?
template <class T> __device__ __forceinline__ bool aligned16(const T *p, unsigned stride) {
    return (reinterpret_cast<uintptr_t>(p) % 16 == 0) && (stride % VEC<T> == 0);
}

// Every kernel begins with this, before it reads or writes anything but its params (gemv4.cuh: and the weight;
// decode_attention.cu: and the weights of norms, which no kernel writes). It may have been started while the kernel
// before it still runs (programmatic dependent launch, src/cuda/kernel.rs): here it lets the next kernel start in turn,
// and waits until all that was queued before is done and visible. The next one waits for this one, which ends only
// after its own wait: so whoever has waited sees all before it, however many have started. What comes before this call
// overlaps. To let the next start only after the wait costs 7 % of a token's time.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_last() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void begin_kernel() { let_next_start(), wait_for_last(); }

// extern "C" entry points `name_bf16`, `name_f16`, `name_f32` of a template kernel.
#define INSTANTIATE_FOR(name, Params, T)                                                                               \
    extern "C" __global__ void name##_##T(const __grid_constant__ Params p) {                                          \
        begin_kernel();                                                                                                \
        name<T>(p);                                                                                                    \
    }
#define INSTANTIATE(name, Params)                                                                                      \
    INSTANTIATE_FOR(name, Params, bf16)                                                                                \
    INSTANTIATE_FOR(name, Params, f16)                                                                                 \
    INSTANTIATE_FOR(name, Params, f32)
