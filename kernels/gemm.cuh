#pragma once
// What the kernels of linear.cu and linear4.cu share. All compute out (+)= x B, x [n, k], out [n, m]. The weight W
// is row-major [rows, cols]; forward B = W^T (m = rows, k = cols), in the gradient B = W (m = cols, k = rows).
// Where there are fewer tiles than multiprocessors, several CTAs share the contraction of one; each leaves its sums in
// `partial`, and linear_sum adds them in order: no atomics, and the same bits every time.
#include "params.h"
#include "types.cuh"

// x and out of one product. `partial`: [splits, n, m] in f32 when several CTAs share an output tile.
template <class T, class O> struct Gemm {
    Matrix x;
    MatrixMut out;
    float *partial;
    unsigned n, m, k;
    unsigned accumulate, splits;

    // The sum of one output over this CTA's part of k.
    __device__ __forceinline__ void store(unsigned token, unsigned j, float sum) const {
        if (token >= n || j >= m) return;
        if (splits > 1) {
            partial[(size_t(blockIdx.y) * n + token) * m + j] = sum;
        } else {
            O *o = row_of<O>(out, token) + j;
            *o = from_f32<O>(accumulate ? to_f32(*o) + sum : sum);
        }
    }
    // May outputs be stored in pairs that begin at an even j?
    __device__ __forceinline__ bool pairs() const {
        return m % 2 == 0 && out.stride % 2 == 0 && reinterpret_cast<uintptr_t>(out.ptr) % (2 * sizeof(O)) == 0;
    }
    __device__ __forceinline__ void store_pair(unsigned token, unsigned j, float sum0, float sum1) const {
        struct alignas(2 * sizeof(O)) Pair {
            O a, b;
        };
        if (token >= n || j >= m) return;
        if (splits > 1) {
            *reinterpret_cast<float2 *>(partial + (size_t(blockIdx.y) * n + token) * m + j) = make_float2(sum0, sum1);
            return;
        }
        Pair *o = reinterpret_cast<Pair *>(row_of<O>(out, token) + j);
        if (accumulate) {
            Pair old = *o;
            sum0 += to_f32(old.a), sum1 += to_f32(old.b);
        }
        *o = Pair{from_f32<O>(sum0), from_f32<O>(sum1)};
    }
    // This CTA's part of k, in multiples of `step`.
    __device__ __forceinline__ uint2 part(unsigned step) const {
        unsigned steps = (k + step - 1) / step, each = (steps + splits - 1) / splits;
        unsigned first = min(blockIdx.y * each, steps);
        return make_uint2(first * step, min((first + each) * step, k));
    }
};

// A dense weight, whose rows may have gaps between them.
template <class T> struct Dense {
    const T *w;
    unsigned stride, rows, cols;

    __device__ __forceinline__ size_t index(unsigned row, unsigned col) const { return size_t(row) * stride + col; }
    __device__ __forceinline__ float at(size_t i) const { return to_f32(w[i]); }
    // Elements i .. i + 3 of a row.
    __device__ __forceinline__ float4 at4(size_t i) const {
        return make_float4(to_f32(w[i]), to_f32(w[i + 1]), to_f32(w[i + 2]), to_f32(w[i + 3]));
    }
};

// Those of a product with a dense weight.
template <class T, class O> __device__ __forceinline__ Gemm<T, O> gemm_of(const LinearParams &p, bool grad) {
    unsigned m = grad ? p.cols : p.rows, k = grad ? p.rows : p.cols;
    return {p.x, p.out, p.partial, p.n, m, k, p.accumulate, p.splits};
}
template <class T> __device__ __forceinline__ Dense<T> dense_of(const LinearParams &p) {
    return {static_cast<const T *>(p.weight.ptr), p.weight.stride, p.rows, p.cols};
}

// Entry points that call kernel<T, O, ...>: `name_T` stores T, `name_T_f32` stores f32. An EARLY kernel waits itself for
// the one before it.
#define ENTRY(name, suffix, Params, threads, ctas, ...)                                                                \
    extern "C" __global__ void __launch_bounds__(threads, ctas) name##_##suffix(const __grid_constant__ Params p) {    \
        begin_kernel();                                                                                                \
        __VA_ARGS__(p);                                                                                                \
    }
#define EARLY_ENTRY(name, suffix, Params, threads, ctas, ...)                                                          \
    extern "C" __global__ void __launch_bounds__(threads, ctas) name##_##suffix(const __grid_constant__ Params p) {    \
        __VA_ARGS__(p);                                                                                                \
    }
#define EARLY_ENTRIES(name, Params, threads, ctas, kernel, ...)                                                        \
    EARLY_ENTRY(name, bf16, Params, threads, ctas, kernel<bf16, bf16, __VA_ARGS__>)                                    \
    EARLY_ENTRY(name, f16, Params, threads, ctas, kernel<f16, f16, __VA_ARGS__>)
#define EARLY_ENTRIES_F32_OUT(name, Params, threads, ctas, kernel, ...)                                                \
    EARLY_ENTRY(name, bf16_f32, Params, threads, ctas, kernel<bf16, f32, __VA_ARGS__>)                                 \
    EARLY_ENTRY(name, f16_f32, Params, threads, ctas, kernel<f16, f32, __VA_ARGS__>)
#define ENTRIES(name, Params, threads, ctas, kernel, ...)                                                              \
    ENTRY(name, bf16, Params, threads, ctas, kernel<bf16, bf16, __VA_ARGS__>)                                          \
    ENTRY(name, f16, Params, threads, ctas, kernel<f16, f16, __VA_ARGS__>)
#define ENTRIES_F32_OUT(name, Params, threads, ctas, kernel, ...)                                                      \
    ENTRY(name, bf16_f32, Params, threads, ctas, kernel<bf16, f32, __VA_ARGS__>)                                       \
    ENTRY(name, f16_f32, Params, threads, ctas, kernel<f16, f32, __VA_ARGS__>)
#define ENTRY_F32(name, Params, threads, ctas, kernel, ...)                                                            \
    ENTRY(name, f32, Params, threads, ctas, kernel<f32, f32, __VA_ARGS__>)
