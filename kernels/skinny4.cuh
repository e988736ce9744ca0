#pragma once
// Forward products of up to 16 tokens with a 4-bit weight, in one pass over the codes. The weight is operand A of the
// tensor cores: 16 of its rows, as they lie in memory, and the tokens are operand B. One look-up turns a byte of codes
// into a pair of T; the table has a copy for each lane, so no two lanes want the same bank. The scale multiplies the
// sum over 64 weights.
//
// Each warp streams its own units of 16 rows by 256 of k, 2 KiB of codes, through STAGES buffers of its own by
// cp.async, so that no barrier stands in the stream: 16 warps keep two units each, 64 KiB, under way on a
// multiprocessor. One CTA has all of it, because the 64 KiB table is made once for a CTA (small GPUs: 8 warps, 2
// stages). Where there are fewer tiles of 16 rows than warps, `splits` warps share the k of one and add their sums in
// shared memory, in order. The bound is the memory, and close behind it the issue slots: a prmt and a look-up for two
// weights leave room for little else.
//
// Wants rows >= 16, cols % 256 = 0, blocks of 64 and more, and x, its rows and the codes aligned to 16 bytes.
#include "ptx.cuh"
#include "quant.cuh"
#include <type_traits>

constexpr int UNIT_K = LINEAR4_SKINNY_UNIT_K;
constexpr int UNIT_BYTES = LINEAR4_SKINNY_UNIT_BYTES;
constexpr int TABLE_PITCH = 256; // bytes from entry to entry: the 32 lanes' words, then room for sums
constexpr int TABLE_BYTES = 256 * TABLE_PITCH;
static_assert(TABLE_BYTES == LINEAR4_SKINNY_TABLE_BYTES && UNIT_BYTES == 16 * UNIT_K / 2);

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

// Where a warp stands: which group of its CTA's tiles, and which of its units of their k.
struct Place {
    unsigned group, unit;
};

// The scales of 64-block t of rows g and g + 8, as they lie in memory.
struct RawScales {
    uint32_t bits[2]; // of absmax; when nested, their codes
    float2 group[2];
};

