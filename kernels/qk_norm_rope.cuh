#pragma once
// The norm of a head and its rotation by position, by D / 2 / VEC lanes. A lane holds one pack of the first half of the
// head and the pack that it is rotated with, so that a rotation needs no other lane and the sum of squares log2(LANES)
// shuffles.
#include "int8.cuh"

// N elements of S as f32.
template <class S, int N> __device__ __forceinline__ void load(float (&out)[N], const S *p, bool packed) {
    if (packed) {
#pragma unroll
        for (int i = 0; i < N; i += VEC<S>) {
            Pack<S> pack = load_pack(p + i);
#pragma unroll
            for (int j = 0; j < VEC<S>; j++) out[i + j] = to_f32(pack.v[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = to_f32(p[i]);
    }
}
template <class T> __device__ __forceinline__ void store(T *p, const float (&v)[VEC<T>], bool packed) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < VEC<T>; i++) pack.v[i] = from_f32<T>(v[i]);
    if (packed) return store_pack(p, pack);
#pragma unroll
    for (int i = 0; i < VEC<T>; i++) p[i] = pack.v[i];
}

// A lane's columns of a row of D elements: `low` and `low` + D / 2, VEC each. In f32.
template <class T, int D> struct Half {
    static constexpr unsigned LANES = D / 2 / VEC<T>;
    float low[VEC<T>], high[VEC<T>];

    template <class S> __device__ __forceinline__ void load_row(const S *row, unsigned at, bool packed) {
        load(low, row + at, packed);
        load(high, row + at + D / 2, packed);
    }
    // Rounded to S, which is T or another type of its size.
    template <class S> __device__ __forceinline__ void store_row(S *row, unsigned at, bool packed) const {
        store(row + at, low, packed);
        store(row + at + D / 2, high, packed);
    }
    __device__ __forceinline__ void store_codes(int8_t *row, unsigned at, const Int8Scale &by, bool packed) const {
        by.store(row + at, low, packed);
        by.store(row + at + D / 2, high, packed);
    }
    // To T.
    __device__ __forceinline__ void round() {
#pragma unroll
        for (int i = 0; i < VEC<T>; i++) low[i] = to_f32(from_f32<T>(low[i])), high[i] = to_f32(from_f32<T>(high[i]));
    }
    // The largest magnitude of the whole head.
    __device__ __forceinline__ unsigned largest() const {
        unsigned most = 0;
#pragma unroll
        for (int i = 0; i < VEC<T>; i++) most = max(most, max(magnitude(low[i]), magnitude(high[i])));
#pragma unroll
        for (int o = LANES / 2; o > 0; o >>= 1) most = max(most, __shfl_xor_sync(~0u, most, o));
        return most;
    }
    // Sum of the products with `other` over the whole head.
    __device__ __forceinline__ float dot(const Half &other) const {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < VEC<T>; i++) sum += low[i] * other.low[i] + high[i] * other.high[i];
#pragma unroll
        for (int o = LANES / 2; o > 0; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        return sum;
    }
    __device__ __forceinline__ float inverse_rms(float eps) const { return 1.f / sqrtf(dot(*this) / D + eps); }
};

// The weight of a head's norm, and the rotation at a position.
template <class T, int D> struct Factors {
    Half<T, D> weight;
    float cos[VEC<T>], sin[VEC<T>];

    __device__ __forceinline__ void load_weight(const float *from, unsigned at, bool packed) {
        weight.load_row(from, at, packed);
    }
    // Of a params struct with the tables; positions beyond them take the last row.
    template <class P>
    __device__ __forceinline__ void load_angles(const P &p, unsigned position, unsigned at, bool packed) {
        size_t row = size_t(min(position, p.max_positions - 1)) * (D / 2) + at;
        load(cos, p.cos + row, packed);
        load(sin, p.sin + row, packed);
    }
    // `scale`: of the norm.
    __device__ __forceinline__ void rotate(Half<T, D> &h, float scale) const {
#pragma unroll
        for (int i = 0; i < VEC<T>; i++) {
            float low = h.low[i] * scale * weight.low[i], high = h.high[i] * scale * weight.high[i];
            h.low[i] = low * cos[i] - high * sin[i];
            h.high[i] = high * cos[i] + low * sin[i];
        }
    }
};
