#pragma once
// Sums over tokens by way of tiles of x in shared memory: what the gradients of factors are made of where r is large, or x
// is made on the way.
#include "lora.cuh"
#include "sigmoid.cuh"

constexpr unsigned TILE_TOKENS = LORA_WEIGHT_GRAD_TILE_TOKENS, TILE_COLS = LORA_WEIGHT_GRAD_COLS;
constexpr unsigned X_TILE_BYTES = TILE_TOKENS * TILE_COLS * 2;

// Byte offset of 16-byte piece `piece` of row `row` in the tile of x, [tokens, 64], and in that of xa, [r, tokens]. The XOR
// puts pieces of one column of 8 rows into different banks.
__device__ __forceinline__ uint32_t x_piece(uint32_t row, uint32_t piece) { return row * 128 + (piece ^ row % 8) * 16; }
__device__ __forceinline__ uint32_t a_piece(uint32_t row, uint32_t piece) {
    return row * TILE_TOKENS * 2 + (piece ^ row % 8) * 16;
}

// 16 MT columns of r by 64 of x. Each of the 8 warps has 16 of the first and 8 MT of the second, over all tokens of the
// CTA, so that nothing is added across warps.
template <class T, int MT> struct TileProducts {
    static constexpr unsigned A_TILE_BYTES = 16 * MT * TILE_TOKENS * 2;
    const LoraWeightGradParams &p;
    unsigned lane, r0, piece0, col0;
    float acc[MT][4] = {};

    __device__ __forceinline__ TileProducts(const LoraWeightGradParams &p, unsigned tile)
        : p(p), lane(threadIdx.x % 32), r0(threadIdx.x / 32 % MT * 16), piece0(threadIdx.x / 32 / MT * MT),
          col0(tile * TILE_COLS) {}

    // Queues the copy of xa of tokens token .. , zeros from `end` on and where there is no row.
    __device__ __forceinline__ void queue_a(uint32_t a_tile, unsigned token, unsigned end) const {
        constexpr unsigned PIECES = TILE_TOKENS / 8;
#pragma unroll
        for (unsigned i = threadIdx.x; i < 16 * MT * PIECES; i += LORA_WEIGHT_GRAD_THREADS) {
            unsigned row = i / PIECES, at = token + i % PIECES * 8;
            bool inside = row < p.r && at < end;
            const T *from = inside ? row_of<T>(p.xa_t, row) + at : static_cast<const T *>(p.xa_t.ptr);
            cp_async16(a_tile + a_piece(row, i % PIECES), from, inside ? 16 : 0);
        }
    }
    __device__ __forceinline__ void multiply(uint32_t a_tile, uint32_t x_tile) {
#pragma unroll
        for (unsigned k = 0; k < TILE_TOKENS; k += 32) {
            uint32_t a[2][4];
#pragma unroll
            for (unsigned h = 0; h < 2; h++)
                ldmatrix_x4(a[h], a_tile + a_piece(r0 + lane % 16, k / 8 + 2 * h + lane / 16));
#pragma unroll
            for (int j = 0; j < MT; j++) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, x_tile + x_piece(k + lane, piece0 + j));
                mma_m16n8k16<T>(acc[j], a[0], b[0], b[1]);
                mma_m16n8k16<T>(acc[j], a[1], b[2], b[3]);
            }
        }
    }
    __device__ __forceinline__ void store(float *out) const {
#pragma unroll
        for (int j = 0; j < MT; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                unsigned row = r0 + lane / 4 + 8 * h, col = col0 + (piece0 + j) * 8 + lane % 4 * 2;
                if (row < p.r && col < p.cols)
                    *reinterpret_cast<float2 *>(out + size_t(row) * p.cols + col) = {acc[j][2 * h], acc[j][2 * h + 1]};
            }
    }
};