// `p.splits` warps share the k of a tile of 16 rows; a CTA does blockDim.x / 32 / p.splits tiles, a group, at a time.
template <class T, class O, int TOKENS8, int STAGES> struct Skinny {
    static constexpr unsigned TOKENS = TOKENS8 * 8, SUMS = 16 * TOKENS;
    const Linear4Params &p;
    const float *map;
    char *table;
    unsigned warp, lane, tiles_at_once, groups, units;
    unsigned tile; // of a group: this warp's

    __device__ __forceinline__ Skinny(const Linear4Params &p, const float *map)
        : p(p), map(map), warp(threadIdx.x / 32), lane(threadIdx.x % 32), tile(warp / p.splits) {
        extern __shared__ __align__(128) char shared[];
        table = shared;
        tiles_at_once = blockDim.x / 32 / p.splits;
        groups = ((p.weight.rows + 15) / 16 + tiles_at_once - 1) / tiles_at_once;
        units = (p.weight.cols / UNIT_K + p.splits - 1) / p.splits;
    }
    // The last tile is moved up to end with the weight.
    __device__ __forceinline__ unsigned first_row(unsigned group) const {
        return min((group * tiles_at_once + tile) * 16, p.weight.rows - 16);
    }
    // The warps of a tile take its units in turn. Not `warp % p.splits`: a division in every step, or one register more.
    __device__ __forceinline__ unsigned k0(Place at) const {
        return (at.unit * p.splits + warp - tile * p.splits) * UNIT_K;
    }
    // Not at the end of the groups, nor of k?
    __device__ __forceinline__ bool inside(Place at) const { return at.group < groups && k0(at) < p.weight.cols; }
    __device__ __forceinline__ Place after(Place at) const {
        bool last = at.unit + 1 == units;
        return {last ? at.group + gridDim.x : at.group, last ? 0 : at.unit + 1};
    }

    // Queues the codes of a unit; 8 lanes copy 128 bytes of a row. `multiply` reads 8 bytes a lane, in half-warps: 32
    // bytes of each of four rows, which the XOR puts into different quarters of the 32 banks.
    __device__ __forceinline__ void queue(Place at, int stage) const {
        if (inside(at)) {
            unsigned r = lane / 8, piece = lane % 8;
            size_t first = size_t(first_row(at.group) + r) * p.weight.cols + k0(at);
            const unsigned char *from = p.weight.codes + first / 2 + piece * 16;
            uint32_t to = shared_address(table) + TABLE_BYTES + (warp * STAGES + stage) * UNIT_BYTES + r * 128 +
                          (piece ^ (r * 2)) * 16;
#pragma unroll
            for (int i = 0; i < 4; i++) cp_async16(to + i * 4 * 128, from + i * 2 * size_t(p.weight.cols));
        }
        cp_async_commit(); // also when empty: the waits count groups
    }
    __device__ __forceinline__ void load_scales(Place at, RawScales &raw) const {
        if (!inside(at)) return;
        unsigned row_blocks = p.weight.cols / 64, shift = p.weight.block_shift - 6;
        unsigned block = (first_row(at.group) + lane / 4) * row_blocks + k0(at) / 64 + lane % 4; // of 64
        unsigned blocks[2] = {block >> shift, (block + 8 * row_blocks) >> shift};
        if (p.weight.absmax) {
            raw.bits[0] = __float_as_uint(p.weight.absmax[blocks[0]]);
            raw.bits[1] = __float_as_uint(p.weight.absmax[blocks[1]]);
        } else {
            raw.bits[0] = p.weight.absmax_codes[blocks[0]], raw.bits[1] = p.weight.absmax_codes[blocks[1]];
            raw.group[0] = group_of(p.weight, blocks[0]), raw.group[1] = group_of(p.weight, blocks[1]);
        }
    }
    __device__ __forceinline__ float scale(const RawScales &raw, int i) const {
        float absmax = p.weight.absmax ? __uint_as_float(raw.bits[i]) : nested_absmax(map[raw.bits[i]], raw.group[i]);
        return absmax * (1.f / table_gain<T>(p.weight.fp4));
    }

    // x of token g + 8 * i at the 16 k that this lane multiplies in 64-block `b`. Lanes without a token keep what they
    // have: it goes into sums that nobody reads.
    __device__ __forceinline__ void load_x(Place at, int b, int i, uint4 (&x)[2]) const {
        unsigned token = lane / 4 + i * 8;
        const T *from = row_of<T>(p.x, token) + k0(at) + b * 64 + lane % 4 * 16;
        if (token < p.n) {
            x[0] = __ldg(reinterpret_cast<const uint4 *>(from));
            x[1] = __ldg(reinterpret_cast<const uint4 *>(from) + 1);
        }
    }
    // Byte `i` of `codes` as a pair.
    __device__ __forceinline__ uint32_t pair(uint32_t codes, int i) const {
        uint32_t offset = __byte_perm(codes, lane * 4, 0x5504 + 0x10 * i); // byte * TABLE_PITCH + lane * 4
        return *reinterpret_cast<const uint32_t *>(table + offset);
    }

    // acc += 64-block `b` of the unit in `stage`. Lane (g, t) has 16 consecutive k of rows g and g + 8, and the same k
    // of token g; which of them the tensor cores call which column does not matter to a sum.
    __device__ __forceinline__ void multiply(int stage, int b, const float (&scales)[2], const uint4 (&x)[TOKENS8][2],
                                             float (&acc)[TOKENS8][4]) const {
        const char *row = table + TABLE_BYTES + (warp * STAGES + stage) * UNIT_BYTES + lane / 4 * 128;
        unsigned offset = (b ^ (lane / 4 % 4)) * 32 + lane % 4 * 8;
        uint2 low = *reinterpret_cast<const uint2 *>(row + offset);
        uint2 high = *reinterpret_cast<const uint2 *>(row + 8 * 128 + offset);
        float sums[TOKENS8][4] = {};
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

    // Adds up the warps of each tile, in order, and stores. `odd` alternates between two buffers, so that one barrier
    // is enough: a warp that writes to this one again has passed the barrier of the other, and so has everyone who read
    // this.
    __device__ __forceinline__ void finish(unsigned group, unsigned odd, const float (&acc)[TOKENS8][4]) const {
        unsigned first = odd * 16 * SUMS;
#pragma unroll
        for (int i = 0; i < TOKENS8 * 4; i++) {
            unsigned row = lane / 4 + i % 4 / 2 * 8, token = i / 4 * 8 + lane % 4 * 2 + i % 2;
            spare_word(table, first + warp * SUMS + token * 16 + row) = acc[i / 4][i % 4];
        }
        __syncthreads();
#pragma unroll 1
        for (unsigned i = threadIdx.x; i < tiles_at_once * SUMS; i += blockDim.x) {
            unsigned tile = i / SUMS, token = i % SUMS / 16, begin = (group * tiles_at_once + tile) * 16;
            unsigned row = min(begin, p.weight.rows - 16) + i % 16;
            if (token >= p.n || row < begin) continue; // a tile that was moved up: the row has been stored
            float sum = 0.f;
            for (unsigned w = 0; w < p.splits; w++)
                sum += spare_word(table, first + (tile * p.splits + w) * SUMS + i % SUMS);
            O *o = row_of<O>(p.out, token) + row;
            *o = from_f32<O>(p.accumulate ? to_f32(*o) + sum : sum);
        }
    }

    __device__ __forceinline__ void run() const {
        RawScales raw[STAGES] = {};
        Place next{blockIdx.x, 0}, at = next;
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++, next = after(next)) {
            queue(next, s);
            load_scales(next, raw[s]);
        }
        fill_pairs<T>(table, p.weight.fp4);
        __syncthreads();
        constexpr int X_BLOCKS = TOKENS8 == 1 ? 4 : 1; // as many blocks of x as registers allow are loaded early
        uint4 x[X_BLOCKS][TOKENS8][2] = {};
        float acc[TOKENS8][4] = {};
        unsigned odd = 0;
        while (at.group < groups) {
#pragma unroll
            for (int s = 0; s < STAGES; s++) { // unrolled, so that raw[] stays in registers
                if (at.group >= groups) break;
                bool some = inside(at);
                if (TOKENS8 == 1 && some) {
#pragma unroll
                    for (int b = 0; b < 4; b++) load_x(at, b, 0, x[b % X_BLOCKS][0]);
                }
                cp_async_wait<STAGES - 2>();
                __syncwarp(); // this unit has arrived for all lanes, and all have read the one before
                constexpr int AHEAD = STAGES - 1;
                float scales[2] = {scale(raw[s], 0), scale(raw[s], 1)};
                queue(next, (s + AHEAD) % STAGES);
                load_scales(next, raw[(s + AHEAD) % STAGES]);
                next = after(next);
                if (some) {
#pragma unroll
                    for (int b = 0; b < 4; b++) {
                        if constexpr (TOKENS8 == 2) load_x(at, b, 0, x[0][0]), load_x(at, b, 1, x[0][TOKENS8 - 1]);
                        multiply(s, b, scales, x[b % X_BLOCKS], acc);
                    }
                }
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
