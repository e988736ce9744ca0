#pragma once
// Tiles of attention: rows of one head in shared memory, and their products.
#include "attention_ptx.cuh"

constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

// The rows of one sequence in the packed matrices.
struct Sequence {
    unsigned start, len;

    __device__ __forceinline__ Sequence(const unsigned *cu_seqlens, unsigned index, unsigned n) {
        start = min(cu_seqlens[index], n);
        len = max(min(cu_seqlens[index + 1], n), start) - start;
    }
};

// What a block works on: blocks count heads first, then sequences, then tiles.
struct BlockJob {
    unsigned head, sequence, tile;

    __device__ __forceinline__ BlockJob(unsigned heads, unsigned sequences) {
        head = blockIdx.x % heads;
        sequence = blockIdx.x / heads % sequences;
        tile = blockIdx.x / heads / sequences;
    }
};

// Rows of D 16-bit elements in shared memory (1024-byte aligned). The 16-byte chunks of a row are permuted, so that
// the same chunk of 8 neighbouring rows lies in 8 different groups of banks.
template <int D> struct Tile {
    static constexpr unsigned CHUNKS = D / 8, PITCH = D * 2;

    __device__ __forceinline__ static unsigned at(unsigned row, unsigned chunk) {
        unsigned turn = CHUNKS >= 8 ? row % 8 : row / 2 % CHUNKS;
        return row * PITCH + ((chunk ^ turn) * 16);
    }
};

// Rows 0 .. ROWS of `from` to the tile at `to`; rows from `valid` on become zeros.
template <class T, int D, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(unsigned to, const T *from, unsigned stride, unsigned valid) {
    constexpr unsigned CHUNKS = Tile<D>::CHUNKS;
    static_assert(ROWS * CHUNKS % THREADS == 0 && THREADS % CHUNKS == 0, "whole rounds");
    unsigned row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (int i = 0; i < int(ROWS * CHUNKS / THREADS); i++, row += THREADS / CHUNKS) {
        bool ok = row < valid;
        cp_async16(to + Tile<D>::at(row, chunk), from + (ok ? size_t(row) * stride + chunk * 8 : 0), ok ? 16 : 0);
    }
}

// c[16 M, N] = a[16 M, D] b[N, D]^T, both tiles.
template <class T, int D, int M, int N>
__device__ __forceinline__ void multiply_tiles(float (&c)[M][N / 8][4], unsigned a, unsigned b) {
    unsigned lane = threadIdx.x % 32;
    a += Tile<D>::at(lane % 16, lane / 16);
    b += Tile<D>::at(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) c[m][n][i] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        unsigned fa[M][4], fb[4];
#pragma unroll
        for (int m = 0; m < M; m++) ldmatrix_x4(fa[m], (a ^ (k * 32)) + m * 16 * Tile<D>::PITCH);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            ldmatrix_x4(fb, (b ^ (k * 32)) + n * 16 * Tile<D>::PITCH);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16<T>(c[m][2 * n], fa[m], fb[0], fb[1]);
                mma_m16n8k16<T>(c[m][2 * n + 1], fa[m], fb[2], fb[3]);
            }
        }
    }
}

// c[16 M, D] += a[16 M, N] b[N, D]: a from registers, as `to_fragments` makes them, b a tile.
template <class T, int D, int M, int N>
__device__ __forceinline__ void add_product(float (&c)[M][D / 8][4], const unsigned (&a)[M][N / 16][4], unsigned b) {
    unsigned lane = threadIdx.x % 32, fb[4];
    b += Tile<D>::at(lane % 16, lane / 16);
#pragma unroll
    for (int k = 0; k < N / 16; k++)
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            ldmatrix_x4_trans(fb, (b ^ (d * 32)) + k * 16 * Tile<D>::PITCH);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16<T>(c[m][2 * d], a[m][k], fb[0], fb[1]);
                mma_m16n8k16<T>(c[m][2 * d + 1], a[m][k], fb[2], fb[3]);
            }
        }
}

// A product as the left factor of the next: a lane's elements are already where they have to be.
template <class T, int M, int N>
__device__ __forceinline__ void to_fragments(unsigned (&a)[M][N / 16][4], const float (&c)[M][N / 8][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int k = 0; k < N / 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][k][i] = pack2<T>(c[m][2 * k + i / 2][i % 2 * 2], c[m][2 * k + i / 2][i % 2 * 2 + 1]);
}

// Stores a warp's c[16 M, D], rows times `scale`, to the rows of `to` below `valid`, through the warp's own rows
// of a tile that nobody reads any more.
template <class T, int D, int M>
__device__ __forceinline__ void store_rows(T *to, unsigned stride, unsigned valid, const float (&c)[M][D / 8][4],
                                           const float (&scale)[M][2], unsigned char *tile) {
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                unsigned at = Tile<D>::at(m * 16 + h * 8 + lane / 4, n) + lane % 4 * 4;
                *reinterpret_cast<unsigned *>(tile + at) =
                    pack2<T>(c[m][n][2 * h] * scale[m][h], c[m][n][2 * h + 1] * scale[m][h]);
            }
    __syncwarp();
    constexpr unsigned CHUNKS = Tile<D>::CHUNKS;
#pragma unroll
    for (unsigned i = lane; i < M * 16 * CHUNKS; i += 32) {
        unsigned row = i / CHUNKS, chunk = i % CHUNKS;
        if (row < valid)
            store_pack(to + size_t(row) * stride + chunk * 8,
                       *reinterpret_cast<const Pack<T> *>(tile + Tile<D>::at(row, chunk)));
    }
}

// extern "C" entries `name_d<D>_<T>` of kernels whose blocks have `THREADS` threads, at least `BLOCKS` to a
// multiprocessor.
#define ATTENTION_KERNEL(name, Params, D, T, THREADS, BLOCKS)                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                      \
        name##_d##D##_##T(const __grid_constant__ Params p) {                                                          \
        name<T, D>(p);                                                                                                 \
    }
#define ATTENTION_DIMS(name, Params, T, THREADS, BLOCKS)                                                               \
    ATTENTION_KERNEL(name, Params, 32, T, THREADS, BLOCKS)                                                             \
    ATTENTION_KERNEL(name, Params, 64, T, THREADS, BLOCKS)                                                             \
    ATTENTION_KERNEL(name, Params, 128, T, THREADS, BLOCKS)
