// The low-rank adapter and its gradients, in three kernels that each read every large matrix once:
// lora_down (n x cols to n x r), lora_up (n x r to n x cols) and lora_weight_grad (the sum over tokens, r x cols).
// Each has a form for the tensor cores, named by the columns of r that a warp takes, and one for any type and any
// alignment. The tensor cores do not care in which order a contraction is done, as long as both operands agree: each
// thread loads 8 or 16 neighbouring bytes, and what these are is the k-th element for both.
#include "params.h"
#include "philox.cuh"
#include "ptx.cuh"
#include "reduce.cuh"
#include "vec8.cuh"

__device__ __forceinline__ Dropout dropout_of(const DropoutParams &p) { return {p.seed, p.stream, p.threshold, 1.f}; }

// Zeroes the dropped ones of eight 16-bit elements, the columns of `quad` and the next.
__device__ __forceinline__ void drop8(uint4 &x, const Dropout &dropout, uint32_t row, uint32_t quad) {
    auto mask = [&](uint32_t low, uint32_t high) {
        return (low >= dropout.threshold ? 0xffffu : 0u) | (high >= dropout.threshold ? 0xffff0000u : 0u);
    };
    uint4 a = dropout.words(row, quad), b = dropout.words(row, quad + 1);
    x.x &= mask(a.x, a.y);
    x.y &= mask(a.z, a.w);
    x.z &= mask(b.x, b.y);
    x.w &= mask(b.z, b.w);
}

// Is element (row, col) kept?
__device__ __forceinline__ bool kept(const Dropout &dropout, uint32_t row, uint32_t col) {
    if (dropout.threshold == 0) return true;
    uint4 words = dropout.words(row, col / 4);
    uint32_t word = col % 4 < 2 ? (col % 4 == 0 ? words.x : words.y) : (col % 4 == 2 ? words.z : words.w);
    return word >= dropout.threshold;
}

__device__ __forceinline__ uint4 load16(const void *p) { return *static_cast<const uint4 *>(p); }
__device__ __forceinline__ uint2 load8bytes(const void *p) { return *static_cast<const uint2 *>(p); }

// ------------------------------------------------------------------------------------------------ transposes

// Up to three small matrices (blockIdx.y), in tiles of 32 x 32.
template <class T> __device__ void lora_transpose(const LoraTransposeParams &params) {
    __shared__ T tile[32][33];
    const TransposeParams &p = params.matrices[blockIdx.y];
    unsigned across = (p.cols + 31) / 32, down = (p.out_stride + 31) / 32;
    unsigned tx = threadIdx.x % 32, ty = threadIdx.x / 32;
    for (unsigned i = blockIdx.x; i < across * down; i += gridDim.x) {
        unsigned col = i % across * 32, row = i / across * 32;
        for (unsigned y = ty; y < 32; y += 8) {
            bool inside = row + y < p.rows && col + tx < p.cols;
            tile[y][tx] = inside ? static_cast<const T *>(p.x)[size_t(row + y) * p.x_stride + col + tx] : from_f32<T>(0);
        }
        __syncthreads();
        for (unsigned y = ty; y < 32; y += 8)
            if (col + y < p.cols && row + tx < p.out_stride)
                static_cast<T *>(p.out)[size_t(col + y) * p.out_stride + row + tx] = tile[tx][y];
        __syncthreads();
    }
}
INSTANTIATE(lora_transpose, LoraTransposeParams)

// ------------------------------------------------------------------------------------------------ down

template <class T> __device__ __forceinline__ void store_down(const LoraDownParams &p, unsigned row, unsigned col, float v) {
    if (row < p.n && col < p.r) static_cast<T *>(p.out)[size_t(row) * p.out_stride + col] = from_f32<T>(p.scale * v);
}

