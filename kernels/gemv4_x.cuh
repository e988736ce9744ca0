#pragma once
// Each lane's share of x, as it is or normalised, for gemv4.cuh, whose layout of operand B this follows.
#include "gemv4_cta.cuh"

#if GEMV4
template <class T, unsigned TOKENS> struct XShare {
    const Matrix &x_rows;
    unsigned cols;

    __device__ __forceinline__ explicit XShare(const Linear4Params &p) : x_rows(p.x), cols(p.weight.cols) {}

    // Where this lane's share of x begins, from column `col` on: 32 of token g % 2 in block g / 2. Half of the lanes
    // have none.
    __device__ __forceinline__ bool has(unsigned col) const {
        unsigned token = threadIdx.x / 4 % 2, block = threadIdx.x / 8 % 4, t = threadIdx.x % 4;
        return token < TOKENS && t / 2 == block % 2 && col < cols;
    }
    __device__ __forceinline__ unsigned column(unsigned col) const {
        return col + threadIdx.x / 8 % 4 * 64 + threadIdx.x % 2 * 32;
    }
    __device__ __forceinline__ void load(unsigned col, uint4 (&x)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = make_uint4(0, 0, 0, 0);
        if (!has(col)) return;
        const T *from = row_of<T>(x_rows, threadIdx.x / 4 % 2) + column(col);
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = reinterpret_cast<const uint4 *>(from)[i];
    }

    // What `load` will want, 64 bytes.
    __device__ __forceinline__ void touch(unsigned col) const {
        if (!has(col)) return;
        const T *from = row_of<T>(x_rows, threadIdx.x / 4 % 2) + column(col);
        ::touch(from), ::touch(from + 16);
    }

    // A thread normalises 8 columns. Their weights:
    __device__ __forceinline__ void load_norm(const NormLinear4Params &p, float (&weights)[8]) const {
        if (threadIdx.x * 8 >= cols) return;
        const float4 *from = reinterpret_cast<const float4 *>(p.norm + threadIdx.x * 8);
        reinterpret_cast<float4 &>(weights[0]) = from[0], reinterpret_cast<float4 &>(weights[4]) = from[1];
    }
    // rms_norm(x), as rms_norm.cu rounds it, and of that this lane's share. The first CTA stores it. One token after
    // the other goes through `place` in shared memory, which may then be used again; there it is shown to `seen`.
    template <class Seen>
    __device__ __forceinline__ void normalise(const NormLinear4Params &p, const float (&weights)[8], float *place,
                                              unsigned col, uint4 (&x)[4], Seen seen) const {
        __shared__ alignas(16) float squares[GEMV4_WARPS];
        static_assert(sizeof squares + 2 * GEMV4_STAGES * sizeof(Barrier) <= NORM_LINEAR4_GEMV_STATIC_BYTES);
        static_assert(NORM_LINEAR4_GEMV_MAX_COLS <= GEMV4_WARPS * 32 * 8);
        static_assert(NORM_LINEAR4_GEMV_MAX_COLS * sizeof(T) <= GEMV4_SUMS_BYTES);
        unsigned at = threadIdx.x * 8;
        bool some = at < cols;
        T *normed = reinterpret_cast<T *>(place);
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (unsigned token = 0; token < TOKENS; token++) {
            Pack<T> pack = {};
            if (some) pack = load_pack(row_of<T>(x_rows, token) + at);
            float sum = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) sum += to_f32(pack.v[i]) * to_f32(pack.v[i]);
#pragma unroll
            for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
            if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = sum;
            sync_multipliers(); // nobody reads the last token any longer, and the sums of squares are there
            sum = 0;
#pragma unroll
            for (unsigned i = 0; i < GEMV4_WARPS; i += 4) {
                float4 four = reinterpret_cast<const float4 *>(squares)[i / 4];
                sum += (four.x + four.y) + (four.z + four.w);
            }
            float scale = 1.f / sqrtf(sum / cols + p.eps);
#pragma unroll
            for (int i = 0; i < 8; i++) pack.v[i] = from_f32<T>(to_f32(pack.v[i]) * scale * weights[i]);
            if (some) store_pack(normed + at, pack);
            if (some && blockIdx.x == 0) store_pack(row_of<T>(p.normed, token) + at, pack);
            sync_multipliers(); // all of x is there
            seen(token, normed);
            if (threadIdx.x / 4 % 2 == token && has(col)) {
#pragma unroll
                for (int i = 0; i < 4; i++) x[i] = reinterpret_cast<const uint4 *>(normed + column(col))[i];
            }
        }
        sync_multipliers();
    }
};

#endif
