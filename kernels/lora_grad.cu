// The gradients of the low-rank adapter: lora_weight_grad (a sum over tokens, r x cols) for both factors, and the
// transposes that it and the kernels of lora.cu want.
#include "lora_out_grad.cuh"
#include "lora_sums.cuh"
#include "vec8.cuh"

// ------------------------------------------------------------------------------------------------ transposes

// Small matrices (blockIdx.y), in tiles of 32 x 32.
template <class T> __device__ void lora_transpose(const LoraTransposeParams &params) {
    constexpr unsigned TILE = LORA_TRANSPOSE_TILE, ROWS = LORA_TRANSPOSE_THREADS / TILE;
    __shared__ T tile[TILE][TILE + 1]; // one more, so that a column is in 32 banks
    const TransposeParams &p = params.matrices[blockIdx.y];
    unsigned across = (p.cols + TILE - 1) / TILE, down = (p.out.stride + TILE - 1) / TILE;
    unsigned tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
    for (unsigned i = blockIdx.x; i < across * down; i += gridDim.x) {
        unsigned col = i % across * TILE, row = i / across * TILE;
        for (unsigned y = ty; y < TILE; y += ROWS) {
            bool inside = row + y < p.rows && col + tx < p.cols;
            tile[y][tx] = inside ? row_of<T>(p.x, row + y)[col + tx] : from_f32<T>(0);
        }
        __syncthreads();
        for (unsigned y = ty; y < TILE; y += ROWS)
            if (col + y < p.cols && row + tx < p.out.stride)
                row_of<T>(p.out, col + y)[row + tx] = tile[tx][y];
        __syncthreads();
    }
}
INSTANTIATE(lora_transpose, LoraTransposeParams)

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
//
// x is the large matrix and is read once, 16 bytes a lane, 4 tokens of 8 columns, so that a warp's load is whole lines
// of 128 bytes; xa_t is small and comes from the cache. The contraction is over tokens, which are rows of both: xa has
// been transposed, and of x `pair` puts two tokens of one column together, which is the operand that ldmatrix.trans
// would make of a tile in shared memory, without the tile. The next runs are under way while one is multiplied. The
// sums, 32 or 64 f32 a thread, leave room for two CTAs on a multiprocessor. The bound is the memory.
template <class T, bool DROP, int TILES> struct WeightGrad {
    static constexpr unsigned WARPS = LORA_WEIGHT_GRAD_WARPS, RUN = LORA_WEIGHT_GRAD_RUN;
    const LoraWeightGradParams &p;
    Dropout dropout;
    unsigned lane, g, t, chunk, group, groups; // chunk: of r; group: of the warps that share a chunk
    unsigned col0, r0, col;
    const T *x, *a[2 * TILES];
    float acc[TILES][8][4] = {};

    __device__ __forceinline__ WeightGrad(const LoraWeightGradParams &p, unsigned tile)
        : p(p), dropout(dropout_of(p.dropout)), lane(threadIdx.x % 32), g(lane / 4), t(lane % 4) {
        unsigned warp = threadIdx.x / 32, chunks = 1;
        while (chunks * 16 * TILES < p.r) chunks *= 2;
        chunk = warp % chunks, group = warp / chunks, groups = WARPS / chunks;
        col0 = tile * LORA_WEIGHT_GRAD_COLS, r0 = chunk * 16 * TILES;
        // Columns and rows that do not exist repeat the last ones; tokens that do not are zeros in xa_t.
        col = min(col0 + 8 * g, p.cols - 8);
        x = static_cast<const T *>(p.x.ptr) + col;
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) a[i] = row_of<T>(p.xa_t, min(r0 + 8 * i + g, p.r - 1)) + 4 * t;
    }
    // A run of 16 tokens: x, and xa of it.
    struct Loaded {
        Columns x;
        uint2 a[2 * TILES];
    };
    __device__ __forceinline__ void load(Loaded &run, unsigned token) const {
#pragma unroll
        for (int i = 0; i < 4; i++) run.x.rows[i] = load16(x + size_t(min(token + 4 * t + i, p.n - 1)) * p.x.stride);
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) run.a[i] = load8bytes(a[i] + token);
    }
    __device__ __forceinline__ void multiply(Loaded &run, unsigned token) {
        if (DROP)
#pragma unroll
            for (int i = 0; i < 4; i++) drop8(run.x.rows[i], dropout, token + 4 * t + i, col / 8);
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            uint32_t operand[4] = {run.a[2 * m].x, run.a[2 * m + 1].x, run.a[2 * m].y, run.a[2 * m + 1].y};
#pragma unroll
            for (int j = 0; j < 8; j++) mma_m16n8k16<T>(acc[m][j], operand, run.x.pair(j, 0), run.x.pair(j, 2));
        }
    }
    // This warp's runs of tokens begin .. end, AHEAD of which are under way while one is multiplied.
    __device__ __forceinline__ void add(unsigned begin, unsigned end) {
        constexpr unsigned AHEAD = TILES == 1 && !DROP ? 2 : 1;
        Loaded runs[AHEAD + 1];
        unsigned token = begin + group * RUN, step = groups * RUN;
#pragma unroll
        for (unsigned i = 0; i < AHEAD; i++)
            if (token + i * step < end) load(runs[i], token + i * step);
        while (token < end) {
#pragma unroll
            for (unsigned i = 0; i <= AHEAD; i++, token += step) {
                if (token >= end) break;
                if (token + AHEAD * step < end) load(runs[(i + AHEAD) % (AHEAD + 1)], token + AHEAD * step);
                multiply(runs[i], token);
            }
        }
    }
    // Adds the groups of each chunk to its first, one after the other, through one buffer: the first barrier says that
    // it has been read, the second that it has been written. `sums`: [r chunks][TILES * 32][32], a lane's own in one
    // bank.
    __device__ __forceinline__ void add_groups(float *sums) {
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
    }
    __device__ __forceinline__ void store(float *out) const {
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
};

