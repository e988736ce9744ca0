// Sum and Euclidean norm of a flat vector, in two kernels: one f64 for each CTA, then one CTA over those. The order
// depends only on the length. f64 because the squares of gradients scaled for f16 leave the range of f32. The launch
// sets the number of CTAs by the length, not by the GPU, and threads by a constant, so that the same vector has the
// same sum everywhere. The bound is the memory.
#include "params.h"
#include "vec8.cuh"

constexpr unsigned THREADS = REDUCE_THREADS;

__device__ __forceinline__ double block_sum(double v) {
    __shared__ double shared[THREADS / 32];
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads(); // called once in a kernel: nothing read `shared` before
    double total = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) total += shared[i];
    return total;
}

template <bool SQUARES> __device__ __forceinline__ void sum_parts(const ReduceParams &p) {
    bool packed = aligned16(p.x, 0);
    double sum = 0;
    for (size_t i = (size_t(blockIdx.x) * THREADS + threadIdx.x) * 8; i < p.len; i += size_t(p.blocks) * THREADS * 8) {
        Vec8 x = load8(p.x + i, p.len - i, packed);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += SQUARES ? double(x.v[j]) * double(x.v[j]) : double(x.v[j]);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
}

__device__ __forceinline__ double sum_partial(const ReduceParams &p) {
    double sum = 0;
    for (unsigned i = threadIdx.x; i < p.blocks; i += THREADS) sum += p.partial[i];
    return block_sum(sum);
}

extern "C" __global__ void sum_parts(const __grid_constant__ ReduceParams p) {
    begin_kernel();
    sum_parts<false>(p);
}
extern "C" __global__ void norm_parts(const __grid_constant__ ReduceParams p) {
    begin_kernel();
    sum_parts<true>(p);
}

extern "C" __global__ void sum_total(const __grid_constant__ ReduceParams p) {
    begin_kernel();
    double total = sum_partial(p);
    if (threadIdx.x == 0) *p.out = p.accumulate ? *p.out + float(total) : float(total);
}

extern "C" __global__ void norm_total(const __grid_constant__ ReduceParams p) {
    begin_kernel();
    double total = sum_partial(p);
    if (threadIdx.x == 0) *p.out = float(sqrt(total));
}