// A CTA takes 16 TILES tokens and 8 COLS columns of r; its warps share out `cols` in runs of 32, AHEAD at a time, and
// their sums are added in order at the end. A thread's 16 bytes of x are columns 8t .. 8t + 7 of a run.
template <class T, bool DROP, int COLS, int TILES, int WARPS, int AHEAD> __device__ void down(const LoraDownParams &p) {
    constexpr int ROWS = 16 * TILES, WIDTH = 8 * COLS;
    extern __shared__ float sums[]; // [WARPS][ROWS][WIDTH]
    unsigned warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    // The CTAs of one set of rows are neighbours, so that x comes from the cache for all but the first.
    unsigned chunks = (p.r + WIDTH - 1) / WIDTH;
    unsigned row0 = blockIdx.x / chunks * ROWS, r0 = blockIdx.x % chunks * WIDTH;
    Dropout dropout = dropout_of(p.dropout);
    // Rows that do not exist repeat the last one; their sums are not stored.
    const T *x[2 * TILES], *a = static_cast<const T *>(p.a);
    unsigned a_row[COLS];
#pragma unroll
    for (int i = 0; i < 2 * TILES; i++)
        x[i] = static_cast<const T *>(p.x) + size_t(min(row0 + 8 * i + g, p.n - 1)) * p.x_stride;
#pragma unroll
    for (int j = 0; j < COLS; j++) a_row[j] = min(r0 + 8 * j + g, p.r - 1) * p.cols;
    float acc[TILES][COLS][4] = {};
    for (unsigned run = warp; run * 32 < p.cols; run += WARPS * AHEAD) {
        uint4 xs[AHEAD][2 * TILES], as[AHEAD][COLS];
#pragma unroll
        for (int s = 0; s < AHEAD; s++) {
            unsigned k = min((run + s * WARPS) * 32 + t * 8, p.cols - 8);
#pragma unroll
            for (int i = 0; i < 2 * TILES; i++) xs[s][i] = load16(x[i] + k);
#pragma unroll
            for (int j = 0; j < COLS; j++) as[s][j] = load16(a + (a_row[j] + k));
        }
#pragma unroll
        for (int s = 0; s < AHEAD; s++) {
            unsigned k = (run + s * WARPS) * 32 + t * 8;
#pragma unroll
            for (int i = 0; i < 2 * TILES; i++) {
                if (DROP) drop8(xs[s][i], dropout, row0 + 8 * i + g, k / 4);
                // What was loaded beyond the end is the end again.
                if (k >= p.cols) xs[s][i] = make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (int m = 0; m < TILES; m++) {
                const uint4 &lo = xs[s][2 * m], &hi = xs[s][2 * m + 1];
                uint32_t first[4] = {lo.x, hi.x, lo.y, hi.y}, second[4] = {lo.z, hi.z, lo.w, hi.w};
#pragma unroll
                for (int j = 0; j < COLS; j++) {
                    mma_m16n8k16<T>(acc[m][j], first, as[s][j].x, as[s][j].y);
                    mma_m16n8k16<T>(acc[m][j], second, as[s][j].z, as[s][j].w);
                }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int j = 0; j < COLS; j++)
#pragma unroll
            for (int q = 0; q < 4; q++)
                sums[(warp * ROWS + 16 * m + g + q / 2 * 8) * WIDTH + 8 * j + 2 * t + q % 2] = acc[m][j][q];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < ROWS * WIDTH; i += 32 * WARPS) {
        float sum = 0;
        for (int w = 0; w < WARPS; w++) sum += sums[w * ROWS * WIDTH + i];
        store_down<T>(p, row0 + i / WIDTH, r0 + i % WIDTH, sum);
        sums[i] = sum; // for the transposed copy: no other thread reads this element above
    }
    if (!p.out_t) return;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < ROWS * WIDTH; i += 32 * WARPS) {
        unsigned row = row0 + i % ROWS, col = r0 + i / ROWS;
        if (row >= p.out_t_stride || col >= p.r) continue;
        float sum = row < p.n ? p.scale * sums[i % ROWS * WIDTH + i / ROWS] : 0.f;
        static_cast<T *>(p.out_t)[size_t(col) * p.out_t_stride + row] = from_f32<T>(sum);
    }
}

// `lora_down<width>`: many tokens; `lora_down_few<width>`: few, so that more warps share a row. `_drop`: with dropout.
#define INSTANTIATE_DOWN(T, name, drop, width, ahead, ahead_few)                                                       \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                               \
        lora_down##name##_##T(const __grid_constant__ LoraDownParams p) {                                              \
        down<T, drop, width / 8, 2, 8, ahead>(p);                                                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(512)                                                                  \
        lora_down_few##name##_##T(const __grid_constant__ LoraDownParams p) {                                          \
        down<T, drop, width / 8, 1, 16, ahead_few>(p);                                                                 \
    }
#define INSTANTIATE_DOWNS(T)                                                                                           \
    INSTANTIATE_DOWN(T, 8, false, 8, 2, 4)                                                                             \
    INSTANTIATE_DOWN(T, 16, false, 16, 2, 4)                                                                           \
    INSTANTIATE_DOWN(T, 32, false, 32, 1, 2)                                                                           \
    INSTANTIATE_DOWN(T, 8_drop, true, 8, 2, 2)                                                                         \
    INSTANTIATE_DOWN(T, 16_drop, true, 16, 2, 4)                                                                       \
    INSTANTIATE_DOWN(T, 32_drop, true, 32, 1, 2)