template <class T, bool DROP, int TILES> __device__ void weight_grad(const LoraWeightGradsParams &ps) {
    extern __shared__ float sums[];
    // The CTAs of the same columns are neighbours, whatever their factor: those of one input read the same x.
    const LoraWeightGradParams &p = ps.factors[blockIdx.x % ps.count];
    unsigned tile = blockIdx.x / ps.count;
    if (tile * LORA_WEIGHT_GRAD_COLS >= p.cols) return; // another factor has more
    unsigned begin = blockIdx.y * p.split_len, end = min(begin + p.split_len, p.n);
    WeightGrad<T, DROP, TILES> products(p, tile);
    products.add(begin, end);
    products.add_groups(sums);
    if (products.group == 0) products.store(p.partial + size_t(blockIdx.y) * p.r * p.cols);
}

#define INSTANTIATE_WEIGHT_GRAD(T, width)                                                                              \
    extern "C" __global__ void __launch_bounds__(LORA_WEIGHT_GRAD_THREADS, 2)                                          \
        lora_weight_grad##width##_##T(const __grid_constant__ LoraWeightGradsParams p) {                               \
        begin_kernel();                                                                                                \
        weight_grad<T, false, width / 16>(p);                                                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(LORA_WEIGHT_GRAD_THREADS, width == 16 ? 2 : 1)                        \
        lora_weight_grad##width##_drop_##T(const __grid_constant__ LoraWeightGradsParams p) {                          \
        begin_kernel();                                                                                                \
        weight_grad<T, true, width / 16>(p);                                                                           \
    }
INSTANTIATE_WEIGHT_GRAD(bf16, 16)
INSTANTIATE_WEIGHT_GRAD(f16, 16)
INSTANTIATE_WEIGHT_GRAD(bf16, 32)
INSTANTIATE_WEIGHT_GRAD(f16, 32)

// By way of shared memory (lora_tile.cuh), where each element of x is read and paired once, whatever r: for r up to 128, but
// for r up to 16 with dropout and many tokens.
#define INSTANTIATE_TILES(T, name, drop, width)                                                                        \
    extern "C" __global__ void __launch_bounds__(LORA_WEIGHT_GRAD_THREADS, 2)                                          \
        lora_weight_grad_tiles##name##_##T(const __grid_constant__ LoraWeightGradsParams p) {                          \
        begin_kernel();                                                                                                \
        weight_grad_tiles<T, drop, width / 16>(p);                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(LORA_WEIGHT_GRAD_THREADS,                                             \
                                                  width == 128 || (drop && width == 64) ? WIDEST_CTAS : 2)             \
        lora_swiglu_grad##name##_##T(const __grid_constant__ LoraSwigluGradParams p) {                                 \
        begin_kernel();                                                                                                \
        swiglu_grad_tiles<T, drop, drop && width <= LORA_SWIGLU_GRAD_ADDED_R, width / 16>(p);                          \
    }
