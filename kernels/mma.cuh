#pragma once
// Products on tensor cores (mma.sync) for bf16 and f16. x goes to shared memory by asynchronous copies; so does a
// dense weight; a 4-bit weight is decoded into it. Tiles are [tokens TOKENS, outputs 128], 64 of k at a time.
// Wants x and its rows aligned to 16 bytes, and of the weight what its stager wants.
//
// 8 warps, 2 by 4: each has TOKENS / 2 by 32 of the tile, so 64 f32 of sums a thread at 128 tokens, and reads operands
// of both sides with ldmatrix. Three stages of x: two are under way while one is multiplied. A dense weight has the
// same; a 4-bit weight has two stages, because it waits in registers as codes, a quarter of the size, and not in shared
// memory. At 128 tokens that makes 96 and 80 KiB and 128 registers, so that two CTAs share a multiprocessor and one
// multiplies while the other waits, dequantizes or stores. The bound is the tensor cores' rate for many tokens, the
// weight's traffic for few.
#include "gemm.cuh"
#include "ptx.cuh"

constexpr int MMA_THREADS = GEMM_MMA_THREADS;
constexpr int TILE_OUT = GEMM_MMA_TILE_OUT;
constexpr int TILE_K = GEMM_MMA_TILE_K;
constexpr int TILE_W_BYTES = TILE_OUT * TILE_K * 2;
constexpr int X_STAGES = GEMM_MMA_X_STAGES;

// Byte offset of 16-byte piece `piece` of row `row` in a tile with rows of 64 (128) elements. The XOR puts pieces of
// the same column of 8 rows, and of any 8 lanes that store neighbouring pieces, into different banks.
__device__ __forceinline__ uint32_t tile64(uint32_t row, uint32_t piece) {
    return row * 128 + (piece ^ (row % 8)) * 16;
}
__device__ __forceinline__ uint32_t tile128(uint32_t row, uint32_t piece) {
    return row * 256 + (piece ^ (row % 8) ^ (piece / 8 * 2)) * 16;
}

// The weight's tile: forward [outputs 128, k 64], in the gradient [k 64, outputs 128].
template <bool GRAD> __device__ __forceinline__ uint32_t weight_tile(uint32_t row, uint32_t piece) {
    return GRAD ? tile128(row, piece) : tile64(row, piece);
}

// Queues the copy of x[token0 .. + TOKENS, k0 .. + 64]; zeros outside.
template <int TOKENS, class T, class O>
__device__ __forceinline__ void stage_x(const Gemm<T, O> &p, uint32_t tile, unsigned token0, unsigned k0) {
#pragma unroll
    for (int i = 0; i < TOKENS / 32; i++) {
        unsigned c = threadIdx.x + i * MMA_THREADS, row = c / 8, piece = c % 8;
        unsigned token = token0 + row, k = k0 + piece * 8;
        unsigned bytes = token < p.n && k < p.k ? min(16u, (p.k - k) * 2) : 0;
        const T *from = bytes ? row_of<T>(p.x, token) + k : static_cast<const T *>(p.x.ptr);
        cp_async16(tile + tile64(row, piece), from, bytes);
    }
}

// A dense weight, copied. Wants the weight aligned to 16 bytes and cols a multiple of 8.
template <class T, bool GRAD> struct DenseStager {
    static constexpr int STAGES = GEMM_MMA_DENSE_STAGES;
    static constexpr bool DEQUANTIZES = false;
    Dense<T> weight;

    // Queues the tile of k0 with the copies of x.
    __device__ __forceinline__ void queue(uint32_t tile, unsigned j0, unsigned k0) {
        constexpr int PIECES = GRAD ? TILE_OUT / 8 : TILE_K / 8;
#pragma unroll
        for (int i = 0; i < TILE_W_BYTES / 16 / MMA_THREADS; i++) {
            unsigned c = threadIdx.x + i * MMA_THREADS, row = c / PIECES, piece = c % PIECES;
            unsigned r = (GRAD ? k0 : j0) + row, col = (GRAD ? j0 : k0) + piece * 8;
            bool inside = r < weight.rows && col < weight.cols;
            const T *from = inside ? weight.w + weight.index(r, col) : weight.w;
            cp_async16(tile + weight_tile<GRAD>(row, piece), from, inside ? 16 : 0);
        }
    }
    __device__ __forceinline__ void fetch(unsigned, unsigned) {}
    __device__ __forceinline__ void dequantize(char *) {}
};

