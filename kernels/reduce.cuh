#pragma once
// Sums and maxima over a warp and over a block; every thread gets the result, the order is fixed.

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    return v;
}

// `shared`: 32 floats that nothing else uses between two calls. blockDim.x is a multiple of 32.
// The first barrier lets whoever still reads the last call's sums finish; after the second, all warps' sums are there.
// Each warp then adds them up for itself, which saves a third barrier and a broadcast.
__device__ __forceinline__ float block_sum(float v, float *shared) {
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0.f);
}

// Of two at once. `shared`: 32 pairs.
__device__ __forceinline__ float2 block_sum(float2 v, float2 *shared) {
    v = {warp_sum(v.x), warp_sum(v.y)};
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    float2 own = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : float2{0.f, 0.f};
    return {warp_sum(own.x), warp_sum(own.y)};
}

__device__ __forceinline__ float block_max(float v, float *shared) {
    v = warp_max(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_max(threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : -INFINITY);
}
