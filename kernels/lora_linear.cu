// What a product of many tokens needs to take an adapter along (src/cuda/launch/gemm/lora_linear.rs): columns of xa
// beside x, and B beside the decoded weight, or A below it. One launch does both, since each takes less than a launch:
// blockIdx.y says which. All are moved 8 elements at a time.
#include "params.h"
#include "types.cuh"

constexpr unsigned THREADS = LORA_LINEAR_THREADS;

template <class T> __device__ __forceinline__ void zero8(T *to) {
#pragma unroll
    for (int i = 0; i < 8; i += VEC<T>) store_pack(to + i, Pack<T>{});
}

// out [rows, cols]: the columns that x has, then zeros.
template <class T> __device__ __forceinline__ void copy_xa(const LoraLinearCopyParams &p) {
    unsigned per_row = p.cols / 8;
    size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x, row = i / per_row;
    if (row >= p.rows) return;
    unsigned col = i % per_row * 8;
    T *to = row_of<T>(p.out, row) + col;
    if (col >= p.used) return zero8(to);
    const T *from = row_of<T>(p.x, row) + col;
#pragma unroll
    for (int j = 0; j < 8; j += VEC<T>) store_pack(to + j, load_pack(from + j));
}

// out [rows, cols]: rows of scale * B where a factor has this row and these columns; else zeros.
template <class T> __device__ __forceinline__ void beside(const LoraLinearFactorsParams &p) {
    unsigned per_row = p.cols / 8, i = blockIdx.x * THREADS + threadIdx.x, row = i / per_row;
    if (row >= p.rows) return;
    T *to = row_of<T>(p.out, row) + i % per_row * 8;
    zero8(to);
    for (unsigned f = 0; f < p.count; f++) {
        const LoraLinearFactor &factor = p.factors[f];
        unsigned own = row + p.first_row - factor.row;
        if (own >= factor.rows) continue;
        const T *from = static_cast<const T *>(factor.ptr) + size_t(own) * factor.r;
        for (unsigned j = 0; j < 8; j++) {
            unsigned col = i % per_row * 8 + j - factor.col;
            if (col < factor.r) to[j] = from_f32<T>(factor.scale * to_f32(from[col]));
        }
    }
}

// out [rows, cols]: row i is row i - col of the A that has it, else zeros.
template <class T> __device__ __forceinline__ void below(const LoraLinearFactorsParams &p) {
    unsigned per_row = p.cols / 8, i = blockIdx.x * THREADS + threadIdx.x, row = i / per_row, col = i % per_row * 8;
    if (row >= p.rows) return;
    T *to = row_of<T>(p.out, row) + col;
    zero8(to);
    for (unsigned f = 0; f < p.count; f++) {
        const LoraLinearFactor &factor = p.factors[f];
        unsigned own = row - factor.col;
        if (own >= factor.r) continue;
        const T *from = static_cast<const T *>(factor.ptr) + size_t(own) * p.cols + col;
#pragma unroll
        for (int j = 0; j < 8; j += VEC<T>) store_pack(to + j, load_pack(from + j));
    }
}

#define OPERANDS(name, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        lora_linear_##name##_##T(const __grid_constant__ LoraLinearParams p) {                                         \
        begin_kernel();                                                                                                \
        if (blockIdx.y == 0)                                                                                           \
            copy_xa<T>(p.xa);                                                                                          \
        else                                                                                                           \
            name<T>(p.factors);                                                                                        \
    }
OPERANDS(beside, bf16)
OPERANDS(beside, f16)
OPERANDS(below, bf16)
OPERANDS(below, f16)
