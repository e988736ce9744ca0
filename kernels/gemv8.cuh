#pragma once
// Forward products of three to eight tokens with a 4-bit weight, on GPUs with bulk copies (compute capability 9.0 on):
// fed as gemv4.cuh is, decoded as there, but operand B has a token in each of its eight columns, so that the four lanes of
// a row have one block of 64 between them, whose scale multiplies their sum.
//
// A stage is 16 rows by up to 4096 columns, each warp its 256, or several tiles of rows by fewer columns. Rows lie 32
// bytes further apart than they are long: a lane reads 8 bytes, and those of four rows lie in different banks. Beside
// them are the rows' scales as they lie in memory, and their groups. Four warps fetch all that, ahead of the others, and do not
// wait for the kernel before this one: a copy for each row is more than one warp asks for while a stage is multiplied.
//
// A lane adds up in registers what its warp makes of two tiles over all columns; then the warps' sums meet in shared
// memory, in one of two places in turn, so that a group of tiles ends with one barrier.
//
// With SwiGLU the two tiles are one of gate, and the same of up.
//
// Wants what gemv4.cuh wants.
#include "gemv4_cta.cuh"
#include "sigmoid.cuh"
#include <type_traits>

#if GEMV4
constexpr unsigned GEMV8_THREADS = LINEAR4_GEMV8_THREADS, GEMV8_COPIERS = GEMV8_THREADS / 32 - GEMV4_WARPS; // warps that copy
static_assert(GEMV4_TILE % GEMV8_COPIERS == 0 && 64 <= GEMV8_COPIERS * 32);
constexpr unsigned GEMV8_TOKENS = 8, GEMV8_STAGES = 3, GEMV8_GROUP = 2; // tiles that a warp adds up at a time
constexpr unsigned GEMV8_ROW_PAD = 32, GEMV8_STAGE_BYTES = 64 * (4 * GEMV4_ROW + GEMV8_ROW_PAD); // 4 tiles of 1024 columns
constexpr unsigned GEMV8_SUMS = GEMV4_TILE * GEMV8_TOKENS, GEMV8_SUMS_PITCH = GEMV8_SUMS + 16;   // of a warp and tile
constexpr unsigned GEMV8_SUMS_BYTES = GEMV8_GROUP * GEMV4_WARPS * GEMV8_SUMS_PITCH * 4;

extern __shared__ __align__(128) char gemv8_shared[];

