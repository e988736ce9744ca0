// out (+)= x W^T and d_x (+)= d_out W with a 4-bit W. Which kernel takes which shape: src/cuda/launch/linear4.rs.
#include "quant.cuh"
#include "simt.cuh"
#include "tensor.cuh"
#include <type_traits>

template <class T, class O> __device__ Product<T, O> product_of(const Linear4Params &p, bool grad) {
    unsigned m = grad ? p.weight.cols : p.weight.rows, k = grad ? p.weight.rows : p.weight.cols;
    return {static_cast<const T *>(p.x), static_cast<O *>(p.out), p.partial, p.n, m, k,
            p.x_stride,                  p.out_stride,            p.accumulate, p.splits};
}

// ------------------------------------------------------------------------------------------------- any shape: FMA

// The weight for simt.cuh.
template <class T> struct Coded {
    const Weight4Params &p;
    const CodeTable &codes;
    const float *map;
    unsigned rows, cols;

    __device__ __forceinline__ static float round(float v) { return to_f32(from_f32<T>(v)); }
    __device__ __forceinline__ float at(size_t i) const { return round(weight4_at(p, i, map)); }
    __device__ __forceinline__ float4 at4(size_t i) const {
        uint32_t two = p.codes[i / 2] | p.codes[i / 2 + 1] << 8;
        float absmax = block_absmax(p, i >> p.block_shift, map);
        auto value = [&](int e) { return round(__fmul_rn(codes.at(two, e), absmax)); };
        return make_float4(value(0), value(1), value(2), value(3));
    }
};

template <class T, class O, bool GRAD, bool ROWS> __device__ void any(const Linear4Params &p) {
    __shared__ CodeTable codes;
    __shared__ float map[256];
    codes.fill(p.weight.fp4);
    fill_dynamic_map(map);
    __syncthreads();
    Coded<T> weight{p.weight, codes, map, p.weight.rows, p.weight.cols};
    if constexpr (ROWS) {
        simt_rows(product_of<T, O>(p, false), weight);
    } else {
        simt_product<GRAD>(product_of<T, O>(p, GRAD), weight);
    }
}

ENTRIES(linear4_any, Linear4Params, SIMT_THREADS, 2, any, false, false)
ENTRIES_F32_OUT(linear4_any, Linear4Params, SIMT_THREADS, 2, any, false, false)
ENTRY_F32(linear4_any, Linear4Params, SIMT_THREADS, 2, any, false, false)
ENTRIES(linear4_any_rows, Linear4Params, SIMT_THREADS, 2, any, false, true)
ENTRIES_F32_OUT(linear4_any_rows, Linear4Params, SIMT_THREADS, 2, any, false, true)
ENTRY_F32(linear4_any_rows, Linear4Params, SIMT_THREADS, 2, any, false, true)
ENTRIES(linear4_grad_any, Linear4Params, SIMT_THREADS, 2, any, true, false)
ENTRY_F32(linear4_grad_any, Linear4Params, SIMT_THREADS, 2, any, true, false)

// ------------------------------------------------------------------------------- 9 tokens and more: tensor cores

