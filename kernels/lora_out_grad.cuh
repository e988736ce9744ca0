#pragma once
// What the adapter takes from the gradient of its output, from one read of it: d_xa = d_out B, a sum over columns, and
// d_b = d_out^T xa, a sum over tokens.
#include "lora_tile.cuh"

// A CTA has up to TILES tiles of 64 columns and the tokens of one part. It walks over its tokens in blocks of 128, and in
// each over its tiles, which come to shared memory by `cp.async`. For d_b each of the 8 warps has 16 columns of r and 8 MT
// of a tile, over all tokens, and keeps them to the end; for d_xa it has 16 tokens over all of the CTA's columns, whose sums
// are a part, stored for each block. So nothing is added across warps. r: up to 16 MT.
template <class T, int MT> struct OutGrad {
    static constexpr unsigned R = 16 * MT, TILES = LORA_OUT_GRAD_TILES / MT, STAGES = LORA_OUT_GRAD_STAGES;
    static constexpr unsigned XA_BYTES = TILE_TOKENS * R * 2, BYTES = X_TILE_BYTES + XA_BYTES;
    static constexpr unsigned THREADS = LORA_WEIGHT_GRAD_THREADS;

    const LoraOutGradParams &p;
    unsigned lane, warp, tiles, col0, begin, end, piece;
    float d_b[TILES][MT][4] = {}, d_xa[2 * MT][4] = {};
    uint32_t xa[TILE_TOKENS / 16][4]; // of the block's tokens, transposed

    __device__ __forceinline__ OutGrad(const LoraOutGradsParams &ps, const LoraOutGradParams &p)
        : p(p), lane(threadIdx.x % 32), warp(threadIdx.x / 32), tiles(ps.tiles), col0(blockIdx.x * tiles * TILE_COLS),
          begin(blockIdx.y * p.d_b.split_len), end(min(begin + p.d_b.split_len, p.d_b.n)), piece(threadIdx.x % 8) {}

    // Byte offset of a piece of 16 bytes of a row of R elements; the XOR puts one piece of 8 rows into different banks.
    static __device__ __forceinline__ uint32_t r_piece(unsigned row, unsigned piece) {
        return row * R * 2 + (piece ^ row / (4 / MT) % (2 * MT)) * 16;
    }
    // Rows row .. of a matrix of r columns; zeros from `rows` on, and beyond its columns.
    __device__ __forceinline__ void queue_rows(uint32_t tile, const T *from, unsigned stride, unsigned row, unsigned rows,
                                               unsigned count) const {
        for (unsigned i = threadIdx.x; i < count * 2 * MT; i += THREADS) {
            unsigned at = i / (2 * MT), column = i % (2 * MT) * 8;
            bool inside = row + at < rows && column < p.d_b.r;
            cp_async16(tile + r_piece(at, i % (2 * MT)), inside ? from + size_t(row + at) * stride + column : from,
                       inside ? 16 : 0);
        }
    }
    __device__ __forceinline__ void queue_b(uint32_t tile) const {
        queue_rows(tile, static_cast<const T *>(p.b), p.d_b.r, col0, p.d_b.cols, tiles * TILE_COLS);
    }
    // Tile `tile` of the block of tokens token .. , and xa of these with the first.
    __device__ __forceinline__ void queue(uint32_t to, unsigned token, unsigned tile) const {
        unsigned col = min(col0 + tile * TILE_COLS + 8 * piece, p.d_b.cols - 8);
#pragma unroll
        for (unsigned i = 0; i < TILE_TOKENS * TILE_COLS / 8 / THREADS; i++) {
            unsigned row = threadIdx.x / 8 + i * (THREADS / 8);
            cp_async16(to + x_piece(row, piece), row_of<T>(p.d_b.x, min(token + row, p.d_b.n - 1)) + col, 16);
        }
        if (tile == 0)
            queue_rows(to + X_TILE_BYTES, static_cast<const T *>(p.d_b.xa.ptr), p.d_b.xa.stride, token, end, TILE_TOKENS);
    }
    __device__ __forceinline__ void load_xa(uint32_t tile) {
#pragma unroll
        for (unsigned i = 0; i < TILE_TOKENS / 16; i++)
            ldmatrix_x4_trans(xa[i], tile + r_piece(16 * i + lane % 8 + lane / 16 * 8, warp % MT * 2 + lane / 8 % 2));
    }
    __device__ __forceinline__ void multiply(uint32_t x_tile, uint32_t b_tile, float (&d_b)[MT][4]) {
#pragma unroll
        for (unsigned k = 0; k < TILE_COLS; k += 16) {
            uint32_t a[4];
            ldmatrix_x4(a, x_tile + x_piece(warp * 16 + lane % 16, k / 8 + lane / 16));
#pragma unroll
            for (int m = 0; m < MT; m++) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, b_tile + r_piece(k + lane % 16, 2 * m + lane / 16));
                mma_m16n8k16<T>(d_xa[2 * m], a, b[0], b[1]);
                mma_m16n8k16<T>(d_xa[2 * m + 1], a, b[2], b[3]);
            }
        }