INSTANTIATE_DOWNS(bf16)
INSTANTIATE_DOWNS(f16)

// A warp for each token and eight columns of r.
template <class T> __device__ void lora_down_any(const LoraDownParams &p) {
    constexpr int WARPS = 8;
    unsigned row = blockIdx.x * WARPS + threadIdx.x / 32, r0 = blockIdx.y * 8, lane = threadIdx.x % 32;
    if (row >= (p.out_t ? p.out_t_stride : p.n)) return;
    Dropout dropout = dropout_of(p.dropout);
    const T *x = static_cast<const T *>(p.x) + size_t(row) * p.x_stride, *a = static_cast<const T *>(p.a);
    float sum[8] = {};
    for (unsigned k = row < p.n ? lane : p.cols; k < p.cols; k += 32) {
        float v = kept(dropout, row, k) ? to_f32(x[k]) : 0.f;
#pragma unroll
        for (unsigned j = 0; j < 8; j++) sum[j] += v * to_f32(a[size_t(min(r0 + j, p.r - 1)) * p.cols + k]);
    }
#pragma unroll
    for (unsigned j = 0; j < 8; j++) {
        float v = warp_sum(sum[j]);
        if (lane != 0 || r0 + j >= p.r) continue;
        store_down<T>(p, row, r0 + j, v);
        if (p.out_t) static_cast<T *>(p.out_t)[size_t(r0 + j) * p.out_t_stride + row] = from_f32<T>(p.scale * v);
    }
}
INSTANTIATE(lora_down_any, LoraDownParams)

// ------------------------------------------------------------------------------------------------ up

// Tokens of a CTA, which walks over them 16 or 32 at a time.
constexpr unsigned UP_TOKENS = 64;

// A warp takes 32 columns; r is contracted in chunks of 16 DEPTH. Column 8t + 2j + e of the warp is column 2t + e of
// its j-th product, so that a thread ends up with eight neighbouring columns.
template <class T, bool DROP, int DEPTH, int TILES> __device__ void up(const LoraUpParams &p) {
    unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    unsigned across = (p.cols + 255) / 256;
    unsigned col0 = blockIdx.x % across * 256 + threadIdx.x / 32 * 32, row0 = blockIdx.x / across * UP_TOKENS;
    if (col0 >= p.cols) return;
    Dropout dropout = dropout_of(p.dropout);
    const T *xa = static_cast<const T *>(p.xa), *b = static_cast<const T *>(p.b);
    T *out = static_cast<T *>(p.out) + col0 + 8 * t;
    bool inside = col0 + 8 * t < p.cols;
    uint2 bs[DEPTH][4];
    auto load_b = [&](unsigned k0) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                unsigned k = k0 + 16 * d + 4 * t, col = min(col0 + g / 2 * 8 + 2 * j + g % 2, p.cols - 1);
                bs[d][j] = k < p.r ? load8bytes(b + size_t(col) * p.r + k) : make_uint2(0, 0);
            }
    };
    load_b(0);
#pragma unroll 1
    for (unsigned row = row0; row < min(row0 + UP_TOKENS, p.n); row += 16 * TILES) {
        // Rows row + g + 8 i.
        Pack<T> sum[2 * TILES];
        float acc[TILES][4][4] = {};
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) {
            unsigned at = row + g + 8 * i;
            if (inside && at < p.n) sum[i] = load_pack(out + size_t(at) * p.out_stride);
        }
#pragma unroll 1
        for (unsigned k0 = 0; k0 < p.r; k0 += 16 * DEPTH) {
            if (p.r > 16 * DEPTH) load_b(k0);
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                unsigned k = k0 + 16 * d + 4 * t;
                uint2 as[2 * TILES];
#pragma unroll
                for (int i = 0; i < 2 * TILES; i++) {
                    size_t at = min(row + g + 8 * i, p.n - 1);
                    as[i] = k < p.r ? load8bytes(xa + at * p.xa_stride + k) : make_uint2(0, 0);
                }
#pragma unroll
                for (int m = 0; m < TILES; m++) {
                    uint32_t a[4] = {as[2 * m].x, as[2 * m + 1].x, as[2 * m].y, as[2 * m + 1].y};
#pragma unroll
                    for (int j = 0; j < 4; j++) mma_m16n8k16<T>(acc[m][j], a, bs[d][j].x, bs[d][j].y);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) {
            unsigned at = row + g + 8 * i;
            if (!inside || at >= p.n) continue;
            uint4 lo = make_uint4(~0u, ~0u, ~0u, ~0u), hi = lo;
            if (DROP) {
                lo = dropout.words(at, (col0 + 8 * t) / 4);
                hi = dropout.words(at, (col0 + 8 * t) / 4 + 1);
            }
            uint32_t words[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
            for (int e = 0; e < 8; e++) {
                float v = p.scale * acc[i / 2][e / 2][i % 2 * 2 + e % 2];
                if (!DROP || words[e] >= dropout.threshold) sum[i].v[e] = from_f32<T>(to_f32(sum[i].v[e]) + v);
            }
            store_pack(out + size_t(at) * p.out_stride, sum[i]);
        }
    }
}

