#pragma once
// What bounds an output of which an input and a row of the weight are known in whole numbers: src/ops/screen.rs.
#include "params.h"
#include "types.cuh"

// Of f32 sums, as a share of what they sum: 1 / 2 ^ 23 for each term.
constexpr float SUM_ERROR = 0x1p-23f;
// Norms that multiply to less have no sum on the way that f32 cannot hold.
constexpr float SUMS_FIT = 1e38f;

// x of a token, rounded to multiples of a unit: that, its norm, and the norm of what rounding misses.
struct Rounded {
    float unit, norm, missed;
};

// What an output cannot be below and above; `sum`: of codes of its row times whole numbers of x.
__device__ __forceinline__ float2 output_bounds(const LinearMaxParams &p, const Rounded &x, unsigned row, int sum) {
    float scale = row_of<float>(p.bounds, 0)[row], error = row_of<float>(p.bounds, 1)[row];
    float norm = row_of<float>(p.bounds, 2)[row];
    float near = scale * x.unit * float(sum);
    // The norms are sums themselves, and so are rounded.
    float far = 1.001f * (x.norm * error + x.missed * norm) + fabsf(near) * 0x1p-21f + 0x1p-126f;
    bool fits = x.norm * (norm + error) < SUMS_FIT;
    return {fits ? near - far : -INFINITY, fits ? near + far : INFINITY};
}
