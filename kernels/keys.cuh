#pragma once
// Floats as numbers without a sign, for what compares or bisects them.

// Orders as floats do; -0 is 0.
__device__ __forceinline__ unsigned key_of(float v) {
    unsigned bits = __float_as_uint(v + 0.f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_key(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