#define INSTANTIATE_UP(T, depth)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                               \
        lora_up##depth##_##T(const __grid_constant__ LoraUpParams p) {                                                 \
        up<T, false, depth / 16, depth == 64 ? 1 : 2>(p);                                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                               \
        lora_up##depth##_drop_##T(const __grid_constant__ LoraUpParams p) {                                            \
        up<T, true, depth / 16, depth == 64 ? 1 : 2>(p);                                                                                    \
    }
#define INSTANTIATE_UPS(T)                                                                                             \
    INSTANTIATE_UP(T, 16)                                                                                              \
    INSTANTIATE_UP(T, 32)                                                                                              \
    INSTANTIATE_UP(T, 64)
INSTANTIATE_UPS(bf16)
INSTANTIATE_UPS(f16)

// A thread for each element.
template <class T> __device__ void lora_up_any(const LoraUpParams &p) {
    unsigned across = (p.cols + 255) / 256;
    unsigned row = blockIdx.x / across, col = blockIdx.x % across * 256 + threadIdx.x;
    if (col >= p.cols || !kept(dropout_of(p.dropout), row, col)) return;
    const T *xa = static_cast<const T *>(p.xa) + size_t(row) * p.xa_stride;
    const T *b = static_cast<const T *>(p.b) + size_t(col) * p.r;
    T *out = static_cast<T *>(p.out) + size_t(row) * p.out_stride + col;
    float sum = 0;
    for (unsigned k = 0; k < p.r; k++) sum += to_f32(xa[k]) * to_f32(b[k]);
    *out = from_f32<T>(to_f32(*out) + p.scale * sum);
}
INSTANTIATE(lora_up_any, LoraUpParams)

// ------------------------------------------------------------------------------------------------ weight gradients

// Eight consecutive columns of 16 tokens as operands of eight products: `rows` are tokens 4t .. 4t + 3, and product j
// gets element j of each.
struct Columns {
    uint4 rows[4];

    __device__ __forceinline__ uint32_t pair(int j, int first) const {
        const uint32_t *a = &rows[first].x, *b = &rows[first + 1].x;
        return __byte_perm(a[j / 2], b[j / 2], j % 2 ? 0x7632 : 0x5410);
    }
};