// Decodes a tile: each thread 32 weights of one row, so of one block. Wants the codes aligned to 16 bytes and cols a
// multiple of 32.
template <class T, bool GRAD> struct CodedStager {
    static constexpr int BUFFERS = 2;
    static constexpr bool DECODES = true;
    static constexpr int THREADS_A_ROW = (GRAD ? TILE_OUT : TILE_K) / 32;
    const Weight4Params &p;
    const CodeTable &table;
    const float *map;
    uint4 codes;
    uint32_t scale; // bits of absmax; when nested, its code
    float2 group;

    __device__ __forceinline__ void queue(uint32_t, unsigned, unsigned) {}
    __device__ __forceinline__ void fetch(unsigned j0, unsigned k0) {
        unsigned row = (GRAD ? k0 : j0) + threadIdx.x / THREADS_A_ROW;
        unsigned col = (GRAD ? j0 : k0) + threadIdx.x % THREADS_A_ROW * 32;
        codes = {};
        scale = 0;
        group = {};
        if (row >= p.rows || col >= p.cols) return; // scale 0: zeros
        size_t i = size_t(row) * p.cols + col, block = i >> p.block_shift;
        codes = __ldg(reinterpret_cast<const uint4 *>(p.codes + i / 2));
        if (p.absmax) {
            scale = __float_as_uint(p.absmax[block]);
        } else {
            scale = p.absmax_codes[block];
            group = group_of(p, block);
        }
    }
    __device__ __forceinline__ void decode(char *tile) {
        float absmax = p.absmax ? __uint_as_float(scale) : nested_absmax(map[scale], group);
        uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
        unsigned row = threadIdx.x / THREADS_A_ROW, piece = threadIdx.x % THREADS_A_ROW * 4;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            Pack<T> pack;
            table.decode8<T>(words[i], absmax, pack.v);
            *reinterpret_cast<Pack<T> *>(tile + weight_tile<GRAD>(row, piece + i)) = pack;
        }
    }
};

template <class T, class O, bool GRAD, int TOKENS> __device__ void tensor(const Linear4Params &p) {
    __shared__ CodeTable table;
    __shared__ float map[256];
    table.fill(p.weight.fp4);
    fill_dynamic_map(map);
    __syncthreads();
    CodedStager<T, GRAD> stager{p.weight, table, map};
    tensor_product<GRAD, TOKENS>(product_of<T, O>(p, GRAD), stager);
}
ENTRIES(linear4_tensor32, Linear4Params, TENSOR_THREADS, 2, tensor, false, 32)
ENTRIES(linear4_tensor64, Linear4Params, TENSOR_THREADS, 2, tensor, false, 64)
ENTRIES(linear4_tensor128, Linear4Params, TENSOR_THREADS, 2, tensor, false, 128)
ENTRIES_F32_OUT(linear4_tensor32, Linear4Params, TENSOR_THREADS, 2, tensor, false, 32)
ENTRIES_F32_OUT(linear4_tensor64, Linear4Params, TENSOR_THREADS, 2, tensor, false, 64)
ENTRIES_F32_OUT(linear4_tensor128, Linear4Params, TENSOR_THREADS, 2, tensor, false, 128)
ENTRIES(linear4_grad_tensor32, Linear4Params, TENSOR_THREADS, 2, tensor, true, 32)
ENTRIES(linear4_grad_tensor64, Linear4Params, TENSOR_THREADS, 2, tensor, true, 64)
ENTRIES(linear4_grad_tensor128, Linear4Params, TENSOR_THREADS, 2, tensor, true, 128)

// -------------------------------------------------------------------------- up to 16 tokens: one pass over the codes
// The weight is operand A of the tensor cores: 16 of its rows, as they lie in memory, and up to 16 tokens as B. A
// byte of codes becomes a pair of T in one look-up, in a table with a copy for each lane; the scale multiplies the sum
// over 64 weights. Wants the codes aligned to 16 bytes, cols a multiple of 64, blocks of 64 and more, and x and its
// rows aligned to 16 bytes.

constexpr int UNIT_K = 256;                 // what a warp does at a time: 16 rows, 256 of k
constexpr int UNIT_BYTES = 16 * UNIT_K / 2;
constexpr int TABLE_PITCH = 256;            // bytes from entry to entry: 32 lanes' words, then room for `sums`
constexpr int TABLE_BYTES = 256 * TABLE_PITCH;

// The table holds codes times this, which makes their rounding to T smaller: FP4 becomes exact, and the root mean
// square error of NF4 in bf16 falls from 5.5e-4 to 3.2e-4. The scales are divided by it.
template <class T> __device__ __forceinline__ float table_gain(unsigned fp4) {
    if (fp4) return 12.f;
    return std::is_same_v<T, bf16> ? 1.437005f : 1.f;
}

