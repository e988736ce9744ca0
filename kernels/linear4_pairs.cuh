#pragma once
// Bytes of codes as pairs of T, looked up in shared memory and scaled in registers: for the products by wgmma.
#include "quant.cuh"
#include <type_traits>

extern __shared__ __align__(1024) char shared[];

constexpr int PAIR_PITCH = 256; // bytes from entry to entry of the table

// The table holds codes times this. FP4 becomes exact, and the root mean square error of NF4 in bf16 falls from 5.5e-4
// to 3.2e-4. Near 1, so that scales divided by it are no further from the ends of f16 than the weights are.
template <class T> __device__ __forceinline__ float pair_gain(unsigned fp4) {
    if (fp4) return 0.75f;
    return std::is_same_v<T, bf16> ? 1.437005f : 1.f;
}

// The pair of codes of each byte, one copy for each lane of a warp. A thread makes half of an entry at a time.
template <class T, int THREADS> __device__ __forceinline__ void fill_pairs(unsigned fp4) {
    struct alignas(16) Copies {
        T v[8];
    };
    float gain = pair_gain<T>(fp4);
    for (unsigned i = threadIdx.x; i < 256 * 2; i += THREADS) {
        unsigned byte = i / 2;
        T a = from_f32<T>(gain * code_value(fp4, byte >> 4)), b = from_f32<T>(gain * code_value(fp4, byte & 15));
        char *to = shared + byte * PAIR_PITCH + i % 2 * 64;
#pragma unroll
        for (unsigned j = 0; j < 4; j++) // not all entries into the same banks
            *reinterpret_cast<Copies *>(to + (byte + j) % 4 * 16) = {a, b, a, b, a, b, a, b};
    }
}

template <class T> struct Two;
template <> struct Two<bf16> { using type = __nv_bfloat162; };
template <> struct Two<f16> { using type = __half2; };

// A scale as the sum of two T, which has twice the digits of one: a weight is rounded once more than it would be by f32
// arithmetic, and only in its last bits, with two instructions for a pair.
template <class T> struct Scale {
    typename Two<T>::type high, low;

    __device__ __forceinline__ explicit Scale(float s) {
        T rounded = from_f32<T>(s), rest = from_f32<T>(s - to_f32(rounded));
        high = {rounded, rounded}, low = {rest, rest};
    }
    __device__ __forceinline__ uint32_t times(uint32_t pair) const {
        auto v = reinterpret_cast<const typename Two<T>::type &>(pair);
        auto product = __hfma2(v, high, __hmul2(v, low));
        return reinterpret_cast<const uint32_t &>(product);
    }
};