// x in memory is copied, STAGES - 1 tiles ahead. What is dropped a thread zeroes where it has copied it.
template <class T, bool DROP, int MT> __device__ void weight_grad_tiles(const LoraWeightGradsParams &ps) {
    constexpr unsigned STAGES = LORA_WEIGHT_GRAD_STAGES, BYTES = X_TILE_BYTES + TileProducts<T, MT>::A_TILE_BYTES;
    constexpr unsigned EACH = TILE_TOKENS * TILE_COLS / 8 / LORA_WEIGHT_GRAD_THREADS;
    extern __shared__ __align__(128) char tiles[];
    const LoraWeightGradParams &p = ps.factors[blockIdx.x % ps.count];
    unsigned tile = blockIdx.x / ps.count, piece = threadIdx.x % 8;
    if (tile * TILE_COLS >= p.cols) return; // another factor has more
    unsigned begin = blockIdx.y * p.split_len, end = min(begin + p.split_len, p.n);
    unsigned steps = (end - begin + TILE_TOKENS - 1) / TILE_TOKENS;
    TileProducts<T, MT> products(p, tile);
    Dropout dropout = dropout_of(p.dropout);
    unsigned col = min(products.col0 + 8 * piece, p.cols - 8);
    uint32_t base = shared_address(tiles);
    auto queue = [&](unsigned step) {
        if (step < steps) {
            uint32_t x_tile = base + step % STAGES * BYTES;
            unsigned token = begin + step * TILE_TOKENS;
#pragma unroll
            for (unsigned i = 0; i < EACH; i++) {
                unsigned row = threadIdx.x / 8 + i * (LORA_WEIGHT_GRAD_THREADS / 8);
                cp_async16(x_tile + x_piece(row, piece), row_of<T>(p.x, min(token + row, p.n - 1)) + col, 16);
            }
            products.queue_a(x_tile + X_TILE_BYTES, token, end);
        }
        cp_async_commit(); // also when empty: the waits below count groups
    };
    auto drop = [&](unsigned step) {
#pragma unroll
        for (unsigned i = 0; i < EACH; i++) {
            unsigned row = threadIdx.x / 8 + i * (LORA_WEIGHT_GRAD_THREADS / 8);
            uint4 &x = *reinterpret_cast<uint4 *>(tiles + step % STAGES * BYTES + x_piece(row, piece));
            uint4 kept = x;
            drop8(kept, dropout, begin + step * TILE_TOKENS + row, col / 8);
            x = kept;
        }
    };
    for (unsigned s = 0; s < STAGES - 1; s++) queue(s);
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        if (DROP) drop(step); // what this thread has copied
        __syncthreads();      // the tile is complete, and that of the step before is free
        queue(step + STAGES - 1);
        uint32_t x_tile = base + step % STAGES * BYTES;
        products.multiply(x_tile + X_TILE_BYTES, x_tile);
    }
    products.store(p.partial + size_t(blockIdx.y) * p.r * p.cols);
}