#pragma unroll
        for (unsigned k = 0; k < TILE_TOKENS; k += 32)
#pragma unroll
            for (int j = 0; j < MT; j++) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, x_tile + x_piece(k + lane, warp / MT * MT + j));
                mma_m16n8k16<T>(d_b[j], xa[k / 16], b[0], b[1]);
                mma_m16n8k16<T>(d_b[j], xa[k / 16 + 1], b[2], b[3]);
            }
    }
    // The sums of a block's tokens over the columns of this CTA.
    __device__ __forceinline__ void store_d_xa(unsigned token) {
#pragma unroll
        for (int j = 0; j < 2 * MT; j++)
#pragma unroll
            for (unsigned h = 0; h < 2; h++) {
                unsigned row = token + warp * 16 + lane / 4 + 8 * h;
                float *to = p.partial + (size_t(blockIdx.x) * p.d_b.n + row) * R + 8 * j + lane % 4 * 2;
                if (row < end) *reinterpret_cast<float2 *>(to) = {d_xa[j][2 * h], d_xa[j][2 * h + 1]};
                d_xa[j][2 * h] = d_xa[j][2 * h + 1] = 0;
            }
    }
    __device__ __forceinline__ void store_d_b() const {
        float *out = p.d_b.partial + size_t(blockIdx.y) * p.d_b.r * p.d_b.cols;
#pragma unroll
        for (unsigned s = 0; s < TILES; s++)
#pragma unroll
            for (int j = 0; j < MT; j++)
#pragma unroll
                for (unsigned h = 0; h < 2; h++) {
                    unsigned row = warp % MT * 16 + lane / 4 + 8 * h;
                    unsigned col = col0 + s * TILE_COLS + (warp / MT * MT + j) * 8 + lane % 4 * 2;
                    if (s < tiles && row < p.d_b.r && col < p.d_b.cols)
                        *reinterpret_cast<float2 *>(out + size_t(row) * p.d_b.cols + col) = {d_b[s][j][2 * h],
                                                                                            d_b[s][j][2 * h + 1]};
                }
    }

    __device__ __forceinline__ void run(uint32_t base) {
        uint32_t b_tile = base + STAGES * BYTES;
        unsigned next_token = begin, next_tile = 0, in = 0, out = 0; // of the next copy; stages
        auto queue_next = [&] {
            if (next_token < end) queue(base + in * BYTES, next_token, next_tile);
            cp_async_commit(); // also when empty: the waits below count groups
            in = in + 1 == STAGES ? 0 : in + 1;
            if (++next_tile == tiles) next_tile = 0, next_token += TILE_TOKENS;
        };
        queue_b(b_tile);
#pragma unroll 1
        for (unsigned s = 0; s < STAGES - 1; s++) queue_next();
#pragma unroll 1
        for (unsigned token = begin; token < end; token += TILE_TOKENS) {
#pragma unroll
            for (unsigned s = 0; s < TILES; s++) {
                if (s >= tiles) break;
                cp_async_wait<STAGES - 2>();
                __syncthreads(); // the tile is complete, and that of the step before is free
                queue_next();
                uint32_t x_tile = base + out * BYTES;
                if (s == 0) load_xa(x_tile + X_TILE_BYTES);
                multiply(x_tile, b_tile + s * TILE_COLS * R * 2, d_b[s]);
                out = out + 1 == STAGES ? 0 : out + 1;
            }
            store_d_xa(token);
        }
        store_d_b();
    }
};

template <class T, int MT> __device__ void out_grad(const LoraOutGradsParams &ps) {
    extern __shared__ __align__(128) char tiles[];
    const LoraOutGradParams &p = ps.parts[blockIdx.z];
    if (blockIdx.x * ps.tiles * TILE_COLS >= p.d_b.cols) return; // another part has more
    OutGrad<T, MT>(ps, p).run(shared_address(tiles));
}
