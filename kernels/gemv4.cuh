#pragma once
// Forward products of one or two tokens with a 4-bit weight, on GPUs with bulk copies (compute capability 9.0 on). As
// in skinny4.cuh the weight is operand A of the tensor cores and a table of pairs, with a copy for each lane, decodes
// it.
//
// A warp of its own copies stages of 16 rows by up to 4096 columns into a ring (cp.async.bulk; where a stage has whole
// rows, they are one copy), ahead of the sixteen warps that multiply, each 256 of the columns. It reads the weight
// only, so it does not wait for the kernel before this one; nor do the others while they fetch scales and fill the
// table. Where that kernel leaves the memory idle, the ring is full when x arrives (src/cuda/kernel.rs).
//
// The eight columns of operand B hold two tokens at the four blocks of 64 that a warp has: column 2 b + i is token i at
// block b. Lane (g, t) reads 16 bytes, half a block, of each 128 weights of rows g and g + 8: lanes 0 and 1 of a row
// have the first block, 2 and 3 the second, and B is zero where lane and block do not belong together. Odd rows read
// the second 128 weights first, so that the two rows of a quarter of a warp, which lie in the same banks, are read at
// different ones; the columns of the other 128 weights are then sums of a block of x and another of W, and are dropped.
// What is left to lane t of a row is its sum over block t, for which it needs one scale.
//
// The bound, beside the memory, is shared memory's one access a clock: for 16 rows by 256, 16 to write the codes, 16 to
// read them, 64 look-ups, 9 for the rest; and close to it the time in which a warp has no look-up under way.
//
// Wants rows % 16 = 0, cols % 256 = 0, cols <= LINEAR4_GEMV_MAX_COLS, blocks of 64, fewer than 2^32 of them; codes, x
// and its rows aligned to 16 bytes, groups to 8, scales to 4.
#include "gemv4_adapters.cuh"
#include "gemv4_x.cuh"
#include "sigmoid.cuh"

