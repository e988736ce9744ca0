#pragma once
// Forward products of one or two tokens with a 4-bit weight, on GPUs with bulk copies (compute capability 9.0 on). As in
// skinny4.cuh the weight is operand A of the tensor cores, decoded by a table of pairs with a copy for each lane. Two
// things are new.
//
// A warp of its own keeps the memory busy: it copies 16 rows of up to GEMV4_STEP_K columns, and their scales, into a ring
// of stages (cp.async.bulk, one copy for each row), 128 KiB ahead of the sixteen warps that multiply. Before the kernel
// may begin it asks for its first stages in L2, so the memory works while the kernel before this one ends.
//
// The eight columns of operand B hold two tokens at four blocks of 64 each: column 2 b + i is token i at block b of the
// four that a warp has. Row g takes the blocks in the order g, g + 1 … (mod 4), so that the rows of half a warp, which lie
// in the same banks, are read at different ones; the sum of block b is in column 2 b + i of row g in that step in which
// row g took block b, and lane t = b of the row keeps it. So each lane needs one scale for each of its two rows, and no
// lane asks another for one. All other sums are of a block of x and another of W, and are dropped.
//
// The bound is shared memory: for 16 rows by 256, 2 KiB of codes, 16 wavefronts to write and 16 to read them, 64
// look-ups, about 6 for scales. At 1.75 GHz that is 4.5 TB/s.
//
// Wants rows % 16 = 0, cols % 1024 = 0, blocks of 64, and codes, their scales, x and its rows aligned to 16 bytes.
#include "ptx.cuh"
#include "skinny4.cuh"

constexpr unsigned GEMV4_TILE = GEMM_SKINNY_ROWS, GEMV4_WARPS = LINEAR4_GEMV_WARPS;
constexpr unsigned GEMV4_CODES = LINEAR4_GEMV_CODES_BYTES, GEMV4_GROUP = LINEAR4_GEMV_TILES;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define GEMV4 1
#else
#define GEMV4 0
#endif

#if GEMV4
struct Barrier {
    uint64_t word;

    __device__ __forceinline__ void init(unsigned arrivals) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&word)), "r"(arrivals) : "memory");
    }
    __device__ __forceinline__ void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&word)) : "memory");
    }
    // One arrival, and so many bytes of copies that the phase waits for.
    __device__ __forceinline__ void expect(unsigned bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&word)), "r"(bytes)
                     : "memory");
    }
    // Until the phase of this parity has ended.
    __device__ __forceinline__ void wait(unsigned parity) {
        asm volatile("{ .reg .pred done;\n"
                     "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                     "@!done bra again; }" ::"r"(shared_address(&word)),
                     "r"(parity)
                     : "memory");
    }
    __device__ __forceinline__ void copy(void *shared, const void *global, unsigned bytes) {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         shared_address(shared)),
                     "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(&word))
                     : "memory");
    }
};

__device__ __forceinline__ void prefetch_l2(const void *global, unsigned bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(global)), "r"(bytes)
                 : "memory");
}

// The multiplying warps wait for each other.
__device__ __forceinline__ void sync_multipliers() { asm volatile("bar.sync 1, %0;" ::"n"(GEMV4_WARPS * 32) : "memory"); }

// 16-byte stores of what fill_pairs writes, and in the other half of entry i the dynamic map's value i for each lane.
template <class T> __device__ __forceinline__ void fill_tables(char *table, unsigned fp4) {
    struct alignas(4) Pair {
        T first, second;
    };
    float gain = table_gain<T>(fp4);
    for (unsigned i = threadIdx.x; i < 256 * 2; i += blockDim.x) {
        unsigned byte = i / 2;
        uint32_t word;
        if (i % 2 == 0) {
            Pair pair{from_f32<T>(gain * code_value(fp4, byte >> 4)), from_f32<T>(gain * code_value(fp4, byte & 15))};
            word = reinterpret_cast<const uint32_t &>(pair);
        } else {
            word = __float_as_uint(dynamic_map(byte));
        }
        uint4 *to = reinterpret_cast<uint4 *>(table + byte * TABLE_PITCH + i % 2 * 128);
#pragma unroll
        for (unsigned j = 0; j < 8; j++) to[(j + threadIdx.x) % 8] = make_uint4(word, word, word, word);
    }
}

// How the columns are cut: `steps` steps of up to `parts` times 256 columns, the columns of one warp. Where a step has
// fewer parts than there are warps, several tiles of rows are in a stage at a time.
struct Cut {
    unsigned steps, parts, tiles_at_once;

