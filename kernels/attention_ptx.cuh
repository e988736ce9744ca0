#pragma once
// Instructions and conversions that only attention needs.
#include "ptx.cuh"

// cp_async16 with 4 bytes: `bytes` is 4, or 0 for a zero.
__device__ __forceinline__ void cp_async4(unsigned shared, const void *global, unsigned bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(__cvta_generic_to_global(global)),
                 "r"(bytes)
                 : "memory");
}

// 2^x, to 2 units in the last place.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two floats as two neighbouring elements of T.
template <class T> __device__ __forceinline__ unsigned pack2(float low, float high);
template <> __device__ __forceinline__ unsigned pack2<bf16>(float low, float high) {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<unsigned &>(v);
}
template <> __device__ __forceinline__ unsigned pack2<f16>(float low, float high) {
    __half2 v = __floats2half2_rn(low, high);
    return reinterpret_cast<unsigned &>(v);
}
