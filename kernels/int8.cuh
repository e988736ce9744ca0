#pragma once
// Heads in 8 bits: signed bytes and what they are multiplied with (ops::KvMut says how both are found).
#include "types.cuh"

// N codes times their scale. `packed`: they are aligned to N bytes.
template <int N>
__device__ __forceinline__ void load_codes(float (&out)[N], const int8_t *codes, float scale, bool packed) {
    struct alignas(N) Codes {
        int8_t v[N];
    } c;
    if (packed) {
        c = *reinterpret_cast<const Codes *>(codes);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) c.v[i] = codes[i];
    }
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = float(c.v[i]) * scale;
}

// The bits of |v| as a number: they are in the order of what they mean, and a NaN is above all.
__device__ __forceinline__ unsigned magnitude(float v) { return __float_as_uint(v) & 0x7fffffff; }

// How a head is put into 8 bits.
struct Int8Scale {
    float scale, inverse;

    __device__ __forceinline__ explicit Int8Scale(unsigned largest_magnitude) {
        float largest = __uint_as_float(largest_magnitude);
        scale = __fdiv_rn(largest, 127.f);
        inverse = largest >= 0x1p-100f ? __fdiv_rn(127.f, largest) : 0.f;
    }
    __device__ __forceinline__ int8_t code(float v) const { return int8_t(__float2int_rn(__fmul_rn(v, inverse))); }
    template <int N> __device__ __forceinline__ void store(int8_t *codes, const float (&v)[N], bool packed) const {
        struct alignas(N) Codes {
            int8_t v[N];
        } c;
#pragma unroll
        for (int i = 0; i < N; i++) c.v[i] = code(v[i]);
        if (packed) {
            *reinterpret_cast<Codes *>(codes) = c;
            return;
        }
#pragma unroll
        for (int i = 0; i < N; i++) codes[i] = c.v[i];
    }
};
