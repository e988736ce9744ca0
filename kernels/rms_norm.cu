// RMSNorm with an optional residual addition, and its gradient. One CTA for each row, of 128 threads where rows are many
// and of 256 where they are few: these have a row of 4096 or 8192 bf16 in registers, four packs each, between the sum of
// squares and the result, so that it is read once; the only barriers are those of the sum. The bound is the memory; of a few rows it is the time that a load takes, so those have
// the weight's in flight with the row's. The gradient needs both sums before it can write and reads its row again, from
// L1 or L2.
#include "params.h"
#include "reduce.cuh"
#include "types.cuh"

// Packs of a row that a thread keeps in registers between the two passes; longer rows are read again.
constexpr int KEPT = 4;
// The same of the gradient, which has three rows to keep: one of 4096 in 16 bits.
constexpr unsigned GRAD_KEPT = RMS_NORM_GRAD_KEPT;

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
        for (int s = 0; s < KEPT; s++, k += blockDim.x * VEC<T>) {
            unsigned i = k + threadIdx.x * VEC<T>;
            if (i >= p.d) continue;
            if (FEW) weights[s].load(p.weight + i);
            kept[s] = row.load(i, true);
        }
        k = 0;
#pragma unroll
        for (int s = 0; s < KEPT; s++, k += blockDim.x * VEC<T>) {
            if (k + threadIdx.x * VEC<T> >= p.d) continue;
#pragma unroll
            for (int j = 0; j < VEC<T>; j++) squares += to_f32(kept[s].v[j]) * to_f32(kept[s].v[j]);
        }
        for (unsigned i = k + threadIdx.x * VEC<T>; i < p.d; i += blockDim.x * VEC<T>) {
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
        for (int s = 0; s < KEPT; s++, k += blockDim.x * VEC<T>) {
            unsigned i = k + threadIdx.x * VEC<T>;
            if (i >= p.d) continue;
            if (!FEW) weights[s].load(p.weight + i);
            write(i, kept[s], weights[s]);
        }
        for (unsigned i = k + threadIdx.x * VEC<T>; i < p.d; i += blockDim.x * VEC<T>) {
            weights[0].load(p.weight + i);
            write(i, row.load(i, false), weights[0]);
        }
    } else {
        for (unsigned i = threadIdx.x; i < p.d; i += blockDim.x) {
            float h = row.load_one(i, true);
            squares += h * h;
        }
        float scale = 1.f / sqrtf(block_sum(squares, shared) / p.d + p.eps);
        for (unsigned i = threadIdx.x; i < p.d; i += blockDim.x)
            out[i] = from_f32<T>(row.load_one(i, false) * scale * p.weight[i]);
    }
}
template <class T> __device__ void rms_norm(const RmsNormParams &p) { norm<T, false>(p); }
template <class T> __device__ void rms_norm_few(const RmsNormParams &p) { norm<T, true>(p); }
INSTANTIATE(rms_norm, RmsNormParams)
INSTANTIATE(rms_norm_few, RmsNormParams)

// d_x (+)= scale (g - h mean), with g = d_out weight; out = h scale weight, where it is wanted.
template <class T> struct NormGrad {
    const T *x, *d_out;
    T *d_x, *out;
    const float *weight;
    bool accumulate;
    float scale, mean;

    // What a thread has of a row between the sums and the result.
    struct Kept {
        Pack<T> h, g, d;
    };
    __device__ __forceinline__ Kept load(unsigned i) const {
        Kept kept{load_pack(x + i), load_pack(d_out + i), {}};
        if (accumulate) kept.d = load_pack(d_x + i);
        return kept;
    }
    __device__ __forceinline__ void add(const Kept &kept, unsigned i, float2 &sums) const {
        Weights<T> w;
        w.load(weight + i);
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) {
            float h = to_f32(kept.h.v[j]), g = to_f32(kept.g.v[j]) * w.v[j];
            sums.x += h * h;
            sums.y += h * g;
        }
    }
    __device__ __forceinline__ float grad(float h, float g) const { return scale * (g - h * mean); }
    __device__ __forceinline__ float normed(float h, float weight) const { return h * scale * weight; }
    __device__ __forceinline__ void store(Kept kept, unsigned i) const {
        Weights<T> w;
        w.load(weight + i);
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) {
            float d = accumulate ? to_f32(kept.d.v[j]) : 0.f, h = to_f32(kept.h.v[j]);
            kept.d.v[j] = from_f32<T>(d + grad(h, to_f32(kept.g.v[j]) * w.v[j]));
            kept.h.v[j] = from_f32<T>(normed(h, w.v[j]));
        }
        store_pack(d_x + i, kept.d);
        if (out) store_pack(out + i, kept.h);
    }
    // Of the squares, and of the products.
    __device__ __forceinline__ void take(float2 sums, const RmsNormGradParams &p) {
        __shared__ float2 shared[32];
        sums = block_sum(sums, shared);
        scale = 1.f / sqrtf(sums.x / p.d + p.eps), mean = sums.y / p.d * scale * scale;
    }
};

template <class T> __device__ void rms_norm_grad(const RmsNormGradParams &p) {
    size_t r = blockIdx.x;
    NormGrad<T> row{row_of<T>(p.x, r), row_of<T>(p.d_out, r), row_of<T>(p.d_x, r),
                    p.out.ptr ? row_of<T>(p.out, r) : nullptr, p.weight, p.accumulate != 0};
    float2 sums = {0.f, 0.f};
    bool packed = aligned16(row.x, 0) && aligned16(row.d_out, 0) && aligned16(row.d_x, 0) && aligned16(row.out, 0) &&
                  aligned16(p.weight, 0) && p.d % VEC<T> == 0;
    if (packed) {
        typename NormGrad<T>::Kept kept[GRAD_KEPT];
        const unsigned STEP = blockDim.x * VEC<T>;
        unsigned first = threadIdx.x * VEC<T>;
#pragma unroll
        for (unsigned s = 0; s < GRAD_KEPT; s++)
            if (first + s * STEP < p.d) kept[s] = row.load(first + s * STEP);
#pragma unroll
        for (unsigned s = 0; s < GRAD_KEPT; s++)
            if (first + s * STEP < p.d) row.add(kept[s], first + s * STEP, sums);
        for (unsigned i = first + GRAD_KEPT * STEP; i < p.d; i += STEP) row.add(row.load(i), i, sums);
        row.take(sums, p);
#pragma unroll
        for (unsigned s = 0; s < GRAD_KEPT; s++)
            if (first + s * STEP < p.d) row.store(kept[s], first + s * STEP);
        for (unsigned i = first + GRAD_KEPT * STEP; i < p.d; i += STEP) row.store(row.load(i), i);
        return;
    }
    for (unsigned i = threadIdx.x; i < p.d; i += blockDim.x) {
        float h = to_f32(row.x[i]), g = to_f32(row.d_out[i]) * p.weight[i];
        sums.x += h * h;
        sums.y += h * g;
    }
    row.take(sums, p);
    for (unsigned i = threadIdx.x; i < p.d; i += blockDim.x) {
        float h = to_f32(row.x[i]), d = row.grad(h, to_f32(row.d_out[i]) * p.weight[i]);
        row.d_x[i] = from_f32<T>(p.accumulate ? to_f32(row.d_x[i]) + d : d);
        if (row.out) row.out[i] = from_f32<T>(row.normed(h, p.weight[i]));
    }
}
INSTANTIATE(rms_norm_grad, RmsNormGradParams)