    __device__ __forceinline__ explicit Cut(unsigned cols) {
        unsigned kibis = cols / 1024, most = GEMV4_WARPS / 4;
        steps = (kibis + most - 1) / most;
        parts = (kibis + steps - 1) / steps * 4;
        tiles_at_once = GEMV4_WARPS / parts;
    }
    __device__ __forceinline__ unsigned first_col(unsigned step) const { return step * parts * UNIT_K; }
    __device__ __forceinline__ unsigned cols_of(unsigned step, unsigned cols) const {
        return min(parts * UNIT_K, cols - first_col(step));
    }
};

template <class T, class O, bool NESTED> struct Gemv4 {
    static constexpr unsigned STAGES = NESTED ? LINEAR4_GEMV_STAGES : LINEAR4_GEMV_PLAIN_STAGES;
    static constexpr unsigned STAGE_BYTES =
        GEMV4_CODES + (NESTED ? LINEAR4_GEMV_SCALES : LINEAR4_GEMV_PLAIN_SCALES);
    static constexpr unsigned SCALE_BYTES = NESTED ? 1 : 4; // of one
    const Linear4Params &p;
    const Cut cut;
    char *table, *ring;
    float *sums;
    Barrier *full, *empty;
    unsigned scale_pitch; // of a row's scales in a stage
    unsigned first_tile, end_tile;

    __device__ __forceinline__ explicit Gemv4(const Linear4Params &p) : p(p), cut(p.weight.cols) {
        extern __shared__ __align__(128) char shared[];
        __shared__ Barrier barriers[2 * LINEAR4_GEMV_STAGES];
        scale_pitch = cut.parts * 4 * SCALE_BYTES + (cut.steps == 1 ? 0 : 16);
        table = shared, ring = shared + TABLE_BYTES, sums = reinterpret_cast<float *>(ring + STAGES * STAGE_BYTES);
        full = barriers, empty = barriers + LINEAR4_GEMV_STAGES;
        unsigned tiles = p.weight.rows / GEMV4_TILE;
        first_tile = size_t(tiles) * blockIdx.x / gridDim.x, end_tile = size_t(tiles) * (blockIdx.x + 1) / gridDim.x;
    }

    // Row `row` of the weight from column `col` on.
    __device__ __forceinline__ const unsigned char *codes(unsigned row, unsigned col) const {
        return p.weight.codes + (size_t(row) * p.weight.cols + col) / 2;
    }
    __device__ __forceinline__ const unsigned char *scales(unsigned row, unsigned col) const {
        size_t block = (size_t(row) * p.weight.cols + col) / 64;
        return !NESTED ? reinterpret_cast<const unsigned char *>(p.weight.absmax + block)
                               : p.weight.absmax_codes + block;
    }

    // For each stage in order: its first tile, how many tiles, and which step of the columns.
    template <class F> __device__ __forceinline__ void each_stage(F &&f) const {
#pragma unroll 1
        for (unsigned tile = first_tile; tile < end_tile; tile += cut.tiles_at_once) {
            unsigned n = min(cut.tiles_at_once, end_tile - tile);
#pragma unroll 1
            for (unsigned step = 0; step < cut.steps; step++) f(tile, n, step);
        }
    }

    // The copying warp, before the kernel may begin: asks for the first stages. What another kernel still writes to a
    // weight is not missed, since it goes through L2.
    __device__ __forceinline__ void prefetch() const {
        unsigned lane = threadIdx.x % 32, ahead = 0;
        each_stage([&](unsigned tile, unsigned n, unsigned step) {
            if (ahead++ >= STAGES) return;
            for (unsigned r = lane; r < n * GEMV4_TILE; r += 32)
                prefetch_l2(codes(tile * GEMV4_TILE + r, cut.first_col(step)), cut.cols_of(step, p.weight.cols) / 2);
        });
    }

    __device__ __forceinline__ void copy() const {
        unsigned lane = threadIdx.x % 32, stage = 0, parity = 1;
        each_stage([&](unsigned tile, unsigned n, unsigned step) {
            unsigned cols = cut.cols_of(step, p.weight.cols), rows = n * GEMV4_TILE;
            unsigned scale_bytes = cols / 64 * SCALE_BYTES;
            empty[stage].wait(parity);
            if (lane == 0) full[stage].expect(rows * (cols / 2 + scale_bytes));
            __syncwarp();
            char *to = ring + stage * STAGE_BYTES;
            unsigned row = tile * GEMV4_TILE, col = cut.first_col(step);
            if (cut.steps == 1) { // whole rows lie side by side
                if (lane == 0) full[stage].copy(to, codes(row, 0), rows * (cols / 2));
                if (lane == 1) full[stage].copy(to + GEMV4_CODES, scales(row, 0), rows * scale_bytes);
            } else {
                for (unsigned r = lane; r < rows; r += 32) {
                    full[stage].copy(to + r * cut.parts * (UNIT_K / 2), codes(row + r, col), cols / 2);
                    full[stage].copy(to + GEMV4_CODES + r * scale_pitch, scales(row + r, col), scale_bytes);
                }
            }
            if (++stage == STAGES) stage = 0, parity ^= 1;
        });
    }

    // x of token g % 2 in block g / 2 of the four from column `col` on, at the 16 k of this lane; zeros without a token.
    __device__ __forceinline__ void load_x(unsigned col, uint4 (&x)[2]) const {
        unsigned lane = threadIdx.x % 32, token = lane / 4 % 2;
        x[0] = x[1] = make_uint4(0, 0, 0, 0);
        if (token >= p.n) return;
        const T *from = row_of<T>(p.x, token) + col + lane / 8 * 64 + lane % 4 * 16;
        x[0] = *reinterpret_cast<const uint4 *>(from);
        x[1] = *reinterpret_cast<const uint4 *>(from + 8);
    }

    __device__ __forceinline__ uint32_t pair(uint32_t codes, int i) const {
        uint32_t offset = __byte_perm(codes, threadIdx.x % 32 * 4, 0x5504 + 0x10 * i);
        return *reinterpret_cast<const uint32_t *>(table + offset);
    }
    // The scales of rows g and g + 8 at block t, of those that lie at `scale` in the stage.
    __device__ __forceinline__ float2 scales_of(const char *scale, const float2 (&groups)[2]) const {
        unsigned block = threadIdx.x % 4;
        if constexpr (!NESTED)
            return make_float2(reinterpret_cast<const float *>(scale)[block],
                               reinterpret_cast<const float *>(scale + 8 * scale_pitch)[block]);
        auto map = [&](char code) {
            unsigned entry = static_cast<unsigned char>(code);
            return *reinterpret_cast<const float *>(table + entry * TABLE_PITCH + 128 + threadIdx.x % 32 * 4);
        };
        return make_float2(nested_absmax(map(scale[block]), groups[0]),
                           nested_absmax(map(scale[8 * scale_pitch + block]), groups[1]));
    }
    // The nested scales of rows g and g + 8 of the tile at `row`, from column `col` on: four blocks are of one group.
    __device__ __forceinline__ void load_groups(unsigned row, unsigned col, float2 (&groups)[2]) const {
        if constexpr (!NESTED) return;
        size_t block = (size_t(row + threadIdx.x % 32 / 4) * p.weight.cols + col) / 64;
        groups[0] = group_of(p.weight, block), groups[1] = group_of(p.weight, block + p.weight.cols / 8);
    }

    // acc[2 h + i] += row g + 8 h of 16 rows, the first of them row `r` of the stage, times token i, at block t of this
    // warp's four.
    __device__ __forceinline__ void multiply(unsigned stage, unsigned r, unsigned part, const float2 (&groups)[2],
                                             const uint4 (&x)[2], float (&acc)[4]) const {
        unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const char *from = ring + stage * STAGE_BYTES;
        const char *line = from + ((r + g) * cut.parts + part) * (UNIT_K / 2) + t * 8;
        float2 scales = scales_of(from + GEMV4_CODES + (r + g) * scale_pitch + part * 4 * SCALE_BYTES, groups);
        uint2 low[4], high[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            low[j] = *reinterpret_cast<const uint2 *>(line + (j + g) % 4 * 32);
            high[j] = *reinterpret_cast<const uint2 *>(line + 8 * cut.parts * (UNIT_K / 2) + (j + g) % 4 * 32);
        }
        __syncwarp();
        if (lane == 0) empty[stage].arrive();
        float kept[4] = {};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float d[4] = {};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t l = i < 2 ? low[j].x : low[j].y, h = i < 2 ? high[j].x : high[j].y;
                int byte = i % 2 * 2;
                uint32_t a[4] = {pair(l, byte), pair(h, byte), pair(l, byte + 1), pair(h, byte + 1)};
                mma_m16n8k16<T>(d, a, i % 2 ? x[i / 2].z : x[i / 2].x, i % 2 ? x[i / 2].w : x[i / 2].y);
            }
            bool mine = (j + g) % 4 == t;
#pragma unroll
            for (int i = 0; i < 4; i++) kept[i] = mine ? d[i] : kept[i];
        }
        float gain = 1.f / table_gain<T>(p.weight.fp4);
        acc[0] = fmaf(scales.x * gain, kept[0], acc[0]), acc[1] = fmaf(scales.x * gain, kept[1], acc[1]);
        acc[2] = fmaf(scales.y * gain, kept[2], acc[2]), acc[3] = fmaf(scales.y * gain, kept[3], acc[3]);
    }

    // Adds the lanes of each row up, in order, and leaves the sums of this warp's part of tile `slot`.
    __device__ __forceinline__ void leave(float *sums, unsigned slot, unsigned part, float (&acc)[4]) const {
        unsigned lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            acc[i] += __shfl_xor_sync(~0u, acc[i], 1);
            acc[i] += __shfl_xor_sync(~0u, acc[i], 2);
        }
        // Lane t keeps sum t: token t % 2 of row g + 8 * (t / 2).
        float sum = lane % 4 < 2 ? (lane % 2 ? acc[1] : acc[0]) : (lane % 2 ? acc[3] : acc[2]);
        sums[((slot * cut.parts + part) * 2 + lane % 2) * GEMV4_TILE + lane / 4 + lane % 4 / 2 * 8] = sum;
    }

    // Adds the parts of `n` tiles up, in order, and stores.
    __device__ __forceinline__ void store(const float *sums, unsigned tile, unsigned n) const {
        for (unsigned i = threadIdx.x; i < n * 2 * GEMV4_TILE; i += GEMV4_WARPS * 32) {
            unsigned slot = i / (2 * GEMV4_TILE), token = i / GEMV4_TILE % 2, r = i % GEMV4_TILE;
            if (token >= p.n) continue;
            float sum = 0.f;
            for (unsigned part = 0; part < cut.parts; part++)
                sum += sums[((slot * cut.parts + part) * 2 + token) * GEMV4_TILE + r];
            O *o = row_of<O>(p.out, token) + (tile + slot) * GEMV4_TILE + r;
            *o = from_f32<O>(p.accumulate ? to_f32(*o) + sum : sum);
        }
    }

    // The sums of a group of tiles wait in one of two buffers until all warps are there: whoever writes to a buffer again
    // has passed the barrier of the other, and so has everyone who read it.
    __device__ __forceinline__ void multiply_all() const {
        unsigned warp = threadIdx.x / 32, part = warp % cut.parts, mine = warp / cut.parts;
        unsigned stage = 0, parity = 0, group_tile = first_tile, slot = 0, odd = 0;
        uint4 x[2];
        if (cut.steps == 1) load_x(part * UNIT_K, x);
        float acc[4] = {};
        each_stage([&](unsigned tile, unsigned n, unsigned step) {
            unsigned col = cut.first_col(step) + part * UNIT_K;
            bool some = mine < n && part * UNIT_K < cut.cols_of(step, p.weight.cols);
            float2 groups[2];
            if (some) load_groups((tile + mine) * GEMV4_TILE, col, groups);
            if (some && cut.steps > 1) load_x(col, x);
            full[stage].wait(parity);
            if (some) {
                multiply(stage, mine * GEMV4_TILE, part, groups, x, acc);
            } else if (threadIdx.x % 32 == 0) {
                empty[stage].arrive();
            }
            if (++stage == STAGES) stage = 0, parity ^= 1;
            if (step + 1 < cut.steps) return;
            float *buffer = sums + odd * (GEMV4_GROUP * GEMV4_WARPS * 2 * GEMV4_TILE);
            if (mine < n) leave(buffer, slot + mine, part, acc);
#pragma unroll
            for (int i = 0; i < 4; i++) acc[i] = 0.f;
            slot += n;
            if (slot + cut.tiles_at_once <= GEMV4_GROUP * (GEMV4_WARPS / cut.parts) && tile + n < end_tile) return;
            sync_multipliers();
            store(buffer, group_tile, slot);
            group_tile += slot, slot = 0, odd ^= 1;
        });
    }

    __device__ __forceinline__ void run() const {
        bool copies = threadIdx.x / 32 == GEMV4_WARPS;
        if (copies) prefetch();
        if (threadIdx.x == 0) {
            for (unsigned s = 0; s < STAGES; s++) full[s].init(1), empty[s].init(GEMV4_WARPS);
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        }
        fill_tables<T>(table, p.weight.fp4);
        __syncthreads();
        begin_kernel();
        if (copies)
            copy();
        else
            multiply_all();
    }
};
#endif
