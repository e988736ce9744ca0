#pragma once
// Philox-4x32 (Salmon et al., SC 2011); src/rng.rs computes the same on the host.
#include <cstdint>

template <int ROUNDS = 10> __device__ __forceinline__ uint4 philox(uint4 c, uint64_t key) {
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t hi0 = __umulhi(0xD2511F53u, c.x), lo0 = 0xD2511F53u * c.x;
        uint32_t hi1 = __umulhi(0xCD9E8D57u, c.z), lo1 = 0xCD9E8D57u * c.z;
        c = make_uint4(hi1 ^ c.y ^ k0, lo1, hi0 ^ c.w ^ k1, lo0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// [0, 1) with 24 random bits.
__device__ __forceinline__ float uniform(uint32_t word) { return float(word >> 8) * (1.f / 16777216.f); }

// The dropout of ops::Dropout. `threshold` 0 keeps everything.
struct Dropout {
    uint64_t seed, stream;
    uint32_t threshold;
    float scale;

    // Columns 8 * oct .. 8 * oct + 7 of `row`: half e of word j is that of column 2 j + e.
    __device__ __forceinline__ uint4 words(uint32_t row, uint32_t oct) const {
        return philox<7>(make_uint4(oct, row, uint32_t(stream), uint32_t(stream >> 32)), seed);
    }
    // Are the columns of the lower and of the upper half kept? `threshold` is in the upper half.
    __device__ __forceinline__ bool low(uint32_t word) const { return word << 16 >= threshold; }
    __device__ __forceinline__ bool high(uint32_t word) const { return word >= threshold; }
};
