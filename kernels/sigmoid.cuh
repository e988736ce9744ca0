#pragma once
// What SwiGLU is made of.
#include "types.cuh"

// 1 / x for x from 1 on, rounded as the division is where that is a normal number. The division has a branch, around
// which instructions cannot be moved.
__device__ __forceinline__ float reciprocal(float x) {
    bool small = x >= 0x1p126f; // the inverse is below the normal numbers
    float y = small ? x * 0x1p-2f : x, r;
    y = y > 0x1p127f ? 0x1p127f : y; // of infinity 0
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
    r = fmaf(r, fmaf(-y, r, 1.f), r);
    return small ? r * 0x1p-2f : r;
}

// 1 / (1 + exp(-v)).
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
