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
