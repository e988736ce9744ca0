#pragma once
// What the kernels of lora_up and lora_skinny are made of.
#include "lora.cuh"

constexpr unsigned UP_TOKENS = LORA_UP_TOKENS, UP_COLS = LORA_UP_COLS;
static_assert(UP_COLS == LORA_UP_THREADS, "a warp has 32 columns; in the form for any type a thread has one");

// A warp's 32 columns of `out`, for 16 TILES rows at a time; r is contracted in chunks of 16 DEPTH. Column 8t + 2j + e
// of the warp is column 2t + e of its j-th product, so that a thread ends up with eight neighbouring columns: `out`,
// the large matrix, moves in 16 bytes. B stays in registers for all rows of the CTA (r up to 16 DEPTH), which is why a
// CTA takes 64 tokens and not more: there have to be enough of them. `out` is asked for before the products.
template <class T, int DEPTH, int TILES> struct Up {
    unsigned g, t, col0;
    bool inside;
    uint2 bs[DEPTH][4];
    Pack<T> sum[2 * TILES]; // rows 8 i + g
    float acc[TILES][4][4];

    __device__ __forceinline__ Up(const LoraUpParams &p, unsigned col0)
        : g(threadIdx.x % 32 / 4), t(threadIdx.x % 4), col0(col0), inside(col0 + 8 * t < p.cols) {}

    __device__ __forceinline__ T *out(const LoraUpParams &p, unsigned row) const {
        return row_of<T>(p.out, row) + col0 + 8 * t;
    }
    __device__ __forceinline__ void load_b(const LoraUpParams &p, unsigned k0) {
        const T *b = static_cast<const T *>(p.b);
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                unsigned k = k0 + 16 * d + 4 * t, col = min(col0 + g / 2 * 8 + 2 * j + g % 2, p.cols - 1);
                bs[d][j] = k < p.r ? load8bytes(b + size_t(col) * p.r + k) : make_uint2(0, 0);
            }
    }
    // Rows row .. of `out`, to add to.
    __device__ __forceinline__ void load_out(const LoraUpParams &p, unsigned row) {
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++)
            if (inside && row + 8 * i + g < p.n) sum[i] = load_pack(out(p, row + 8 * i + g));
#pragma unroll
        for (int m = 0; m < TILES; m++)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int q = 0; q < 4; q++) acc[m][j][q] = 0;
    }
    // Rows row .. of xa, which has `rows`.
    __device__ __forceinline__ void multiply(const LoraUpParams &p, const T *xa, unsigned stride, unsigned row,
                                             unsigned rows, unsigned k0) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            unsigned k = k0 + 16 * d + 4 * t;
            uint2 as[2 * TILES];
#pragma unroll
            for (int i = 0; i < 2 * TILES; i++) {
                size_t at = min(row + 8 * i + g, rows - 1);
                as[i] = k < p.r ? load8bytes(xa + at * stride + k) : make_uint2(0, 0);
            }
#pragma unroll
            for (int m = 0; m < TILES; m++) {
                uint32_t a[4] = {as[2 * m].x, as[2 * m + 1].x, as[2 * m].y, as[2 * m + 1].y};
#pragma unroll
                for (int j = 0; j < 4; j++) mma_m16n8k16<T>(acc[m][j], a, bs[d][j].x, bs[d][j].y);
            }
        }
    }
    template <bool DROP> __device__ __forceinline__ void store(const LoraUpParams &p, unsigned row0) {
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) {
            unsigned row = row0 + 8 * i + g;
            if (!inside || row >= p.n) continue;
            Dropout dropout = dropout_of(p.dropout);
            uint4 words = {};
            if (DROP) words = dropout.words(row, (col0 + 8 * t) / 8);
            const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
            for (int e = 0; e < 8; e++) {
                float v = acc[i / 2][e / 2][i % 2 * 2 + e % 2];
                bool kept = !DROP || (e % 2 ? dropout.high(pairs[e / 2]) : dropout.low(pairs[e / 2]));
                if (kept) sum[i].v[e] = from_f32<T>(fmaf(p.scale, v, to_f32(sum[i].v[e])));
            }
            store16(out(p, row), sum[i]);
        }
    }
};

