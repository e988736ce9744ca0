// The weight gradient of a dense layer, d_weight += d_out^T x in f32. Each CTA owns a tile of the gradient and adds
// over all tokens in order: nothing is added across CTAs, and the f32 gradient is read and written once.
#include "params.h"
#include "ptx.cuh"

constexpr unsigned THREADS = WEIGHT_GRAD_THREADS;

// ------------------------------------------------------------------------------------------------ tensor cores

// A CTA's tile is TILE x TILE, a warp's 64 x 32 (8 warps, 2 by 4), 64 f32 of sums a thread. Both operands lie in memory
// with tokens as rows, so that a step of DEPTH tokens is copied as it is and transposed on the way into registers. Four
// stages of 16 KiB: three are under way while one is multiplied. With 128 registers and 64 KiB two CTAs share a
// multiprocessor, so that one adds to memory while the other multiplies. The bound is the tensor cores' rate for many
// tokens, the f32 gradient's traffic for few.
constexpr unsigned TILE = WEIGHT_GRAD_MMA_TILE, DEPTH = WEIGHT_GRAD_MMA_TOKENS, STAGES = WEIGHT_GRAD_MMA_STAGES;

template <class T> struct Stage {
    T d_out[DEPTH * TILE], x[DEPTH * TILE];
};

// Rows of 16 chunks of 16 bytes, 256 bytes: without the exclusive or, the same chunk of 8 tokens, which is what
// ldmatrix reads at a time, would lie in the same four banks; with it, in all 32.
__device__ __forceinline__ unsigned swizzled(unsigned token, unsigned col) {
    return token * TILE + ((col / 8 ^ token % 8) * 8 + col % 8);
}

// Starts the copy of tokens token0 .. and columns col0 .. of a matrix; zeros where there is nothing.
template <class T>
__device__ __forceinline__ void copy(T *to, const Matrix &from, unsigned n, unsigned cols, unsigned token0,
                                     unsigned col0) {
#pragma unroll
    for (unsigned i = threadIdx.x; i < DEPTH * TILE / 8; i += THREADS) {
        unsigned token = i / (TILE / 8), col = i % (TILE / 8) * 8;
        bool inside = token0 + token < n && col0 + col < cols;
        const T *at = static_cast<const T *>(from.ptr);
        if (inside) at = row_of<T>(from, token0 + token) + col0 + col;
        cp_async16(shared_address(to + swizzled(token, col)), at, inside ? 16 : 0);
    }
}