#define INSTANTIATE_ALL_TILES(T)                                                                                       \
    INSTANTIATE_TILES(T, 16, false, 16)                                                                                \
    INSTANTIATE_TILES(T, 32, false, 32)                                                                                \
    INSTANTIATE_TILES(T, 64, false, 64)                                                                                \
    INSTANTIATE_TILES(T, 128, false, 128)                                                                              \
    INSTANTIATE_TILES(T, 16_drop, true, 16)                                                                            \
    INSTANTIATE_TILES(T, 32_drop, true, 32)                                                                            \
    INSTANTIATE_TILES(T, 64_drop, true, 64)                                                                            \
    INSTANTIATE_TILES(T, 128_drop, true, 128)
INSTANTIATE_ALL_TILES(bf16)
INSTANTIATE_ALL_TILES(f16)

// A thread for each column of x and eight of r, over the tokens of one part.
template <class T> __device__ void lora_weight_grad_simt(const LoraWeightGradsParams &ps) {
    constexpr unsigned WIDTH = LORA_WEIGHT_GRAD_SIMT_COLS;
    const LoraWeightGradParams &p = ps.factors[blockIdx.z];
    unsigned chunks = (p.r + WIDTH - 1) / WIDTH;
    unsigned col = blockIdx.x / chunks * LORA_WEIGHT_GRAD_THREADS + threadIdx.x, r0 = blockIdx.x % chunks * WIDTH;
    unsigned begin = blockIdx.y * p.split_len, end = min(begin + p.split_len, p.n);
    if (col >= p.cols) return;
    Dropout dropout = dropout_of(p.dropout);
    float sum[WIDTH] = {};
    for (unsigned token = begin; token < end; token++) {
        if (!kept(dropout, token, col)) continue;
        float x = to_f32(row_of<T>(p.x, token)[col]);
        const T *xa = row_of<T>(p.xa, token);
#pragma unroll
        for (unsigned j = 0; j < WIDTH; j++) sum[j] += x * to_f32(xa[min(r0 + j, p.r - 1)]);
    }
#pragma unroll
    for (unsigned j = 0; j < WIDTH; j++)
        if (r0 + j < p.r) p.partial[(size_t(blockIdx.y) * p.r + r0 + j) * p.cols + col] = sum[j];
}
INSTANTIATE(lora_weight_grad_simt, LoraWeightGradsParams)

// ------------------------------------------------------------------------------------------------ their sums

extern "C" __global__ void lora_weight_grad_sum(const __grid_constant__ LoraWeightGradsParams ps) {
    begin_kernel();
    const LoraWeightGradParams &p = ps.factors[blockIdx.z];
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    unsigned row = i / p.cols, col = i % p.cols;
    if (!p.transposed && row < p.r) {
        float sum[1] = {};
        sum_parts<8>(p, row, col, sum);
        p.out[i] += sum[0];
    }
    if (p.transposed && row * SUMS < p.r) add_transposed(p, row * SUMS, col);
}

// ------------------------------------------------------------------------------------------------ d_xa and d_b

#define INSTANTIATE_OUT_GRAD(T, width)                                                                                 \
    extern "C" __global__ void __launch_bounds__(LORA_WEIGHT_GRAD_THREADS, 2)                                          \
        lora_out_grad##width##_##T(const __grid_constant__ LoraOutGradsParams p) {                                     \
        begin_kernel();                                                                                                \
        out_grad<T, width / 16>(p);                                                                                    \
    }
INSTANTIATE_OUT_GRAD(bf16, 16)
INSTANTIATE_OUT_GRAD(f16, 16)
INSTANTIATE_OUT_GRAD(bf16, 32)
INSTANTIATE_OUT_GRAD(f16, 32)

template <class T> __device__ void lora_out_grad_sum(const LoraOutGradSumsParams &p) { out_grad_sum<T>(p, blockIdx.x); }
INSTANTIATE_FOR(lora_out_grad_sum, LoraOutGradSumsParams, bf16)
INSTANTIATE_FOR(lora_out_grad_sum, LoraOutGradSumsParams, f16)