#if GEMV4
template <class T, class O, bool NESTED, unsigned TOKENS, Fused FUSED = Fused::NOTHING> struct Gemv4 {
    static constexpr bool GATED = FUSED == Fused::NORM_SWIGLU || FUSED == Fused::NORM_SWIGLU_ADAPTERS;
    static constexpr bool NORM = FUSED == Fused::NORM || FUSED == Fused::NORM_ADAPTERS || GATED;
    static constexpr bool ADAPTED = FUSED == Fused::ADAPTERS || FUSED == Fused::NORM_ADAPTERS || FUSED == Fused::NORM_SWIGLU_ADAPTERS;
    using Adapters = GemvAdapters<T, TOKENS, !NESTED>;
    // Tiles that lie one after the other are a run. With SwiGLU a CTA has one of gate, and the same of up; a group of
    // tiles and all that is said of it is then of as many tiles in each.
    static constexpr unsigned RUNS = GATED ? 2 : 1;
    // Shared memory: sums, scales of one or two groups of tiles, as many stages as there is room for BELOW the table;
    // the table; the other stages.
    static constexpr unsigned BELOW = NESTED ? 1 : 0;
    static constexpr unsigned STAGES = GEMV4_STAGES - 1 + BELOW, STAGE_BYTES = GEMV4_STAGE_BYTES;
    static constexpr unsigned SCALES_BYTES = NESTED ? LINEAR4_GEMV_SCALES_BYTES : LINEAR4_GEMV_PLAIN_SCALES_BYTES;
    static_assert(2 * TABLE_BYTES + (STAGES - BELOW) * STAGE_BYTES == LINEAR4_GEMV_SHARED);
    static_assert(BELOW * STAGE_BYTES + SCALES_BYTES + GEMV4_SUMS_BYTES + 1024 < TABLE_BYTES);
    static constexpr unsigned SCALE_BYTES = NESTED ? 1 : 4; // of one
    static constexpr unsigned GROUPS_BYTES = NESTED ? LINEAR4_GEMV_GROUPS_BYTES : 0;
    static constexpr unsigned THREADS = GEMV4_WARPS * 32; // that multiply
    const Linear4Params &p;
    const NormLinear4Params *around;
    const GemvCut &cut;
    char *table, *scales;
    float *sums;
    Barrier *full, *empty;
    uint32_t lane_table;          // this lane's address in the table
    unsigned blocks, scale_pitch; // of a row; bytes from a row's scales to the next row's
    unsigned first_tile, end_tile, run_tiles; // run_tiles: from a tile of gate to that of up

    __device__ __forceinline__ explicit Gemv4(const Linear4Params &p, const NormLinear4Params *around = nullptr)
        : p(p), around(around), cut(p.cut) {
        extern __shared__ __align__(128) char shared[];
        __shared__ Barrier barriers[2 * GEMV4_STAGES];
        static_assert(sizeof barriers <= LINEAR4_GEMV_STATIC_BYTES);
        // The table lies at a multiple of its size, so that an entry's address is one permutation of bytes.
        uint32_t start = shared_address(shared), skip = TABLE_BYTES - start % TABLE_BYTES;
        if (skip < BELOW * STAGE_BYTES + SCALES_BYTES + GEMV4_SUMS_BYTES) __trap();
        table = shared + skip, lane_table = start + skip + threadIdx.x % 32 * 4;
        scales = table - BELOW * STAGE_BYTES - SCALES_BYTES;
        sums = reinterpret_cast<float *>(scales - GEMV4_SUMS_BYTES);
        full = barriers, empty = barriers + GEMV4_STAGES;
        blocks = p.weight.cols / 64, scale_pitch = blocks * SCALE_BYTES + LINEAR4_GEMV_SCALE_PAD;
        run_tiles = p.weight.rows / GEMV4_TILE / RUNS;
        first_tile = cut.each * blockIdx.x + min(blockIdx.x, cut.more);
        end_tile = first_tile + cut.each + (blockIdx.x < cut.more);
    }

    __device__ __forceinline__ Adapters adapters() const { return {*around, table}; }
    __device__ __forceinline__ char *stage(unsigned s) const {
        return table + s * STAGE_BYTES + (NESTED && s == 0 ? 0 : TABLE_BYTES) - BELOW * STAGE_BYTES;
    }

    // A tile of the widest weight has room for its scales twice.
    static constexpr unsigned MAX_COLS = NORM ? NORM_LINEAR4_GEMV_MAX_COLS : LINEAR4_GEMV_MAX_COLS;
    static_assert((SCALES_BYTES - 2 * GROUPS_BYTES) / 2 >=
                  RUNS * GEMV4_TILE * (MAX_COLS / 64 * SCALE_BYTES + LINEAR4_GEMV_SCALE_PAD));

    __device__ __forceinline__ unsigned end_of_group(unsigned group) const {
        return min(group + cut.group, end_tile);
    }

    // Where a stage is one copy, one is under way at a time: on all multiprocessors together that is what the memory's
    // latency asks for, and more would only make each arrive later.
    __device__ __forceinline__ void copy() const {
        unsigned s = 0, parity = 1, before = STAGES, until_full = STAGES;
        for (unsigned group = first_tile; group < end_tile; group += cut.group) {
            unsigned end = end_of_group(group);
            for (unsigned step = 0; step < cut.steps * RUNS; step++) {
                for (unsigned tile = group; tile < end; tile += cut.tiles) {
                    empty[s].wait(parity);
                    if (cut.steps == 1 && before < STAGES) full[before].wait(s == 0 ? parity : parity ^ 1);
                    unsigned rows = min(cut.tiles, end - tile) * GEMV4_TILE;
                    if (GATED)
                        copy_stage(s, tile + step * run_tiles, rows, 0);
                    else
                        copy_stage(s, tile, rows, step);
                    before = s;
                    if (++s == STAGES) s = 0, parity ^= 1;
                    if (ADAPTED && until_full > 0 && --until_full == 0) adapters().collect();
                }
            }
        }
        if (ADAPTED && until_full > 0) adapters().collect();
    }
    __device__ __forceinline__ void copy_stage(unsigned s, unsigned tile, unsigned rows, unsigned step) const {
        unsigned lane = threadIdx.x % 32, pitch = cut.parts * GEMV4_ROW, col = step * cut.parts * UNIT_K;
        unsigned bytes = min(pitch, (p.weight.cols - col) / 2); // of a row
        const unsigned char *from = p.weight.codes + (size_t(tile) * GEMV4_TILE * p.weight.cols + col) / 2;
        if (lane == 0) full[s].expect(rows * bytes);
        __syncwarp();
        if (cut.steps == 1) {
            if (lane == 0) full[s].copy(stage(s), from, rows * bytes);
        } else {
#pragma unroll 1
            for (unsigned r = lane; r < rows; r += 32)
                full[s].copy(stage(s) + r * pitch, from + size_t(r) * (p.weight.cols / 2), bytes);
        }
    }

    // What a group of tiles needs of the scales: first the quantisation groups of each run, then scales row by row.
    __device__ __forceinline__ char *scales_of(unsigned odd) const { return scales + odd * (SCALES_BYTES / 2); }
    __device__ __forceinline__ void fetch_scales(unsigned group, unsigned odd) const {
        if (group >= end_tile) return;
        unsigned rows = (end_of_group(group) - group) * GEMV4_TILE;
        uint32_t to = shared_address(scales_of(odd));
#pragma unroll
        for (unsigned run = 0; run < RUNS; run++) {
            fetch_run((group + run * run_tiles) * GEMV4_TILE * blocks, rows, to + run * (GROUPS_BYTES / RUNS),
                      to + GROUPS_BYTES + run * rows * scale_pitch);
        }
    }
    // Those of so many rows, from block `first` of the weight on.
    __device__ __forceinline__ void fetch_run(unsigned first, unsigned rows, uint32_t to_groups, uint32_t to) const {
        const char *from = NESTED ? reinterpret_cast<const char *>(p.weight.absmax_codes)
                                  : reinterpret_cast<const char *>(p.weight.absmax);
        if (NESTED) {
            unsigned skip = first / QUANT_GROUP * 2, n = (first + rows * blocks - 1) / QUANT_GROUP * 2 + 2 - skip;
            if (threadIdx.x < n) cp_async4(to_groups + threadIdx.x * 4, p.weight.groups + skip + threadIdx.x);
        }
        from += size_t(first) * SCALE_BYTES;
        if (cut.scale_bytes == 16)
            fetch_rows<16>(from, rows, to);
        else
            fetch_rows<4>(from, rows, to);
    }
    // In pieces of so many bytes.
    template <int BYTES> __device__ __forceinline__ void fetch_rows(const char *from, unsigned rows, uint32_t to) const {
        static_assert(MAX_COLS / 64 * SCALE_BYTES / 4 <= THREADS);
        unsigned pieces = blocks * SCALE_BYTES / BYTES; // of a row
        unsigned step = quotient(THREADS, pieces), r = quotient(threadIdx.x, pieces), piece = threadIdx.x - r * pieces;
        if (r >= step) return;
#pragma unroll 1
        for (; r < rows; r += step) {
            uint32_t at = to + r * scale_pitch + piece * BYTES;
            const char *source = from + size_t(r * pieces + piece) * BYTES;
            if constexpr (BYTES == 16)
                cp_async16(at, source);
            else
                cp_async4(at, source);
        }
    }
    // Of numbers up to 512.
    __device__ __forceinline__ static unsigned quotient(unsigned a, unsigned b) { return __fdividef(a + .5f, b); }

    // The address of the table's entry for byte `i` of `codes`: a pair of T, and 128 bytes on the dynamic map. One
    // instruction, because the table lies at a multiple of its size.
    __device__ __forceinline__ uint32_t entry(uint32_t codes, int i) const {
        return __byte_perm(codes, lane_table, 0x7604 + 0x10 * i);
    }
    // Thread t fills half of entry t / 2.
    // In stores of 16 bytes, each of eight neighbours at other banks.
    __device__ __forceinline__ void fill_table(const TableEntry<T> &entry) const {
        unsigned byte = threadIdx.x / 2;
        uint32_t pair = entry.pair(p.weight.fp4), word = __float_as_uint(entry.scale());
        char *to = table + byte * TABLE_PITCH + threadIdx.x % 2 * 64;
        for (unsigned j = 0; j < 4; j++) {
            char *at = to + (byte + j) % 4 * 16;
            *reinterpret_cast<uint4 *>(at) = make_uint4(pair, pair, pair, pair);
            if (NESTED) *reinterpret_cast<uint4 *>(at + 128) = make_uint4(word, word, word, word);
        }
    }

    // The scale at `at`, which is that of block `block` of a group of tiles.
    __device__ __forceinline__ float scale(const char *at, const char *groups, unsigned block) const {
        if constexpr (!NESTED) return *reinterpret_cast<const float *>(at);
        float2 quant = *reinterpret_cast<const float2 *>(groups + block / QUANT_GROUP * 8);
        unsigned code = *reinterpret_cast<const unsigned char *>(at);
        return nested_absmax(__uint_as_float(load_shared<128>(entry(code, 0))), quant);
    }

    __device__ __forceinline__ uint32_t pair(uint32_t codes, int i) const { return load_shared<0>(entry(codes, i)); }

    // d += a word of codes of each of two rows, times 8 k of x.
    __device__ __forceinline__ void multiply_word(uint32_t low, uint32_t high, uint4 x, float (&d)[4]) const {
        uint32_t first[4] = {pair(low, 0), pair(high, 0), pair(low, 1), pair(high, 1)};
        uint32_t second[4] = {pair(low, 2), pair(high, 2), pair(low, 3), pair(high, 3)};
        mma_m16n8k16<T>(d, first, x.x, x.y);
        mma_m16n8k16<T>(d, second, x.z, x.w);
    }

    // Sums of rows g and g + 8 over the block of this lane: row g with each token, row g + 8 with each.
    __device__ __forceinline__ void multiply(const uint4 (&low)[2], const uint4 (&high)[2], const uint4 (&x)[4],
                                             float (&d)[4]) const {
        float both[2][4] = {};
#pragma unroll
        for (int w = 0; w < 4; w++) {
#pragma unroll
            for (int c = 0; c < 2; c++) multiply_word((&low[c].x)[w], (&high[c].x)[w], x[w], both[c]);
        }
        bool first = threadIdx.x / 2 % 2 == threadIdx.x / 4 % 2;
#pragma unroll
        for (int i = 0; i < 4; i++) d[i] = first ? both[0][i] : both[1][i];
    }

    // Adds the four lanes of a row up. Lane t keeps row g + 8 (t % 2) with token t / 2.
    __device__ __forceinline__ float add_lanes(const float (&d)[4]) const {
        bool odd = threadIdx.x % 2, second = threadIdx.x / 2 % 2;
        float sum = odd ? d[2] : d[0];
        sum += __shfl_xor_sync(~0u, odd ? d[0] : d[2], 1);
        if (TOKENS == 1) return sum + __shfl_xor_sync(~0u, sum, 2);
        float other = odd ? d[3] : d[1];
        other += __shfl_xor_sync(~0u, odd ? d[1] : d[3], 1);
        return (second ? other : sum) + __shfl_xor_sync(~0u, second ? sum : other, 2);
    }

    // Sum `i` of a group: of which row and token.
    struct Output {
        unsigned row, token;
    };
    __device__ __forceinline__ static Output output(unsigned group, unsigned i) {
        return {(group + i / (GEMV4_TILE * TOKENS)) * GEMV4_TILE + i % GEMV4_TILE, i / GEMV4_TILE % TOKENS};
    }
    __device__ __forceinline__ unsigned n_outputs(unsigned group) const {
        return (end_of_group(group) - group) * GEMV4_TILE * TOKENS;
    }
    // Adds the parts of a group up, in order, four lanes for each output, and stores.
    __device__ __forceinline__ void store(unsigned group) const {
        unsigned n = n_outputs(group), quarter = threadIdx.x % 4;
        for (unsigned i = threadIdx.x / 4; i < (n + 7) / 8 * 8; i += THREADS / 4) {
            unsigned at = min(i, n - 1);
            auto [row, token] = output(group, at);
            float sum = add_parts(at, row, token);
            float up = GATED ? add_parts(n + at, row + run_tiles * GEMV4_TILE, token) : 0.f;
            if (quarter > 0 || i >= n) continue;
            if constexpr (GATED) {
                row_of<T>(around->gated, token)[row] = from_f32<T>(swiglu<T>(rounded(sum), rounded(up)));
            } else {
                O *o = row_of<O>(p.out, token) + row;
                *o = from_f32<O>(p.accumulate ? to_f32(*o) + sum : sum);
            }
        }
    }
    // Into L1: the outputs that the first group adds to.
    __device__ __forceinline__ void touch_outputs() const {
        unsigned i = threadIdx.x / 4;
        if (!p.accumulate || threadIdx.x % 4 > 0 || i >= n_outputs(first_tile)) return;
        auto [row, token] = output(first_tile, i);
        touch(row_of<O>(p.out, token) + row);
    }
    // Sum `i` of a group, which is that of row `row`, with what adapters add; all four lanes get it.
    __device__ __forceinline__ float add_parts(unsigned i, unsigned row, unsigned token) const {
        float sum = 0.f;
#pragma unroll
        for (unsigned first = 0; first < GEMV4_WARPS; first += 4) {
            unsigned part = first + threadIdx.x % 4;
            if (part < cut.parts) sum += sums[part * GEMV4_SUMS_PITCH + i];
        }
        sum = add_quarters(sum) * (1.f / table_gain<T>(p.weight.fp4));
        if (ADAPTED) sum += add_quarters(adapters().quarter(row, token));
        return sum;
    }
    __device__ __forceinline__ static float add_quarters(float sum) {
        sum += __shfl_xor_sync(~0u, sum, 1);
        return sum + __shfl_xor_sync(~0u, sum, 2);
    }
    // Into L2, where no stale copy can stay: the factors of adapters that this CTA will want.
    __device__ __forceinline__ void prefetch_adapters() const {
        Adapters adapters = this->adapters();
        adapters.ask(true);
        unsigned rows = (end_tile - first_tile) * GEMV4_TILE;
        for (unsigned i = threadIdx.x; i < rows * RUNS; i += THREADS)
            adapters.prefetch_b(first_tile * GEMV4_TILE + i % rows + i / rows * run_tiles * GEMV4_TILE);
    }
    // The same into L1, once x is being waited for; of B the rows of the first group.
    __device__ __forceinline__ void touch_adapters() const {
        Adapters adapters = this->adapters();
        adapters.ask(false);
        for (unsigned i = threadIdx.x / 4; i < n_outputs(first_tile); i += THREADS / 4) {
            unsigned row = output(first_tile, i).row;
            adapters.touch_b(row);
            if (GATED) adapters.touch_b(row + run_tiles * GEMV4_TILE);
        }
    }
    __device__ __forceinline__ static float rounded(float v) { return to_f32(from_f32<T>(v)); }

    // The cursor for 16 rows of a run, the first of them row `row` of a group of tiles, at the 256 columns `unit`.
    __device__ __forceinline__ Cursor cursor(unsigned group, unsigned odd, unsigned run, unsigned row, unsigned unit,
                                             unsigned part) const {
        unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        unsigned first = run * (end_of_group(group) - group) * GEMV4_TILE + row;
        return {((row + g) * cut.parts + part) * GEMV4_ROW + g % 2 * 64 + t * 16,
                scales_of(odd) + GROUPS_BYTES + (first + g) * scale_pitch + (unit * 4 + t) * SCALE_BYTES,
                (group + run * run_tiles) * GEMV4_TILE * blocks % QUANT_GROUP + (row + g) * blocks + unit * 4 + t,
                sums + part * GEMV4_SUMS_PITCH + first * TOKENS + t / 2 * GEMV4_TILE + g + t % 2 * 8};
    }

    // This warp's part of a stage, added to the sums.
    __device__ __forceinline__ void take(unsigned s, const char *groups, const Cursor &at, const uint4 (&x)[4],
                                         bool first) const {
        const char *from = stage(s) + at.codes, *other = stage(s) + (at.codes ^ 64);
        unsigned eight_rows = 8 * cut.parts * GEMV4_ROW;
        uint4 low[2] = {load16(from), load16(other)}, high[2] = {load16(from + eight_rows), load16(other + eight_rows)};
        float a = scale(at.scale, groups, at.block);
        float b = scale(at.scale + 8 * scale_pitch, groups, at.block + 8 * blocks);
        empty[s].warp_arrives(low[0].x | low[1].x | high[0].x | high[1].x);
        float d[4];
        multiply(low, high, x, d);
        d[0] *= a, d[1] *= a, d[2] *= b, d[3] *= b;
        float sum = add_lanes(d);
        if (threadIdx.x % 4 / 2 < TOKENS) *at.sum = first ? sum : *at.sum + sum;
    }

    __device__ __forceinline__ void multiply_all() const {
        unsigned warp = threadIdx.x / 32, slot = quotient(warp, cut.parts), part = warp - slot * cut.parts;
        unsigned s = 0, parity = 0, odd = 0;
        unsigned rows = cut.tiles * GEMV4_TILE;
        uint4 x[4];
        float norm[8];
        TableEntry<T> entry(p.weight.fp4);
        fetch_scales(first_tile, 0);
        cp_async_commit();
        if (NORM) XShare<T, TOKENS>(p).load_norm(*around, norm);
        all_asked(false);
        if (ADAPTED) prefetch_adapters();
        fill_table(entry);
        cp_async_wait<0>();
        all_made(false);
        Cursor at = cursor(first_tile, 0, 0, slot * GEMV4_TILE, part, part);
        begin_kernel();
        touch_outputs();
        for (unsigned step = 1; step < cut.steps; step++) XShare<T, TOKENS>(p).touch((step * cut.parts + part) * UNIT_K);
        if (ADAPTED) touch_adapters();
        auto make = [&](unsigned token, const T *row) {
            if (ADAPTED) adapters().make(token, [&](unsigned k) { return load_pack(row + k); });
        };
        if (NORM)
            XShare<T, TOKENS>(p).normalise(*around, norm, sums, part * UNIT_K, x, make);
        else
            for (unsigned token = 0; token < TOKENS; token++) make(token, row_of<T>(p.x, token));
#pragma unroll 1
        for (unsigned group = first_tile; group < end_tile; group += cut.group, odd ^= 1) {
            unsigned end = end_of_group(group);
            fetch_scales(group + cut.group, odd ^ 1);
            cp_async_commit();
#pragma unroll 1
            for (unsigned step = 0; step < cut.steps * RUNS; step++) {
                unsigned unit = GATED ? part : step * cut.parts + part, run = GATED ? step : 0;
                bool some = slot < cut.tiles && unit * 4 < blocks;
                if (!NORM) XShare<T, TOKENS>(p).load(unit * UNIT_K, x);
                const char *groups = scales_of(odd) + run * (GROUPS_BYTES / RUNS);
                if (group > first_tile || step > 0) at = cursor(group, odd, run, slot * GEMV4_TILE, unit, part);
#pragma unroll 1
                for (unsigned tile = group; tile < end; tile += cut.tiles) {
                    full[s].wait(parity);
                    if (some && tile + slot < end)
                        take(s, groups, at, x, GATED || step == 0);
                    else
                        empty[s].warp_arrives();
                    if (++s == STAGES) s = 0, parity ^= 1;
                    at.scale += rows * scale_pitch, at.block += rows * blocks, at.sum += rows * TOKENS;
                }
            }
            cp_async_wait<0>();
            sync_multipliers();
            if (ADAPTED && group == first_tile) adapters_are_there(false);
            store(group);
            if (group + cut.group < end_tile) sync_multipliers();
        }
    }

    __device__ __forceinline__ void run() const {
        if (threadIdx.x / 32 < GEMV4_WARPS) return multiply_all();
        if (threadIdx.x % 32 == 0) {
            for (unsigned s = 0; s < STAGES; s++) full[s].init(1), empty[s].init(GEMV4_WARPS * Barrier::WARP_ARRIVALS);
            barriers_are_made();
        }
        __syncwarp();
        all_made(true);
        all_asked(true);
        copy();
    }
};
#endif