// acc += x tile * weight tile, for the 16 MT x 32 part of this warp at (`x_row`, `w_col`).
template <bool GRAD, int MT, class T>
__device__ __forceinline__ void multiply(float (&acc)[MT][4][4], uint32_t x_tile, uint32_t w_tile, unsigned x_row,
                                         unsigned w_col) {
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int k16 = 0; k16 < TILE_K / 16; k16++) {
        uint32_t b[2][4]; // two pairs of 8 outputs
#pragma unroll
        for (int i = 0; i < 2; i++) {
            unsigned col = w_col + i * 16;
            if constexpr (GRAD) {
                ldmatrix_x4_trans(b[i], w_tile + tile128(k16 * 16 + lane % 16, col / 8 + lane / 16));
            } else {
                ldmatrix_x4(b[i], w_tile + tile64(col + lane / 16 * 8 + lane % 8, k16 * 2 + lane / 8 % 2));
            }
        }
#pragma unroll
        for (int i = 0; i < MT; i++) {
            uint32_t a[4];
            ldmatrix_x4(a, x_tile + tile64(x_row + i * 16 + lane % 16, k16 * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < 4; j++) mma_m16n8k16<T>(acc[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }
}

// One tile of a CTA: blockIdx.x counts tiles, tokens fastest; blockIdx.y is the part of k. Dynamic shared memory:
// X_STAGES tiles of x, then Stager::STAGES tiles of the weight.
template <bool GRAD, int TOKENS, class T, class O, class Stager>
__device__ void mma_gemm(const Gemm<T, O> &p, Stager &stager) {
    constexpr int MT = TOKENS / 32, X_BYTES = TOKENS * TILE_K * 2;
    extern __shared__ __align__(128) char shared[];
    char *w_tiles = shared + X_STAGES * X_BYTES;
    uint32_t x_at = shared_address(shared), w_at = x_at + X_STAGES * X_BYTES;

    unsigned token_tiles = (p.n + TOKENS - 1) / TOKENS;
    unsigned token0 = blockIdx.x % token_tiles * TOKENS, j0 = blockIdx.x / token_tiles * TILE_OUT;
    uint2 part = p.part(TILE_K);
    unsigned steps = part.x < part.y ? (part.y - part.x + TILE_K - 1) / TILE_K : 0;
    auto queue = [&](unsigned step) {
        if (step < steps) {
            unsigned k0 = part.x + step * TILE_K;
            stage_x<TOKENS>(p, x_at + step % X_STAGES * X_BYTES, token0, k0);
            if constexpr (!Stager::DEQUANTIZES) stager.queue(w_at + step % Stager::STAGES * TILE_W_BYTES, j0, k0);
        }
        cp_async_commit(); // also when empty: the waits below count groups
    };
    auto fetch = [&](unsigned step) {
        if (step < steps) stager.fetch(j0, part.x + step * TILE_K);
    };
    auto decode = [&](unsigned step) {
        if (step < steps) stager.dequantize(w_tiles + step % Stager::STAGES * TILE_W_BYTES);
    };

    for (int s = 0; s < X_STAGES - 1; s++) queue(s);
    fetch(0);
    decode(0);
    fetch(1);

    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned x_row = warp / 4 * (TOKENS / 2), w_col = warp % 4 * 32;
    float acc[MT][4][4] = {};
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<X_STAGES - 2>();
        // This step's tiles are complete for all threads (copies by the wait, decoded ones by the barrier), and the
        // buffers of the step before are free: `queue` fills that of x, `dequantize` that of the weight.
        __syncthreads();
        queue(step + X_STAGES - 1);
        multiply<GRAD, MT, T>(acc, x_at + step % X_STAGES * X_BYTES, w_at + step % Stager::STAGES * TILE_W_BYTES,
                              x_row, w_col);
        decode(step + 1);
        fetch(step + 2);
    }
    bool pairs = p.pairs();
#pragma unroll
    for (int i = 0; i < MT * 4 * 2; i++) {
        int mt = i / 8, nt = i / 2 % 4, half = i % 2;
        unsigned token = token0 + x_row + mt * 16 + lane / 4 + half * 8;
        unsigned j = j0 + w_col + nt * 8 + lane % 4 * 2;
        float sum0 = acc[mt][nt][2 * half], sum1 = acc[mt][nt][2 * half + 1];
        if (pairs) {
            p.store_pair(token, j, sum0, sum1);
        } else {
            p.store(token, j, sum0);
            p.store(token, j + 1, sum1);
        }
    }
}