template <class T, class O, bool NESTED, bool GATED = false> struct Gemv8 {
    static constexpr unsigned SCALE_BYTES = NESTED ? 1 : 4; // of one
    // Of a stage: its rows' scales, 16 bytes further apart than they are long.
    static constexpr unsigned SCALES_BYTES = 64 * (16 * SCALE_BYTES + 16);
    static constexpr unsigned RING = TABLE_BYTES, SCALES = RING + GEMV8_STAGES * GEMV8_STAGE_BYTES;
    static constexpr unsigned SUMS = SCALES + GEMV8_STAGES * SCALES_BYTES, MAP = SUMS + 2 * GEMV8_SUMS_BYTES;
    // Of a stage: two quantisation groups for each row, which is all that the blocks of one are in.
    static constexpr unsigned GROUPS = MAP + 1024, GROUPS_BYTES = NESTED ? 64 * 16 : 0;
    static constexpr unsigned FULL = GROUPS + GEMV8_STAGES * GROUPS_BYTES, EMPTY = FULL + GEMV8_STAGES * 8;
    static_assert(EMPTY + GEMV8_STAGES * 8 <= LINEAR4_GEMV8_SHARED);
    static_assert(16 * (16 * 4 * SCALE_BYTES + 16) <= SCALES_BYTES); // one tile of 16 parts

    // Of the tiles that a warp adds up at a time, those that lie one after the other.
    static constexpr unsigned RUN = GATED ? 1 : GEMV8_GROUP;
    const Linear4Params &p;
    MatrixMut gated;              // where SwiGLU goes
    unsigned steps, parts, tiles; // of the columns; of a step, one for each warp; of rows in a stage
    unsigned first_tile, end_tile;

    __device__ __forceinline__ explicit Gemv8(const Linear4Params &p, MatrixMut gated = {})
        : p(p), gated(gated), steps(p.cut.steps), parts(p.cut.parts), tiles(p.cut.tiles) {
        first_tile = p.cut.each * blockIdx.x + min(blockIdx.x, p.cut.more);
        end_tile = first_tile + p.cut.each + (blockIdx.x < p.cut.more);
    }
    // The tiles of stage `i` of a step: the group's, one after the other, or of gate and of up. `counted`: among those of a
    // half.
    __device__ __forceinline__ unsigned counted(unsigned group, unsigned i) const { return group + (GATED ? 0 : i * tiles); }
    __device__ __forceinline__ unsigned tile_of(unsigned group, unsigned i) const {
        return counted(group, i) + (GATED ? i * (p.weight.rows / (2 * GEMV4_TILE)) : 0);
    }
    // Computed anew where they are needed: registers are full.
    __device__ __forceinline__ unsigned blocks() const { return p.weight.cols / 64; } // of a row
    __device__ __forceinline__ unsigned pitch() const { return parts * GEMV4_ROW + GEMV8_ROW_PAD; } // of codes, and scales
    __device__ __forceinline__ unsigned scale_pitch() const { return parts * 4 * SCALE_BYTES + 16; }
    __device__ __forceinline__ Barrier &full(unsigned s) const { return reinterpret_cast<Barrier *>(gemv8_shared + FULL)[s]; }
    __device__ __forceinline__ Barrier &empty(unsigned s) const { return reinterpret_cast<Barrier *>(gemv8_shared + EMPTY)[s]; }

    // The stages in their order: for each group of tiles the steps, and in each the group's tiles.
    template <class Stage> __device__ __forceinline__ void each_stage(Stage stage) const {
        unsigned s = 0, parity = 0;
        for (unsigned group = first_tile; group < end_tile; group += RUN * tiles) {
            for (unsigned step = 0; step < steps; step++) {
                for (unsigned i = 0; i < GEMV8_GROUP && counted(group, i) < end_tile; i++) {
                    stage(s, parity, group, i, step);
                    if (++s == GEMV8_STAGES) s = 0, parity ^= 1;
                }
            }
        }
    }

    __device__ __forceinline__ void copy() const {
        each_stage([&](unsigned s, unsigned parity, unsigned group, unsigned i, unsigned step) {
            empty(s).wait(parity ^ 1);
            unsigned some = min(tiles, end_tile - counted(group, i));
            copy_stage(s, tile_of(group, i) * GEMV4_TILE, some * GEMV4_TILE, step * parts * UNIT_K);
        });
    }
    __device__ __forceinline__ void copy_stage(unsigned s, unsigned row, unsigned rows, unsigned col) const {
        unsigned lane = threadIdx.x % 32, copier = threadIdx.x / 32 - GEMV4_WARPS, cols = min(parts * UNIT_K, p.weight.cols - col);
        if (lane == 0) full(s).expect(rows / GEMV8_COPIERS * (cols / 2));
        __syncwarp();
        const unsigned char *codes = p.weight.codes + (size_t(row) * p.weight.cols + col) / 2;
        if (unsigned r = lane * GEMV8_COPIERS + copier; r < rows)
            full(s).copy(gemv8_shared + RING + s * GEMV8_STAGE_BYTES + r * pitch(), codes + size_t(r) * (p.weight.cols / 2), cols / 2);
        if (p.cut.scale_bytes == 16 && parts * 4 * SCALE_BYTES % 16 == 0)
            copy_scales<16>(s, row, rows, col, cols);
        else
            copy_scales<4>(s, row, rows, col, cols);
        if (NESTED) copy_groups(s, row, rows, col);
        // Arrives when this lane's copies of scales and groups have.
        asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&full(s).word)) : "memory");
    }
    // In pieces of so many bytes.
    template <unsigned BYTES>
    __device__ __forceinline__ void copy_scales(unsigned s, unsigned row, unsigned rows, unsigned col, unsigned cols) const {
        const char *scales = NESTED ? reinterpret_cast<const char *>(p.weight.absmax_codes)
                                    : reinterpret_cast<const char *>(p.weight.absmax);
        scales += (size_t(row) * blocks() + col / 64) * SCALE_BYTES;
        unsigned pieces = cols / 64 * SCALE_BYTES / BYTES; // of a row
        uint32_t to = shared_address(gemv8_shared) + SCALES + s * SCALES_BYTES;
        for (unsigned i = threadIdx.x - GEMV4_WARPS * 32; i < rows * pieces; i += GEMV8_COPIERS * 32) {
            unsigned r = __fdividef(i + .5f, pieces), piece = i - r * pieces; // numbers up to 1024
            uint32_t at = to + r * scale_pitch() + piece * BYTES;
            const char *from = scales + (r * blocks() * SCALE_BYTES + piece * BYTES);
            if constexpr (BYTES == 16)
                cp_async16(at, from);
            else
                cp_async4(at, from);
        }
    }
    // Of each row that of its first block, and the next.
    __device__ __forceinline__ void copy_groups(unsigned s, unsigned row, unsigned rows, unsigned col) const {
        unsigned last = (p.weight.rows * blocks() - 1) / QUANT_GROUP, r = threadIdx.x - GEMV4_WARPS * 32;
        if (r >= rows) return;
        unsigned first = ((row + r) * blocks() + col / 64) / QUANT_GROUP;
        uint32_t to = shared_address(gemv8_shared) + GROUPS + s * GROUPS_BYTES + r * 16;
        const float2 *from = reinterpret_cast<const float2 *>(p.weight.groups);
        cp_async8(to, from + first), cp_async8(to + 8, from + min(first + 1, last));
    }

    // This lane's share of x from column `col` on: 16 of its token in each of four blocks.
    __device__ __forceinline__ void load_x(unsigned col, uint4 (&x)[4][2]) const {
        unsigned token = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        bool some = token < p.n && col < p.weight.cols;
        const T *from = row_of<T>(p.x, some ? token : 0) + (some ? col : 0) + t * 16;
#pragma unroll
        for (int b = 0; b < 4; b++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                x[b][i] = some ? reinterpret_cast<const uint4 *>(from + b * 64)[i] : make_uint4(0, 0, 0, 0);
    }

    __device__ __forceinline__ uint32_t pair(uint32_t codes, int i) const {
        uint32_t offset = __byte_perm(codes, threadIdx.x % 32 * 4, 0x7504 + 0x10 * i), word;
        asm("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(shared_address(gemv8_shared) + offset));
        return word;
    }
    // The scale at `at`, that of block `block` of those from the first group on that is at `groups`.
    __device__ __forceinline__ float scale(const char *at, const char *groups, unsigned block) const {
        if constexpr (!NESTED) return *reinterpret_cast<const float *>(at);
        float value = reinterpret_cast<const float *>(gemv8_shared + MAP)[*reinterpret_cast<const unsigned char *>(at)];
        return nested_absmax(value, reinterpret_cast<const float2 *>(groups)[block / QUANT_GROUP]);
    }

    // This warp's part of a stage. `block`: the first of row g there.
    __device__ __forceinline__ void take(unsigned s, unsigned slot, unsigned part, unsigned block, const uint4 (&x)[4][2],
                                         float (&sums)[4]) const {
        unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = slot * GEMV4_TILE + g;
        const char *codes = gemv8_shared + RING + s * GEMV8_STAGE_BYTES + row * pitch() + part * GEMV4_ROW + t * 8;
        const char *scales = gemv8_shared + SCALES + s * SCALES_BYTES + row * scale_pitch() + (part * 4 + t) * SCALE_BYTES;
        uint2 low[4], high[4];
#pragma unroll
        for (int b = 0; b < 4; b++) {
            low[b] = *reinterpret_cast<const uint2 *>(codes + b * 32);
            high[b] = *reinterpret_cast<const uint2 *>(codes + 8 * pitch() + b * 32);
        }
        const char *groups = gemv8_shared + GROUPS + s * GROUPS_BYTES + row * 16;
        float scale0 = scale(scales, groups, block % QUANT_GROUP + part * 4 + t);
        float scale1 = scale(scales + 8 * scale_pitch(), groups + 8 * 16, (block + 8 * blocks()) % QUANT_GROUP + part * 4 + t);
        unsigned seen = __float_as_uint(scale0) | __float_as_uint(scale1);
#pragma unroll
        for (int b = 0; b < 4; b++) seen |= low[b].x | high[b].x;
        empty(s).warp_arrives(seen);
#pragma unroll
        for (int b = 0; b < 4; b++) {
            float d[4] = {};
#pragma unroll
            for (int w = 0; w < 2; w++) {
                uint32_t l = w ? low[b].y : low[b].x, h = w ? high[b].y : high[b].x;
                uint32_t first[4] = {pair(l, 0), pair(h, 0), pair(l, 1), pair(h, 1)};
                uint32_t second[4] = {pair(l, 2), pair(h, 2), pair(l, 3), pair(h, 3)};
                mma_m16n8k16<T>(d, first, x[b][w].x, x[b][w].y);
                mma_m16n8k16<T>(d, second, x[b][w].z, x[b][w].w);
            }
            float a = __shfl_sync(~0u, scale0, (lane & ~3u) + b), c = __shfl_sync(~0u, scale1, (lane & ~3u) + b);
            sums[0] += a * d[0], sums[1] += a * d[1], sums[2] += c * d[2], sums[3] += c * d[3];
        }
    }

    // Where a warp leaves its sums of tile `i` of a group; places change from group to group.
    __device__ __forceinline__ float *sums_of(unsigned odd, unsigned i, unsigned warp) const {
        return reinterpret_cast<float *>(gemv8_shared + SUMS + odd * GEMV8_SUMS_BYTES) + (i * GEMV4_WARPS + warp) * GEMV8_SUMS_PITCH;
    }
    // Adds the parts up, two threads for each output, in a fixed order, and stores.
    __device__ __forceinline__ void store(unsigned group, unsigned odd) const {
        for (unsigned i = threadIdx.x / 2; i < RUN * tiles * GEMV8_SUMS; i += GEMV4_WARPS * 16) {
            unsigned of_tile = i / GEMV8_SUMS, stage = RUN == 1 ? 0 : of_tile / tiles, slot = of_tile - stage * tiles;
            unsigned at = i % GEMV8_SUMS, token = at % GEMV8_TOKENS, tile = counted(group, stage) + slot;
            float sum = add_parts(odd, stage, slot, at), up = GATED ? add_parts(odd, 1, slot, at) : 0.f;
            if (threadIdx.x % 2 || tile >= end_tile || token >= p.n) continue;
            unsigned row = tile * GEMV4_TILE + at / GEMV8_TOKENS;
            if constexpr (GATED) {
                row_of<T>(gated, token)[row] = from_f32<T>(swiglu<T>(rounded(sum), rounded(up)));
            } else {
                O *o = row_of<O>(p.out, token) + row;
                *o = from_f32<O>(p.accumulate ? to_f32(*o) + sum : sum);
            }
        }
    }
    __device__ __forceinline__ float add_parts(unsigned odd, unsigned stage, unsigned slot, unsigned at) const {
        float sum = 0.f;
#pragma unroll
        for (unsigned first = 0; first < GEMV4_WARPS; first += 2) {
            unsigned part = first + threadIdx.x % 2;
            if (part < parts) sum += sums_of(odd, stage, slot * parts + part)[at];
        }
        return (sum + __shfl_xor_sync(~0u, sum, 1)) * (1.f / table_gain<T>(p.weight.fp4));
    }
    __device__ __forceinline__ static float rounded(float v) { return to_f32(from_f32<T>(v)); }

    __device__ __forceinline__ void multiply_all() const {
        unsigned warp = threadIdx.x / 32, slot = warp / parts, part = warp - slot * parts, s = 0, parity = 0, odd = 0;
        unsigned lane = threadIdx.x % 32;
        TableEntry<T> entry(p.weight.fp4);
        all_asked<GEMV8_THREADS>(false);
        fill_table(entry);
        all_made<GEMV8_THREADS>(false);
        begin_kernel();
        uint4 x[4][2];
        load_x(part * UNIT_K, x);
#pragma unroll 1
        for (unsigned group = first_tile; group < end_tile; group += RUN * tiles, odd ^= 1) {
            float sums[GEMV8_GROUP][4] = {};
#pragma unroll 1
            for (unsigned step = 0; step < steps; step++) {
                unsigned unit = step * parts + part;
                bool some = slot < tiles && unit * 4 < blocks();
                if (steps > 1) load_x(unit * UNIT_K, x);
#pragma unroll
                for (unsigned i = 0; i < GEMV8_GROUP; i++) {
                    if (counted(group, i) >= end_tile) break;
                    full(s).wait(parity);
                    unsigned block = ((tile_of(group, i) + slot) * GEMV4_TILE + lane / 4) * blocks() + step * parts * 4;
                    if (some && counted(group, i) + slot < end_tile)
                        take(s, slot, part, block, x, sums[i]);
                    else
                        empty(s).warp_arrives();
                    if (++s == GEMV8_STAGES) s = 0, parity ^= 1;
                }
            }
#pragma unroll
            for (unsigned i = 0; i < GEMV8_GROUP; i++) {
                float2 *to = reinterpret_cast<float2 *>(sums_of(odd, i, warp)) + lane;
                to[0] = {sums[i][0], sums[i][1]}, to[32] = {sums[i][2], sums[i][3]};
            }
            sync_multipliers();
            store(group, odd);
        }
    }

    // Thread t fills half of entry t / 2; of the dynamic map every other thread an entry.
    __device__ __forceinline__ void fill_table(const TableEntry<T> &entry) const {
        unsigned byte = threadIdx.x / 2;
        uint32_t word = entry.pair(p.weight.fp4);
        char *to = gemv8_shared + byte * TABLE_PITCH + threadIdx.x % 2 * 64;
        for (unsigned j = 0; j < 4; j++)
            *reinterpret_cast<uint4 *>(to + (byte + j) % 4 * 16) = make_uint4(word, word, word, word);
        if (NESTED && threadIdx.x % 2 == 0) reinterpret_cast<float *>(gemv8_shared + MAP)[byte] = entry.scale();
    }

    __device__ __forceinline__ void run() const {
        if (threadIdx.x / 32 < GEMV4_WARPS) return multiply_all();
        if (threadIdx.x == GEMV4_WARPS * 32) {
            for (unsigned s = 0; s < GEMV8_STAGES; s++) {
                full(s).init(GEMV8_COPIERS * (1 + 32)); // the codes, and each lane's scales and groups
                empty(s).init(GEMV4_WARPS * Barrier::WARP_ARRIVALS);
            }
            barriers_are_made();
        }
        asm volatile("bar.sync 5, %0;" ::"n"(GEMV8_COPIERS * 32) : "memory"); // all that copy: until the barriers are made
        all_made<GEMV8_THREADS>(true);
        all_asked<GEMV8_THREADS>(true);
        copy();
    }
};
#endif