// What the adapter adds to d_out, d_xa A of 64 columns: A stays in shared memory as the tensor cores take it, d_xa is what lies
// transposed in the tile of the factor. A thread gets the sums of 8 columns of 4 tokens, which are those that it has of d_out:
// its two rows of a product are tokens 2 h and 2 h + 1 of these, which the thread four lanes on has as well, for columns of
// the other half. So d_xa is zero for one of both halves, and their products add up. Columns and r are in the order of lora_up.
template <class T, int MT> struct AdapterTile {
    static constexpr unsigned BYTES = 16 * MT * TILE_COLS * 2;
    uint2 *operands; // [halves of the columns, products, chunks of r][lanes]

    __device__ __forceinline__ void fill(const LoraWeightGradParams &p, const T *a, unsigned col0) const {
        for (unsigned i = threadIdx.x; i < BYTES / 8; i += LORA_WEIGHT_GRAD_THREADS) {
            unsigned lane = i % 32, chunk = i / 32 % MT, product = i / 32 / MT, g = lane / 4;
            unsigned k = chunk * 16 + lane % 4 * 4, col = col0 + product / 4 * 32 + g / 2 * 8 + product % 4 * 2 + g % 2;
            alignas(8) T four[4];
#pragma unroll
            for (unsigned e = 0; e < 4; e++)
                four[e] = k + e < p.r && col < p.cols ? a[size_t(k + e) * p.cols + col] : from_f32<T>(0);
            operands[i] = reinterpret_cast<const uint2 &>(four);
        }
    }
    __device__ __forceinline__ void multiply(float (&sums)[4][4], const char *a_tile, int h) const {
        unsigned lane = threadIdx.x % 32, tokens = threadIdx.x / 8;
#pragma unroll
        for (unsigned chunk = 0; chunk < MT; chunk++) {
            uint32_t two[4]; // tokens of four columns of r
#pragma unroll
            for (unsigned e = 0; e < 4; e++)
                two[e] = *reinterpret_cast<const uint32_t *>(a_tile + a_piece(chunk * 16 + lane % 4 * 4 + e, tokens / 2) +
                                                             tokens % 2 * 8 + 4 * h);
            uint32_t d_xa[4] = {__byte_perm(two[0], two[1], 0x5410), __byte_perm(two[0], two[1], 0x7632),
                                __byte_perm(two[2], two[3], 0x5410), __byte_perm(two[2], two[3], 0x7632)};
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                uint32_t own[4];
#pragma unroll
                for (int i = 0; i < 4; i++) own[i] = lane / 4 % 2 == half ? d_xa[i] : 0;
#pragma unroll
                for (unsigned j = 0; j < 4; j++) {
                    uint2 b = operands[((half * 4 + j) * MT + chunk) * 32 + lane];
                    mma_m16n8k16<T>(sums[j], own, b.x, b.y);
                }
            }
        }
    }
};

// The gradient of SwiGLU, and of the factor behind it, whose x is SwiGLU's output and only in shared memory: a thread has
// 8 columns of gate, up and d_out of 4 tokens, puts the gradients in place of gate and up, and what it makes of them into
// the tile. The next ones are under way while that is multiplied. ADD: d_out is what it is and what the adapter adds.
template <class T, bool DROP, bool ADD, bool BRANCH> struct SwigluTiles {
    const SwigluGradParams &p;
    unsigned first, col; // token of a tile, column
    bool inside;
    uint4 gate[4], up[4], d_out[4];

    __device__ __forceinline__ SwigluTiles(const SwigluGradParams &p, unsigned col0)
        : p(p), first(threadIdx.x / 8 * 4), col(min(col0 + threadIdx.x % 8 * 8, p.f - 8)),
          inside(col0 + threadIdx.x % 8 * 8 < p.f) {}

    __device__ __forceinline__ void load(unsigned token) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            unsigned row = min(token + first + i, p.n - 1);
            const T *from = row_of<T>(p.gate_up, row) + col;
            gate[i] = load16(from), up[i] = load16(from + p.f), d_out[i] = load16(row_of<T>(p.d_out, row) + col);
        }
    }
    // Adds what is kept of two rows of sums, rounded as lora_up does.
    __device__ __forceinline__ void add(int i, const float (&sums)[4][4], const Dropout &dropout, const uint4 &words) {
        Pack<T> &d = reinterpret_cast<Pack<T> &>(d_out[i]);
        const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int e = 0; e < 8; e++) {
            bool kept = e % 2 ? dropout.high(pairs[e / 2]) : dropout.low(pairs[e / 2]);
            float v = to_f32(d.v[e]);
            if (kept) v = fmaf(dropout.scale, sums[e / 2][i % 2 * 2 + e % 2], v);
            d.v[e] = from_f32<T>(v);
        }
    }
    // `d_out` becomes SwiGLU's output.
    __device__ __forceinline__ void differentiate(int i) {
        Pack<T> &d = reinterpret_cast<Pack<T> &>(d_out[i]), &g = reinterpret_cast<Pack<T> &>(gate[i]);
        Pack<T> &u = reinterpret_cast<Pack<T> &>(up[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            SwigluGrads grads = swiglu_grads<T, BRANCH>(to_f32(g.v[j]), to_f32(u.v[j]), to_f32(d.v[j]));
            g.v[j] = from_f32<T>(grads.gate), u.v[j] = from_f32<T>(grads.up), d.v[j] = from_f32<T>(grads.out);
        }
    }
    // Of row i; `sums` are those of rows i and i ^ 1.
    __device__ __forceinline__ void store(int i, char *x_tile, unsigned token, unsigned end, const Dropout &dropout,
                                          const float (&sums)[4][4]) {
        unsigned row = token + first + i;
        uint4 words;
        if (ADD) words = dropout.words(row, col / 8), add(i, sums, dropout, words);
        differentiate(i);
        if (inside && row < end) {
            T *to = row_of<T>(p.d_gate_up, row) + col;
            store16(to, gate[i]), store16(to + p.f, up[i]);
            if (ADD) drop8(d_out[i], dropout, words);
            else if (DROP) drop8(d_out[i], dropout, row, col / 8);
        } else {
            d_out[i] = make_uint4(0, 0, 0, 0); // another thread's, which may have overwritten them
        }
        *reinterpret_cast<uint4 *>(x_tile + x_piece(first + i, threadIdx.x % 8)) = d_out[i];
    }
};

