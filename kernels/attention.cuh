#pragma once
// Tiles of attention: rows of one head in shared memory, and their products, `Mma` by mma.sync and `Wgmma` by wgmma
// (attention_wgmma.cuh). Both have sums in the same registers, so that what is done between products is written once.
#include "attention_ptx.cuh"
#include "params.h"

constexpr float LOG2_E = 1.4426950408889634f;

// The rows of one sequence in the packed matrices.
struct Sequence {
    unsigned start, len;

    __device__ __forceinline__ Sequence(const unsigned *cu_seqlens, unsigned index, unsigned n) {
        start = min(cu_seqlens[index], n);
        len = max(min(cu_seqlens[index + 1], n), start) - start;
    }
};

// The rows that a sequence sees before its own, all of them.
struct Prefix {
    unsigned start = 0, len = 0;

    __device__ __forceinline__ Prefix(const AttentionParams &p, unsigned index) {
        if (!p.prefixes) return;
        start = min(p.prefixes[2 * index], p.n_prefix);
        len = min(p.prefixes[2 * index + 1], p.n_prefix - start);
    }
};

// What a block works on: blocks count heads first, then sequences, then tiles.
struct BlockJob {
    unsigned head, sequence, tile;

    __device__ __forceinline__ BlockJob(unsigned block, unsigned heads, unsigned sequences)
        : head(block % heads), sequence(block / heads % sequences), tile(block / heads / sequences) {}
    __device__ __forceinline__ BlockJob(unsigned heads, unsigned sequences) : BlockJob(blockIdx.x, heads, sequences) {}
};

// The matrices of attention_grad at one sequence, query head and key head.
template <class T, int D> struct Heads {
    const T *q, *d_out, *k, *v;
    const float *lse, *delta;

    __device__ __forceinline__ Heads(const AttentionGradParams &p, unsigned start, unsigned head, unsigned kv_head) {
        q = row_of<T>(p.q, start) + head * D;
        d_out = row_of<T>(p.d_out, start) + head * D;
        k = row_of<T>(p.k, start) + kv_head * D;
        v = row_of<T>(p.v, start) + kv_head * D;
        lse = p.lse + size_t(head) * p.n + start;
        delta = p.delta + size_t(head) * p.n + start;
    }
};

// ROWS rows of D 16-bit elements in shared memory (1024-byte aligned), in panels of up to 64 columns. The 16-byte
// chunks of a row are permuted, so that the same chunk of 8 neighbouring rows lies in different banks; it is the
// permutation that wgmma knows as its swizzle of 128 or 64 bytes.
template <int D, int ROWS> struct Tile {
    static constexpr int COLUMNS = D < 64 ? D : 64, ROW_COUNT = ROWS;
    static constexpr unsigned PITCH = COLUMNS * 2, PANEL = ROWS * PITCH, BYTES = ROWS * D * 2, CHUNKS = COLUMNS / 8;

    __device__ __forceinline__ static unsigned at(unsigned row, unsigned chunk) {
        unsigned turn = CHUNKS == 8 ? row % 8 : row / 2 % CHUNKS;
        return chunk / CHUNKS * PANEL + row * PITCH + ((chunk % CHUNKS ^ turn) * 16);
    }
    // The address of the same lane's chunk `k` 16 columns further on; the compiler knows `k`.
    __device__ __forceinline__ static unsigned step(unsigned address, int k) {
        return (address ^ (k % (COLUMNS / 16) * 32)) + k / (COLUMNS / 16) * PANEL;
    }
};

// Rows 0 .. ROWS of `from` to the tile at `to`; rows from `valid` on become zeros.
template <class T, int D, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(unsigned to, const T *from, unsigned stride, unsigned valid) {
    constexpr unsigned CHUNKS = D / 8;
    static_assert(ROWS * CHUNKS % THREADS == 0 && THREADS % CHUNKS == 0, "whole rounds");
    unsigned row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (int i = 0; i < int(ROWS * CHUNKS / THREADS); i++, row += THREADS / CHUNKS) {
        bool ok = row < valid;
        cp_async16(to + Tile<D, ROWS>::at(row, chunk), from + (ok ? size_t(row) * stride + chunk * 8 : 0), ok ? 16 : 0);
    }
}

