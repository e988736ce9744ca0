// RMSNorm with an optional residual addition, and its gradient. One CTA for each row: 256 threads have a row of 8192
// bf16 in registers, four packs each, between the sum of squares and the result, so that it is read once; the only
// barriers are those of the sum. The bound is the memory; of a few rows it is the time that a load takes, so those have
// the weight's in flight with the row's. The gradient needs both sums before it can write and reads its row again, from
// L1 or L2.
#include "params.h"
#include "reduce.cuh"
#include "types.cuh"

constexpr int THREADS = RMS_NORM_THREADS;
// Packs of a row that a thread keeps in registers between the two passes; longer rows are read again.
constexpr int KEPT = 4;

template <class T> struct Row {
    const T *x, *add;
    T *sum;

    // h = x (+ add), rounded to T, stored on the first pass.
    __device__ __forceinline__ Pack<T> load(unsigned i, bool first) const {
        if (!add) return load_pack(x + i);
        if (!first) return load_pack(sum + i);
        Pack<T> a = load_pack(x + i), b = load_pack(add + i);
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) a.v[j] = from_f32<T>(to_f32(a.v[j]) + to_f32(b.v[j]));
        store_pack(sum + i, a);
        return a;
    }
    __device__ __forceinline__ float load_one(unsigned i, bool first) const {
        if (!add) return to_f32(x[i]);
        if (!first) return to_f32(sum[i]);
        T h = from_f32<T>(to_f32(x[i]) + to_f32(add[i]));
        sum[i] = h;
        return to_f32(h);
    }
};

// A pack's worth of the weight.
template <class T> struct alignas(16) Weights {
    float v[VEC<T>];

    __device__ __forceinline__ void load(const float *from) {
#pragma unroll
        for (int j = 0; j < VEC<T>; j += 4)
            *reinterpret_cast<float4 *>(v + j) = *reinterpret_cast<const float4 *>(from + j);
    }
};

// FEW: rows, no more than multiprocessors, so that registers do not matter.
template <class T, bool FEW> __device__ void norm(const RmsNormParams &p) {
    __shared__ float shared[32];
    size_t r = blockIdx.x;
    Row<T> row{row_of<T>(p.x, r), p.add.ptr ? row_of<T>(p.add, r) : nullptr,
               p.sum.ptr ? row_of<T>(p.sum, r) : nullptr};
    T *out = row_of<T>(p.out, r);
    bool packed = aligned16(row.x, 0) && aligned16(row.add, 0) && aligned16(row.sum, 0) && aligned16(out, 0) &&
                  aligned16(p.weight, 0) && p.d % VEC<T> == 0;
    float squares = 0;
    if (packed) {
        Pack<T> kept[KEPT];
        Weights<T> weights[KEPT];
        unsigned k = 0;
#pragma unroll
        for (int s = 0; s < KEPT; s++, k += THREADS * VEC<T>) {
            unsigned i = k + threadIdx.x * VEC<T>;
            if (i >= p.d) continue;
            if (FEW) weights[s].load(p.weight + i);
            kept[s] = row.load(i, true);
        }
        k = 0;
#pragma unroll
        for (int s = 0; s < KEPT; s++, k += THREADS * VEC<T>) {
            if (k + threadIdx.x * VEC<T> >= p.d) continue;
#pragma unroll
            for (int j = 0; j < VEC<T>; j++) squares += to_f32(kept[s].v[j]) * to_f32(kept[s].v[j]);
        }
        for (unsigned i = k + threadIdx.x * VEC<T>; i < p.d; i += THREADS * VEC<T>) {
            Pack<T> h = row.load(i, true);
#pragma unroll
            for (int j = 0; j < VEC<T>; j++) squares += to_f32(h.v[j]) * to_f32(h.v[j]);
        }
        float scale = 1.f / sqrtf(block_sum(squares, shared) / p.d + p.eps);
        auto write = [&](unsigned i, Pack<T> h, const Weights<T> &weight) {
#pragma unroll
            for (int j = 0; j < VEC<T>; j++) h.v[j] = from_f32<T>(to_f32(h.v[j]) * scale * weight.v[j]);
            store_pack(out + i, h);
        };
        k = 0;
#pragma unroll
        for (int s = 0; s < KEPT; s++, k += THREADS * VEC<T>) {
            unsigned i = k + threadIdx.x * VEC<T>;
            if (i >= p.d) continue;
            if (!FEW) weights[s].load(p.weight + i);
            write(i, kept[s], weights[s]);
        }
        for (unsigned i = k + threadIdx.x * VEC<T>; i < p.d; i += THREADS * VEC<T>) {
            weights[0].load(p.weight + i);
            write(i, row.load(i, false), weights[0]);
        }
    } else {
        for (unsigned i = threadIdx.x; i < p.d; i += THREADS) {
            float h = row.load_one(i, true);
            squares += h * h;
        }
        float scale = 1.f / sqrtf(block_sum(squares, shared) / p.d + p.eps);
        for (unsigned i = threadIdx.x; i < p.d; i += THREADS)
            out[i] = from_f32<T>(row.load_one(i, false) * scale * p.weight[i]);
    }
}
template <class T> __device__ void rms_norm(const RmsNormParams &p) { norm<T, false>(p); }
template <class T> __device__ void rms_norm_few(const RmsNormParams &p) { norm<T, true>(p); }
INSTANTIATE(rms_norm, RmsNormParams)
INSTANTIATE(rms_norm_few, RmsNormParams)