template <class T, bool DROP, bool ADD, int MT> __device__ void swiglu_grad_tiles(const LoraSwigluGradParams &ps) {
    constexpr unsigned BYTES = X_TILE_BYTES + TileProducts<T, MT>::A_TILE_BYTES;
    extern __shared__ __align__(128) char tiles[]; // two of each; ADD: and A
    const LoraWeightGradParams &p = ps.factor;
    unsigned begin = blockIdx.y * p.split_len, end = min(begin + p.split_len, p.n);
    Dropout dropout = dropout_of(p.dropout);
    dropout.scale = p.scale;
    TileProducts<T, MT> products(p, blockIdx.x);
    SwigluTiles<T, DROP, ADD, !DROP || (MT > 2)> swiglu(ps.swiglu, products.col0);
    AdapterTile<T, MT> adapter{reinterpret_cast<uint2 *>(tiles + 2 * BYTES)};
    auto queue_a = [&](unsigned at, unsigned token) {
        if (token < end) products.queue_a(shared_address(tiles + at) + X_TILE_BYTES, token, end);
        cp_async_commit();
    };
    swiglu.load(begin);
    if (ADD) adapter.fill(p, static_cast<const T *>(ps.a), products.col0), queue_a(0, begin);
    unsigned at = 0;
    for (unsigned token = begin; token < end; token += TILE_TOKENS, at = BYTES - at) {
        uint32_t x_tile = shared_address(tiles + at);
        if (ADD) {
            cp_async_wait<0>();
            __syncthreads(); // d_xa of these tokens is there
        } else {
            queue_a(at, token);
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sums[4][4] = {};
            if (ADD) adapter.multiply(sums, tiles + at + X_TILE_BYTES, h);
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) swiglu.store(i, tiles + at, token, end, dropout, sums);
        }
        if (token + TILE_TOKENS < end) swiglu.load(token + TILE_TOKENS);
        if (!ADD) cp_async_wait<0>();
        // These tiles are complete. Nobody writes to them before the next barrier, when they have been multiplied.
        __syncthreads();
        if (ADD) queue_a(BYTES - at, token + TILE_TOKENS);
        products.multiply(x_tile + X_TILE_BYTES, x_tile);
    }
    products.store(p.partial + size_t(blockIdx.y) * p.r * p.cols);
}
