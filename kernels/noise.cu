// Uniform noise, added in place. Eight columns of one row for each thread: two blocks of Philox, whose arithmetic hides
// behind the loads. The bound is the memory.
#include "params.h"
#include "philox.cuh"
#include "vec8.cuh"

template <class T> __device__ void noise(const NoiseParams &p) {
    Place at(p.d);
    if (at.col >= p.d) return;
    unsigned left = p.d - at.col;
    T *x = row_of<T>(p.x, at.row) + at.col;
    bool packed = aligned16(x, 0);
    Vec8 v = load8(x, left, packed);
#pragma unroll
    for (unsigned j = 0; j < 8; j += 4) {
        uint4 counter = make_uint4((at.col + j) / 4, uint32_t(at.row), uint32_t(p.stream), uint32_t(p.stream >> 32));
        uint4 words = philox(counter, p.seed);
        v.v[j] += p.bound * (2.f * uniform(words.x) - 1.f);
        v.v[j + 1] += p.bound * (2.f * uniform(words.y) - 1.f);
        v.v[j + 2] += p.bound * (2.f * uniform(words.z) - 1.f);
        v.v[j + 3] += p.bound * (2.f * uniform(words.w) - 1.f);
    }
    store8(x, v, left, packed);
}
INSTANTIATE(noise, NoiseParams)