// Products by single warps (mma.sync), each with rows of its own: 16 M of them.
struct Mma {
    // c[own rows, N] = a[own rows, D] b[N, D]^T, both tiles.
    template <class T, int D, class A, class B, int M, int N>
    __device__ __forceinline__ static void multiply(float (&c)[M][N][4], unsigned a, unsigned b) {
        unsigned lane = threadIdx.x % 32;
        a += A::at(threadIdx.x / 32 * (16 * M) + lane % 16, lane / 16);
        b += B::at(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) c[m][n][i] = 0;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            unsigned fa[M][4], fb[4];
#pragma unroll
            for (int m = 0; m < M; m++) ldmatrix_x4(fa[m], A::step(a, k) + m * 16 * A::PITCH);
#pragma unroll
            for (int n = 0; n < N / 2; n++) {
                ldmatrix_x4(fb, B::step(b, k) + n * 16 * B::PITCH);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    mma_m16n8k16<T>(c[m][2 * n], fa[m], fb[0], fb[1]);
                    mma_m16n8k16<T>(c[m][2 * n + 1], fa[m], fb[2], fb[3]);
                }
            }
        }
    }
    // c[own rows, D] += a[own rows, 16 K] b[16 K, D]: a from registers, as `to_fragments` makes them, b a tile.
    template <class T, class B, int M, int N, int K>
    __device__ __forceinline__ static void add(float (&c)[M][N][4], const unsigned (&a)[M][K][4], unsigned b) {
        unsigned lane = threadIdx.x % 32, fb[4];
        b += B::at(lane % 16, lane / 16);
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int n = 0; n < N / 2; n++) {
                ldmatrix_x4_trans(fb, B::step(b, n) + k * 16 * B::PITCH);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    mma_m16n8k16<T>(c[m][2 * n], a[m][k], fb[0], fb[1]);
                    mma_m16n8k16<T>(c[m][2 * n + 1], a[m][k], fb[2], fb[3]);
                }
            }
    }
};

// Between two stages of tiles: the one that was asked for last is complete for all threads, and all have done with the
// other, which may be filled again. One group of copies is under way at a time, so that waiting for all waits for this
// one.
__device__ __forceinline__ void begin_stage() {
    cp_async_wait<0>();
    __syncthreads();
}

// A product as the left factor of the next: a lane's elements are already where they have to be.
template <class T, int M, int K>
__device__ __forceinline__ void to_fragments(unsigned (&a)[M][K][4], const float (&c)[M][2 * K][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][k][i] = pack2<T>(c[m][2 * k + i / 2][i % 2 * 2], c[m][2 * k + i / 2][i % 2 * 2 + 1]);
}

// Stores a warp's c[16 M, D], rows times `scale`, to the rows of `to` below `valid`, through the warp's own rows
// of a tile that nobody reads any more; `row0` is the first of them.
template <class T, int D, class Tile, int M>
__device__ __forceinline__ void store_rows(T *to, unsigned stride, unsigned valid, const float (&c)[M][D / 8][4],
                                           const float (&scale)[M][2], unsigned char *tile, unsigned row0) {
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                unsigned at = Tile::at(row0 + m * 16 + h * 8 + lane / 4, n) + lane % 4 * 4;
                *reinterpret_cast<unsigned *>(tile + at) =
                    pack2<T>(c[m][n][2 * h] * scale[m][h], c[m][n][2 * h + 1] * scale[m][h]);
            }
    __syncwarp();
#pragma unroll
    for (unsigned i = lane; i < M * 16 * (D / 8); i += 32) {
        unsigned row = i / (D / 8), chunk = i % (D / 8);
        if (row < valid)
            store_pack(to + size_t(row) * stride + chunk * 8,
                       *reinterpret_cast<const Pack<T> *>(tile + Tile::at(row0 + row, chunk)));
    }
}

// extern "C" entries `name_d<D>_<T>` of the template `kernel`, whose blocks have `THREADS` threads, at least `BLOCKS`
// to a multiprocessor. The last argument is the template's third, if it has one.
#define ATTENTION_KERNEL(name, kernel, Params, D, T, THREADS, BLOCKS, ...)                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                      \
        name##_d##D##_##T(const __grid_constant__ Params p) {                                                          \
        begin_kernel();                                                                                                \
        kernel<T, D __VA_OPT__(,) __VA_ARGS__>(p);                                                                     \
    }
#define ATTENTION_DIMS(name, kernel, Params, T, THREADS, BLOCKS, ...)                                                  \
    ATTENTION_KERNEL(name, kernel, Params, 32, T, THREADS, BLOCKS, __VA_ARGS__)                                        \
    ATTENTION_KERNEL(name, kernel, Params, 64, T, THREADS, BLOCKS, __VA_ARGS__)                                        \
    ATTENTION_KERNEL(name, kernel, Params, 128, T, THREADS, BLOCKS, __VA_ARGS__)
#define ATTENTION_SIMT(name, Params)                                                                                   \
    ATTENTION_DIMS(name, name, Params, bf16, 32 * ATTENTION_SIMT_WARPS, 1)                                             \
    ATTENTION_DIMS(name, name, Params, f16, 32 * ATTENTION_SIMT_WARPS, 1)                                              \
    ATTENTION_DIMS(name, name, Params, f32, 32 * ATTENTION_SIMT_WARPS, 1)
// The tiled kernels by mma.sync: `name_mma_d<D>_<T>`.
#define ATTENTION_MMA(name, Params, Tiles)                                                                             \
    ATTENTION_DIMS(name##_mma, name, Params, bf16, ATTENTION_MMA_THREADS, 2, Tiles)                                    \
    ATTENTION_DIMS(name##_mma, name, Params, f16, ATTENTION_MMA_THREADS, 2, Tiles)
