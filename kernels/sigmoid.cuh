#pragma once
// What SwiGLU is made of.
#include "types.cuh"

// 1 / x for x from 1 on, rounded as the division is, but 0 where that is below the normal numbers. The division has a branch,
// around which instructions cannot be moved.
__device__ __forceinline__ float reciprocal(float x) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return x < 0x1p126f ? fmaf(r, fmaf(-x, r, 1.f), r) : r;
}

// 1 / (1 + exp(-v)); without BRANCH 0 for v below -87.3.
template <class T, bool BRANCH = true> __device__ __forceinline__ float sigmoid(float v) {
    // f16 and bf16 hide the error of the fast exponential.
    if constexpr (sizeof(T) == 4) return 1.f / (1.f + expf(-v));
    else return BRANCH ? 1.f / (1.f + __expf(-v)) : reciprocal(1.f + __expf(-v));
}

template <class T> __device__ __forceinline__ float swiglu(float gate, float up) {
    return gate * (sigmoid<T>(gate) * up);
}

// The gradients of both factors times d_out, and swiglu itself.
struct SwigluGrads {
    float gate, up, out;
};
template <class T, bool BRANCH = true>
__device__ __forceinline__ SwigluGrads swiglu_grads(float gate, float up, float d_out) {
    float s = sigmoid<T, BRANCH>(gate);
    return {d_out * up * s * (1.f + gate * (1.f - s)), d_out * gate * s, gate * (s * up)};
}