// What PARTS adapters with r up to 16 add to the same output, each with its mask, which so is read, rounded and written once:
// 16 rows by 32 columns of a warp, whose elements a thread has as in `Up`. B of all parts stays in registers; the next rows
// are asked for before these are multiplied.
template <class T, int PARTS> struct UpTogether {
    struct Rows { // g and g + 8
        uint4 out[2];
        uint2 xa[PARTS][2];
    };
    const LoraUpsParams &p;
    unsigned g, t, col;
    bool inside;
    uint2 b[PARTS][4];

    __device__ __forceinline__ UpTogether(const LoraUpsParams &p, unsigned col0)
        : p(p), g(threadIdx.x % 32 / 4), t(threadIdx.x % 4), col(col0 + 8 * t), inside(col < p.parts[0].cols) {
#pragma unroll
        for (int i = 0; i < PARTS; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                unsigned column = min(col0 + g / 2 * 8 + 2 * j + g % 2, p.parts[i].cols - 1), r = p.parts[i].r;
                const T *from = static_cast<const T *>(p.parts[i].b) + size_t(column) * r + 4 * t;
                b[i][j] = 4 * t < r ? load8bytes(from) : make_uint2(0, 0);
            }
    }
    __device__ __forceinline__ T *out(unsigned row) const { return row_of<T>(p.parts[0].out, row) + col; }

    __device__ __forceinline__ void load(Rows &rows, unsigned row0) const {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            unsigned row = min(row0 + g + 8 * h, p.parts[0].n - 1);
            rows.out[h] = inside ? load16(out(row)) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                const LoraUpParams &part = p.parts[i];
                rows.xa[i][h] = 4 * t < part.r ? load8bytes(row_of<T>(part.xa, row) + 4 * t) : make_uint2(0, 0);
            }
        }
    }
    __device__ __forceinline__ void add_part(int i, float (&sums)[2][8], const Rows &rows, unsigned row0) const {
        float acc[4][4] = {};
        const uint2 *xa = rows.xa[i];
        uint32_t a[4] = {xa[0].x, xa[1].x, xa[0].y, xa[1].y};
#pragma unroll
        for (int j = 0; j < 4; j++) mma_m16n8k16<T>(acc[j], a, b[i][j].x, b[i][j].y);
        Dropout dropout = dropout_of(p.parts[i].dropout);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint4 words = dropout.words(row0 + g + 8 * h, col / 8);
            const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
            for (int e = 0; e < 8; e++) {
                bool kept = e % 2 ? dropout.high(pairs[e / 2]) : dropout.low(pairs[e / 2]);
                if (kept) sums[h][e] = fmaf(p.parts[i].scale, acc[e / 2][2 * h + e % 2], sums[h][e]);
            }
        }
    }
    __device__ __forceinline__ void add(const Rows &rows, unsigned row0) const {
        float sums[2][8];
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int e = 0; e < 8; e++) sums[h][e] = to_f32(reinterpret_cast<const Pack<T> &>(rows.out[h]).v[e]);
#pragma unroll
        for (int i = 0; i < PARTS; i++) add_part(i, sums, rows, row0);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            Pack<T> v;
#pragma unroll
            for (int e = 0; e < 8; e++) v.v[e] = from_f32<T>(sums[h][e]);
            unsigned row = row0 + g + 8 * h;
            if (inside && row < p.parts[0].n) store16(out(row), v);
        }
    }
};

template <class T, int PARTS> __device__ void up_together(const LoraUpsParams &p) {
    unsigned cols = p.parts[0].cols, across = (cols + UP_COLS - 1) / UP_COLS;
    unsigned col0 = blockIdx.x % across * UP_COLS + threadIdx.x / 32 * 32, row = blockIdx.x / across * UP_TOKENS;
    unsigned end = min(row + UP_TOKENS, p.parts[0].n);
    if (col0 >= cols) return;
    UpTogether<T, PARTS> tile(p, col0);
    typename UpTogether<T, PARTS>::Rows rows, next;
    tile.load(next, row);
#pragma unroll 1
    for (; row < end; row += 16) {
        rows = next;
        if (row + 16 < end) tile.load(next, row + 16);
        tile.add(rows, row);
    }
}