// A CTA takes 64 columns of x and the tokens of one part; a warp 16 TILES columns of r, every `groups`-th run of 16
// tokens. The sums of the warps are added in order. Column 16t + 8e + j is column 2t + e of product j.
template <class T, bool DROP, int TILES> __device__ void weight_grad(const LoraWeightGradParams &p) {
    constexpr unsigned WARPS = 8;
    extern __shared__ float sums[]; // [r chunks][TILES * 32][32]
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned chunks = 1;
    while (chunks * 16 * TILES < p.r) chunks *= 2;
    unsigned chunk = warp % chunks, group = warp / chunks, groups = WARPS / chunks;
    unsigned col0 = blockIdx.x * 64, r0 = chunk * 16 * TILES;
    unsigned begin = blockIdx.y * p.split_len, end = min(begin + p.split_len, p.n);
    Dropout dropout = dropout_of(p.dropout);
    // Columns and rows that do not exist repeat the last ones; tokens that do not are zeros in xa_t.
    unsigned col = min(col0 + 8 * g, p.cols - 8);
    const T *x = static_cast<const T *>(p.x) + col;
    const T *a[2 * TILES];
#pragma unroll
    for (int i = 0; i < 2 * TILES; i++)
        a[i] = static_cast<const T *>(p.xa_t) + size_t(min(r0 + 8 * i + g, p.r - 1)) * p.xa_t_stride + 4 * t;
    float acc[TILES][8][4] = {};
    auto load = [&](Columns &columns, uint2(&as)[2 * TILES], unsigned token) {
#pragma unroll
        for (int i = 0; i < 4; i++) columns.rows[i] = load16(x + size_t(min(token + 4 * t + i, p.n - 1)) * p.x_stride);
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) as[i] = load8bytes(a[i] + token);
    };
    auto multiply = [&](Columns &columns, const uint2(&as)[2 * TILES], unsigned token) {
        if (DROP)
#pragma unroll
            for (int i = 0; i < 4; i++) drop8(columns.rows[i], dropout, token + 4 * t + i, col / 4);
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            uint32_t operand[4] = {as[2 * m].x, as[2 * m + 1].x, as[2 * m].y, as[2 * m + 1].y};
#pragma unroll
            for (int j = 0; j < 8; j++) mma_m16n8k16<T>(acc[m][j], operand, columns.pair(j, 0), columns.pair(j, 2));
        }
    };
    Columns columns, next_columns;
    uint2 as[2 * TILES], next_as[2 * TILES];
    unsigned token = begin + group * 16, step = groups * 16;
    if (token < end) load(columns, as, token);
    for (; token < end; token += step) {
        if (token + step < end) load(next_columns, next_as, token + step);
        multiply(columns, as, token);
        columns = next_columns;
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) as[i] = next_as[i];
    }
    float *mine = sums + chunk * TILES * 32 * 32 + lane;
    for (unsigned from = 1; from < groups; from++) {
        __syncthreads();
        if (group == from)
#pragma unroll
            for (int i = 0; i < TILES * 32; i++) mine[i * 32] = acc[i / 32][i / 4 % 8][i % 4];
        __syncthreads();
        if (group == 0)
#pragma unroll
            for (int i = 0; i < TILES * 32; i++) acc[i / 32][i / 4 % 8][i % 4] += mine[i * 32];
    }
    if (group != 0) return;
    float *out = p.partial + size_t(blockIdx.y) * p.r * p.cols;
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int q = 0; q < 4; q++) {
            unsigned row = r0 + 16 * m + g + q / 2 * 8, at = col0 + 16 * t + q % 2 * 8;
            if (row >= p.r || at >= p.cols) continue;
            Vec8 v;
#pragma unroll
            for (int j = 0; j < 8; j++) v.v[j] = acc[m][j][q];
            store8(out + size_t(row) * p.cols + at, v);
        }
}

#define INSTANTIATE_WEIGHT_GRAD(T, width)                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                               \
        lora_weight_grad##width##_##T(const __grid_constant__ LoraWeightGradParams p) {                                \
        weight_grad<T, false, width / 16>(p);                                                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, width == 16 ? 2 : 1)                                             \
        lora_weight_grad##width##_drop_##T(const __grid_constant__ LoraWeightGradParams p) {                           \
        weight_grad<T, true, width / 16>(p);                                                                           \
    }
INSTANTIATE_WEIGHT_GRAD(bf16, 16)
INSTANTIATE_WEIGHT_GRAD(f16, 16)
INSTANTIATE_WEIGHT_GRAD(bf16, 32)
INSTANTIATE_WEIGHT_GRAD(f16, 32)

// A thread for each column of x and eight of r (blockIdx.z), over the tokens of one part.
template <class T> __device__ void lora_weight_grad_any(const LoraWeightGradParams &p) {
    unsigned col = blockIdx.x * 256 + threadIdx.x, r0 = blockIdx.z * 8;
    unsigned begin = blockIdx.y * p.split_len, end = min(begin + p.split_len, p.n);
    if (col >= p.cols) return;
    Dropout dropout = dropout_of(p.dropout);
    float sum[8] = {};
    for (unsigned token = begin; token < end; token++) {
        if (!kept(dropout, token, col)) continue;
        float x = to_f32(static_cast<const T *>(p.x)[size_t(token) * p.x_stride + col]);
        const T *xa = static_cast<const T *>(p.xa) + size_t(token) * p.xa_stride;
#pragma unroll
        for (unsigned j = 0; j < 8; j++) sum[j] += x * to_f32(xa[min(r0 + j, p.r - 1)]);
    }
#pragma unroll
    for (unsigned j = 0; j < 8; j++)
        if (r0 + j < p.r) p.partial[(size_t(blockIdx.y) * p.r + r0 + j) * p.cols + col] = sum[j];
}
INSTANTIATE(lora_weight_grad_any, LoraWeightGradParams)

// Adds the parts, in order, to the gradient.
extern "C" __global__ void lora_weight_grad_sum(const __grid_constant__ LoraWeightGradParams p) {
    size_t len = size_t(p.r) * p.cols, i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= len) return;
    float sum = 0;
    for (unsigned s = 0; s < p.splits; s++) sum += p.partial[s * len + i];
    float *out = p.out + (p.transposed ? i % p.cols * p.r + i / p.cols : i);
    *out += p.scale * sum;
}