template <class T> __device__ void rms_norm_grad(const RmsNormGradParams &p) {
    __shared__ float shared[32];
    size_t r = blockIdx.x;
    const T *x = row_of<T>(p.x, r);
    const T *d_out = row_of<T>(p.d_out, r);
    T *d_x = row_of<T>(p.d_x, r);
    bool packed = aligned16(x, 0) && aligned16(d_out, 0) && aligned16(d_x, 0) && p.d % VEC<T> == 0;
    float squares = 0, dot = 0;
    auto add = [&](float h, float g) {
        squares += h * h;
        dot += h * g;
    };
    if (packed) {
        for (unsigned i = threadIdx.x * VEC<T>; i < p.d; i += THREADS * VEC<T>) {
            Pack<T> h = load_pack(x + i), g = load_pack(d_out + i);
#pragma unroll
            for (int j = 0; j < VEC<T>; j++) add(to_f32(h.v[j]), to_f32(g.v[j]) * p.weight[i + j]);
        }
    } else {
        for (unsigned i = threadIdx.x; i < p.d; i += THREADS) add(to_f32(x[i]), to_f32(d_out[i]) * p.weight[i]);
    }
    float scale = 1.f / sqrtf(block_sum(squares, shared) / p.d + p.eps);
    float mean = block_sum(dot, shared) / p.d * scale * scale;
    auto grad = [&](float h, float g) { return scale * (g - h * mean); };
    if (packed) {
        for (unsigned i = threadIdx.x * VEC<T>; i < p.d; i += THREADS * VEC<T>) {
            Pack<T> h = load_pack(x + i), g = load_pack(d_out + i), d = {};
            if (p.accumulate) d = load_pack(d_x + i);
#pragma unroll
            for (int j = 0; j < VEC<T>; j++)
                d.v[j] = from_f32<T>((p.accumulate ? to_f32(d.v[j]) : 0.f) +
                                     grad(to_f32(h.v[j]), to_f32(g.v[j]) * p.weight[i + j]));
            store_pack(d_x + i, d);
        }
    } else {
        for (unsigned i = threadIdx.x; i < p.d; i += THREADS) {
            float d = grad(to_f32(x[i]), to_f32(d_out[i]) * p.weight[i]);
            d_x[i] = from_f32<T>(p.accumulate ? to_f32(d_x[i]) + d : d);
        }
    }
}
INSTANTIATE(rms_norm_grad, RmsNormGradParams)