template <class T> __device__ __forceinline__ void fill_pairs(char *table, unsigned fp4) {
    struct alignas(4) Pair {
        T first, second;
    };
    float gain = table_gain<T>(fp4);
    for (unsigned i = threadIdx.x; i < 256 * 32; i += blockDim.x) {
        unsigned byte = i / 32, lane = i % 32;
        Pair pair{from_f32<T>(gain * code_value(fp4, byte >> 4)), from_f32<T>(gain * code_value(fp4, byte & 15))};
        *reinterpret_cast<Pair *>(table + byte * TABLE_PITCH + lane * 4) = pair;
    }
}

// Word `i` of the other halves of the table's entries.
__device__ __forceinline__ float &spare_word(char *table, unsigned i) {
    return *reinterpret_cast<float *>(table + i / 32 * TABLE_PITCH + 128 + i % 32 * 4);
}

// Where a warp stands: which of its CTA's groups of tiles, and which of its units in that tile.
struct Place {
    unsigned group, unit;
};

// A scale as it lies in memory.
struct RawScale {
    uint32_t bits; // of absmax; when nested, its code
    float2 group;
};

// `p.splits` warps share the k of a tile of 16 rows; a CTA does blockDim.x / 32 / p.splits tiles at a time.
template <class T, class O, int TOKENS8, int STAGES> struct Few {
    const Linear4Params &p;
    char *table;
    const float *map;
    unsigned warp, lane, tiles_at_once, groups, units;
    uint32_t ring;

    __device__ __forceinline__ Few(const Linear4Params &p, char *shared, const float *map)
        : p(p), table(shared), map(map), warp(threadIdx.x / 32), lane(threadIdx.x % 32) {
        unsigned all_units = (p.weight.cols + UNIT_K - 1) / UNIT_K, tiles = (p.weight.rows + 15) / 16;
        tiles_at_once = blockDim.x / 32 / p.splits;
        groups = (tiles + tiles_at_once - 1) / tiles_at_once;
        units = (all_units + p.splits - 1) / p.splits;
        ring = shared_address(shared) + TABLE_BYTES + warp * STAGES * UNIT_BYTES;
    }
    __device__ __forceinline__ unsigned row0(Place at) const {
        return (at.group * tiles_at_once + warp / p.splits) * 16;
    }
    __device__ __forceinline__ unsigned k0(Place at) const {
        return (warp % p.splits + at.unit * p.splits) * UNIT_K;
    }
    __device__ __forceinline__ Place after(Place at) const {
        if (++at.unit == units) at.unit = 0, at.group += gridDim.x;
        return at;
    }

    // Queues the codes of a unit; 8 lanes copy 128 bytes of a row. The XOR keeps the reads free of bank conflicts.
    __device__ __forceinline__ void queue(Place at, int stage) const {
        if (at.group < groups) {
            unsigned piece = lane % 8, k = k0(at) + piece * 32;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                unsigned r = lane / 8 + i * 4, row = row0(at) + r;
                bool inside = row < p.weight.rows && k < p.weight.cols;
                const unsigned char *from = p.weight.codes + (inside ? (size_t(row) * p.weight.cols + k) / 2 : 0);
                cp_async16(ring + stage * UNIT_BYTES + r * 128 + (piece ^ (r % 4 * 2)) * 16, from, inside ? 16 : 0);
            }
        }
        cp_async_commit(); // also when empty: the waits count groups
    }
    // The scale of 64-block t of row g + 8 * half; zero outside.
    __device__ __forceinline__ RawScale load_scale(Place at, int half) const {
        RawScale raw = {};
        unsigned row = row0(at) + lane / 4 + half * 8, k = k0(at) + lane % 4 * 64;
        if (at.group >= groups || row >= p.weight.rows || k >= p.weight.cols) return raw;
        size_t block = (size_t(row) * p.weight.cols + k) >> p.weight.block_shift;
        if (p.weight.absmax) {
            raw.bits = __float_as_uint(p.weight.absmax[block]);
        } else {
            raw.bits = p.weight.absmax_codes[block];
            raw.group = group_of(p.weight, block);
        }
        return raw;
    }
    __device__ __forceinline__ float scale(const RawScale &raw) const {
        float absmax = p.weight.absmax ? __uint_as_float(raw.bits) : nested_absmax(map[raw.bits], raw.group);
        return absmax * (1.f / table_gain<T>(p.weight.fp4));
    }
    // x of token g + 8 * i at the 16 k that this lane multiplies in 64-block `b`: two pieces of 16 bytes.
    __device__ __forceinline__ void load_x(Place at, int b, int i, uint4 (&x)[2]) const {
        unsigned token = lane / 4 + i * 8, k = k0(at) + b * 64;
        x[0] = x[1] = {};
        if (token >= p.n || k >= p.weight.cols) return;
        const T *from = static_cast<const T *>(p.x) + size_t(token) * p.x_stride + k + lane % 4 * 16;
        x[0] = __ldg(reinterpret_cast<const uint4 *>(from));
        x[1] = __ldg(reinterpret_cast<const uint4 *>(from) + 1);
    }
    // Byte `i` of `codes` as a pair.
    __device__ __forceinline__ uint32_t pair(uint32_t codes, int i) const {
        uint32_t offset = __byte_perm(codes, lane * 4, 0x5504 + 0x10 * i); // byte * TABLE_PITCH + lane * 4
        return *reinterpret_cast<const uint32_t *>(table + offset);
    }

    // acc += the unit in `stage`. x of the unit is given when there is room for it in registers.
    __device__ __forceinline__ void multiply(Place at, int stage, const RawScale (&raw)[2],
                                             const uint4 (&early_x)[4][2], float (&acc)[TOKENS8][4]) const {
        float scales[2] = {scale(raw[0]), scale(raw[1])};
        const char *codes = table + TABLE_BYTES + (warp * STAGES + stage) * UNIT_BYTES + lane / 4 * 128;
#pragma unroll
        for (int b = 0; b < 4; b++) {
            unsigned piece = (b * 2 + lane % 4 / 2) ^ (lane / 4 % 4 * 2);
            uint2 low = *reinterpret_cast<const uint2 *>(codes + piece * 16 + lane % 2 * 8);
            uint2 high = *reinterpret_cast<const uint2 *>(codes + 8 * 128 + piece * 16 + lane % 2 * 8);
            float sums[TOKENS8][4] = {};
            uint4 x[TOKENS8][2];
#pragma unroll
            for (int i = 0; i < TOKENS8; i++) {
                if constexpr (TOKENS8 == 1) {
                    x[0][0] = early_x[b][0], x[0][1] = early_x[b][1];
                } else {
                    load_x(at, b, i, x[i]);
                }
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t l = j < 2 ? low.x : low.y, h = j < 2 ? high.x : high.y;
                int byte = j % 2 * 2;
                uint32_t a[4] = {pair(l, byte), pair(h, byte), pair(l, byte + 1), pair(h, byte + 1)};
#pragma unroll
                for (int i = 0; i < TOKENS8; i++) {
                    uint4 v = x[i][j / 2];
                    mma_m16n8k16<T>(sums[i], a, j % 2 ? v.z : v.x, j % 2 ? v.w : v.y);
                }
            }
            float s0 = __shfl_sync(~0u, scales[0], (lane & ~3u) + b), s1 = __shfl_sync(~0u, scales[1], (lane & ~3u) + b);
#pragma unroll
            for (int i = 0; i < TOKENS8; i++) {
                acc[i][0] = fmaf(s0, sums[i][0], acc[i][0]), acc[i][1] = fmaf(s0, sums[i][1], acc[i][1]);
                acc[i][2] = fmaf(s1, sums[i][2], acc[i][2]), acc[i][3] = fmaf(s1, sums[i][3], acc[i][3]);
            }
        }
    }

    // Adds up the warps of each tile, in order, and stores. `odd` alternates, so that one barrier is enough.
    __device__ __forceinline__ void finish(unsigned group, unsigned odd, const float (&acc)[TOKENS8][4]) const {
        constexpr unsigned TOKENS = TOKENS8 * 8, SUMS = 16 * TOKENS;
        unsigned first = odd * 16 * SUMS;
#pragma unroll
        for (int i = 0; i < TOKENS8 * 4; i++) {
            unsigned row = lane / 4 + i % 4 / 2 * 8, token = i / 4 * 8 + lane % 4 * 2 + i % 2;
            spare_word(table, first + warp * SUMS + token * 16 + row) = acc[i / 4][i % 4];
        }
        __syncthreads();
        for (unsigned i = threadIdx.x; i < tiles_at_once * SUMS; i += blockDim.x) {
            unsigned tile = i / SUMS, token = i % SUMS / 16, row = (group * tiles_at_once + tile) * 16 + i % 16;
            if (token >= p.n || row >= p.weight.rows) continue;
            float sum = 0.f;
            for (unsigned w = 0; w < p.splits; w++)
                sum += spare_word(table, first + (tile * p.splits + w) * SUMS + i % SUMS);
            O *o = static_cast<O *>(p.out) + size_t(token) * p.out_stride + row;
            *o = from_f32<O>(p.accumulate ? to_f32(*o) + sum : sum);
        }
    }

    __device__ __forceinline__ void run() const {
        RawScale raw[STAGES][2];
        Place next{blockIdx.x, 0}, at = next;
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++, next = after(next)) {
            queue(next, s);
            raw[s][0] = load_scale(next, 0), raw[s][1] = load_scale(next, 1);
        }
        fill_pairs<T>(table, p.weight.fp4);
        __syncthreads();
        float acc[TOKENS8][4] = {};
        unsigned odd = 0;
        while (at.group < groups) {
#pragma unroll
            for (int s = 0; s < STAGES; s++) { // unrolled, so that raw[] stays in registers
                if (at.group >= groups) break;
                uint4 x[4][2];
                if constexpr (TOKENS8 == 1)
                    for (int b = 0; b < 4; b++) load_x(at, b, 0, x[b]);
                cp_async_wait<STAGES - 2>();
                __syncwarp(); // this unit has arrived for all lanes, and all have read the one before
                constexpr int AHEAD = STAGES - 1;
                queue(next, (s + AHEAD) % STAGES);
                raw[(s + AHEAD) % STAGES][0] = load_scale(next, 0), raw[(s + AHEAD) % STAGES][1] = load_scale(next, 1);
                next = after(next);
                multiply(at, s, raw[s], x, acc);
                if (at.unit + 1 == units) {
                    finish(at.group, odd, acc);
                    odd ^= 1;
#pragma unroll
                    for (int i = 0; i < TOKENS8 * 4; i++) acc[i / 4][i % 4] = 0.f;
                }
                at = after(at);
            }
        }
    }
};

template <class T, class O, int TOKENS8, int STAGES> __device__ void few(const Linear4Params &p) {
    extern __shared__ __align__(128) char shared[];
    __shared__ float map[256];
    fill_dynamic_map(map);
    Few<T, O, TOKENS8, STAGES>(p, shared, map).run();
}
ENTRIES(linear4_few8, Linear4Params, 512, 1, few, 1, 3)
ENTRIES(linear4_few16, Linear4Params, 512, 1, few, 2, 3)
ENTRIES_F32_OUT(linear4_few8, Linear4Params, 512, 1, few, 1, 3)
ENTRIES_F32_OUT(linear4_few16, Linear4Params, 512, 1, few, 2, 3)
// For GPUs with 99 KiB of shared memory: 8 warps.
ENTRIES(linear4_few8_small, Linear4Params, 256, 1, few, 1, 2)
ENTRIES(linear4_few16_small, Linear4Params, 256, 1, few, 2, 2)
ENTRIES_F32_OUT(linear4_few8_small, Linear4Params, 256, 1, few, 1, 2)
ENTRIES_F32_OUT(linear4_few16_small, Linear4Params, 256, 1, few, 2, 2)