template <class T> struct Accumulator {
    float v[4][4][4] = {};

    // Adds the products of one stage. (row0, col0): the warp's place in the tile.
    __device__ __forceinline__ void add(const Stage<T> &stage, unsigned row0, unsigned col0) {
        unsigned lane = threadIdx.x % 32, i = lane / 8, r = lane % 8;
#pragma unroll
        for (unsigned k = 0; k < DEPTH; k += 16) {
            uint32_t a[4][4], b[2][4];
#pragma unroll
            for (unsigned m = 0; m < 4; m++)
                ldmatrix_x4_trans(a[m], shared_address(stage.d_out + swizzled(k + i / 2 * 8 + r, row0 + 16 * m + i % 2 * 8)));
#pragma unroll
            for (unsigned j = 0; j < 2; j++)
                ldmatrix_x4_trans(b[j], shared_address(stage.x + swizzled(k + i % 2 * 8 + r, col0 + 16 * j + i / 2 * 8)));
#pragma unroll
            for (unsigned m = 0; m < 4; m++)
#pragma unroll
                for (unsigned j = 0; j < 4; j++)
                    mma_m16n8k16<T>(v[m][j], a[m], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }

    __device__ __forceinline__ void store(const WeightGradParams &p, unsigned row0, unsigned col0) const {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (unsigned m = 0; m < 4; m++)
#pragma unroll
            for (unsigned j = 0; j < 4; j++)
#pragma unroll
                for (unsigned h = 0; h < 2; h++) {
                    unsigned row = row0 + 16 * m + 8 * h + g, col = col0 + 8 * j + 2 * t;
                    if (row >= p.rows || col >= p.cols) continue;
                    float2 *out = reinterpret_cast<float2 *>(p.d_weight + size_t(row) * p.cols + col);
                    float2 sum = *out;
                    *out = make_float2(sum.x + v[m][j][2 * h], sum.y + v[m][j][2 * h + 1]);
                }
    }
};

template <class T> __device__ void weight_grad(const WeightGradParams &p) {
    extern __shared__ uint4 memory[];
    Stage<T> *stages = reinterpret_cast<Stage<T> *>(memory);
    static_assert(sizeof(Stage<T>) == DEPTH * 2 * TILE * 2, "the launch counts with this");
    unsigned across = (p.cols + TILE - 1) / TILE, warp = threadIdx.x / 32;
    unsigned row0 = blockIdx.x / across * TILE, col0 = blockIdx.x % across * TILE;
    unsigned steps = (p.n + DEPTH - 1) / DEPTH;
    auto load = [&](unsigned step) {
        if (step < steps) {
            Stage<T> &stage = stages[step % STAGES];
            copy(stage.d_out, p.d_out, p.n, p.rows, step * DEPTH, row0);
            copy(stage.x, p.x, p.n, p.cols, step * DEPTH, col0);
        }
        cp_async_commit();
    };
    for (unsigned s = 0; s < STAGES - 1; s++) load(s);
    Accumulator<T> sum;
    unsigned warp_row = warp / 4 * 64, warp_col = warp % 4 * 32;
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); // this step's stage is complete for all threads, and all have done with the one before
        // Into the stage of the step before. A group is closed even when it is empty, so that the wait counts right.
        load(step + STAGES - 1);
        sum.add(stages[step % STAGES], warp_row, warp_col);
    }
    sum.store(p, row0 + warp_row, col0 + warp_col);
}

#define INSTANTIATE_WEIGHT_GRAD(T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        weight_grad_mma_##T(const __grid_constant__ WeightGradParams p) {                                           \
        begin_kernel();                                                                                                \
        weight_grad<T>(p);                                                                                             \
    }
INSTANTIATE_WEIGHT_GRAD(bf16)
INSTANTIATE_WEIGHT_GRAD(f16)

// ------------------------------------------------------------------------------------------------ any type

// A CTA's tile is 64 x 64, a thread's 4 x 4: rows ty + 16 i, columns tx + 16 j, so that the 16 columns of a half-warp
// are neighbours, in memory and in banks.
template <class T> __device__ void weight_grad_simt(const WeightGradParams &p) {
    constexpr unsigned SIDE = WEIGHT_GRAD_SIMT_TILE, TOKENS = 16;
    __shared__ float d_out[TOKENS][SIDE], x[TOKENS][SIDE];
    unsigned across = (p.cols + SIDE - 1) / SIDE;
    unsigned row0 = blockIdx.x / across * SIDE, col0 = blockIdx.x % across * SIDE;
    unsigned tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sum[4][4] = {};
    for (unsigned token0 = 0; token0 < p.n; token0 += TOKENS) {
        for (unsigned i = threadIdx.x; i < TOKENS * SIDE; i += THREADS) {
            size_t token = token0 + i / SIDE;
            unsigned row = row0 + i % SIDE, col = col0 + i % SIDE;
            d_out[i / SIDE][i % SIDE] = token < p.n && row < p.rows ? to_f32(row_of<T>(p.d_out, token)[row]) : 0.f;
            x[i / SIDE][i % SIDE] = token < p.n && col < p.cols ? to_f32(row_of<T>(p.x, token)[col]) : 0.f;
        }
        __syncthreads();
        for (unsigned k = 0; k < TOKENS; k++)
#pragma unroll
            for (unsigned i = 0; i < 4; i++)
#pragma unroll
                for (unsigned j = 0; j < 4; j++) sum[i][j] += d_out[k][ty + 16 * i] * x[k][tx + 16 * j];
        __syncthreads();
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            unsigned row = row0 + ty + 16 * i, col = col0 + tx + 16 * j;
            if (row < p.rows && col < p.cols) p.d_weight[size_t(row) * p.cols + col] += sum[i][j];
        }
}
INSTANTIATE(weight_grad_simt, WeightGradParams)
