// Rounding from one compute type to another. Eight elements for each thread, so that the wider side moves in whole
// 16-byte pieces, too. The bound is the memory.
#include "params.h"
#include "vec8.cuh"

constexpr unsigned THREADS = ELEMENTWISE_THREADS;

template <class S, class T> __device__ void cast(const CastParams &p) {
    size_t i = (size_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
    if (i >= p.len) return;
    const S *x = static_cast<const S *>(p.x);
    T *out = static_cast<T *>(p.out);
    bool packed = aligned16(x, 0) && aligned16(out, 0);
    store8(out + i, load8(x + i, p.len - i, packed), p.len - i, packed);
}

#define INSTANTIATE_CAST(S, T)                                                                                         \
    extern "C" __global__ void cast_##S##_##T(const __grid_constant__ CastParams p) {                                   \
        begin_kernel();                                                                                                \
        cast<S, T>(p);                                                                                                 \
    }
INSTANTIATE_CAST(bf16, bf16)
INSTANTIATE_CAST(bf16, f16)
INSTANTIATE_CAST(bf16, f32)
INSTANTIATE_CAST(f16, bf16)
INSTANTIATE_CAST(f16, f16)
INSTANTIATE_CAST(f16, f32)
INSTANTIATE_CAST(f32, bf16)
INSTANTIATE_CAST(f32, f16)
INSTANTIATE_CAST(f32, f32)
