#pragma once
// What SwiGLU is made of.
#include "types.cuh"

// 1 / (1 + exp(-v))
template <class T> __device__ __forceinline__ float sigmoid(float v) {
    // f16 and bf16 hide the error of the fast exponential.
    return 1.f / (1.f + (sizeof(T) == 4 ? expf(-v) : __expf(-v)));
}

template <class T> __device__ __forceinline__ float swiglu(float gate, float up) {
    return gate * (sigmoid<T>(gate) * up);
}

// The gradients of both factors times d_out, and swiglu itself.
struct SwigluGrads {
    float gate, up, out;
};
template <class T> __device__ __forceinline__ SwigluGrads swiglu_grads(float gate, float up, float d_out) {
    float s = sigmoid<T>(gate);
    return {d_out * up * s * (1.f + gate * (1.f - s)), d_out * gate * s, gate * (s * up)};
}
