#pragma once
// Philox-4x32-10 (Salmon et al., SC 2011); src/rng.rs computes the same on the host.
#include <cstdint>

__device__ __forceinline__ uint4 philox(uint4 c, uint64_t key) {
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#pragma unroll
    for (int i = 0; i < 10; i++) {
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

    // Keep-words of columns 4 * quad .. 4 * quad + 3 of `row`.
    __device__ __forceinline__ uint4 words(uint32_t row, uint32_t quad) const {
        return philox(make_uint4(quad, row, uint32_t(stream), uint32_t(stream >> 32)), seed);
    }
    __device__ __forceinline__ float apply(float v, uint32_t word) const { return word >= threshold ? v * scale : 0.f; }
};
