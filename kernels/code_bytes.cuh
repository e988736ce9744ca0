#pragma once
#include "skinny4.cuh"

// The codes' values, decoded by byte permutations, since a table in memory would first have to be fetched: four low
// bytes in each word of `low`, high bytes in `high`.
template <class T> struct CodeBytes {
    uint32_t low[4], high[4];

    __device__ __forceinline__ explicit CodeBytes(unsigned fp4) {
        float gain = table_gain<T>(fp4);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t bits[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                T value = from_f32<T>(gain * code_value(fp4, 4 * i + j));
                bits[j] = reinterpret_cast<const uint16_t &>(value);
            }
            uint32_t first = bits[0] | bits[1] << 16, second = bits[2] | bits[3] << 16;
            low[i] = __byte_perm(first, second, 0x6420), high[i] = __byte_perm(first, second, 0x7531);
        }
    }
    // A byte of codes as a pair. A permutation looks three bits of a code up; the fourth picks one of two look-ups.
    __device__ __forceinline__ uint32_t pair(uint32_t byte) const {
        uint32_t at = byte & 0x77, half = byte >> 1 & 0x44 | 0x10;
        uint32_t l = __byte_perm(__byte_perm(low[0], low[1], at), __byte_perm(low[2], low[3], at), half);
        uint32_t h = __byte_perm(__byte_perm(high[0], high[1], at), __byte_perm(high[2], high[3], at), half);
        return __byte_perm(l, h, 0x4051);
    }
};
