#pragma once
// linear4 forward for 17 to 64 tokens on Hopper, by wgmma as linear4_wgmma.cu, for outputs of at most one tile for each
// multiprocessor. src/cuda/launch/gemm/linear4_wgmma.rs chooses; docs/linear4.md says what binds.
//
// A CTA has 192 rows, 64 for each of three warpgroups, or 64 rows, of which each of four warpgroups multiplies 64 of a
// stage's 256 k. The last warpgroup keeps one ring of stages full, of codes, x and scales: a thread has the copy engine
// fetch, and three warps decode scales, ahead of those that multiply. With CTAS = 2 two CTAs, a cluster, share the k of a
// tile: each adds up half of the tokens, whose sums the other one leaves in its shared memory.
//
// A warpgroup looks codes up for 32 k while the products of the last 32 are under way; those of 64 k, which share a scale,
// are added to the sums, scaled, when the codes of the next are there.
//
// The weight is read while the kernel before this one still runs.
//
// Wants what linear4_wgmma.cu wants, and nothing beside the weight.
#include "cluster.cuh"
#include "linear4_parts.cuh"
#include "linear4_wgmma.cuh"

#if WGMMA
// Dynamic shared memory, by offset. A stage is codes, x in tiles of 64 k, and scales: those of 4 blocks of each row.
template <int ROWS_, int TOKENS_, int CTAS_> struct FewLayout {
    static constexpr int ROWS = ROWS_, TOKENS = TOKENS_, CTAS = CTAS_;
    static constexpr int PARTS = ROWS == 64 ? 4 : 1; // of a stage's k, a warpgroup for each
    static constexpr int WARPS = ROWS / 16 * PARTS, CONSUMERS = WARPS * 32, THREADS = CONSUMERS + 128;
    static constexpr int X_TILE = TOKENS * X_K * 2, X = ROWS * STAGE_K / 2, SCALES = X + BLOCKS * X_TILE;
    static constexpr int STAGE_BYTES = SCALES + (ROWS * BLOCKS * 4 + 1023) / 1024 * 1024;
    // The sums, [part][token][row], are in the ring when it is empty: a row's PITCH avoids bank conflicts. FOURS of a tile.
    static constexpr int PITCH = ROWS + 4, FOURS = TOKENS * ROWS / 4;
    static constexpr int RECEIVED_BYTES = CTAS == 1 ? 0 : FOURS / CTAS * 16;
    static constexpr int FIT = (LINEAR4_WGMMA_SHARED_BYTES - 256 * PAIR_PITCH - RECEIVED_BYTES - 128) / STAGE_BYTES;
    static constexpr int STAGES = FIT < 8 ? FIT : 8;
    static constexpr int TABLE = 0, RING = 256 * PAIR_PITCH, RECEIVED = RING + STAGES * STAGE_BYTES;
    static constexpr int FULL = RECEIVED + RECEIVED_BYTES, FREE = FULL + STAGES * 8;
    // Whether a stage is released in the next one, when its last products have long ended. With few stages that is late.
    static constexpr bool HOLDS = STAGES > 3;
    static_assert(STAGES >= 2 && PARTS * TOKENS * PITCH * 4 <= STAGES * STAGE_BYTES);
    // 64 Ki registers: so many a thread when the kernel starts, then those of the last warpgroup and of the others.
    static constexpr int REGISTERS = 2048 / (WARPS + 4) / 8 * 8, FEWER = 32;
    static constexpr int MORE = ((WARPS + 4) * REGISTERS - 4 * FEWER) / WARPS / 8 * 8;
};

// The rows of this CTA's tile from `row` on, and its stages.
struct FewUnit {
    unsigned row, stage, end, rank;
};
template <class L> __device__ __forceinline__ FewUnit few_unit(const Linear4WgmmaParams &p) {
    unsigned stages = p.weight.cols / STAGE_K, rank = blockIdx.x % L::CTAS;
    return {blockIdx.x / L::CTAS * L::ROWS, stages * rank / L::CTAS, stages * (rank + 1) / L::CTAS, rank};
}

// The dynamic map, beside the pairs: a copy for each lane.
constexpr int FEW_MAP = 128;
template <int THREADS> __device__ __forceinline__ void fill_map() {
    for (unsigned i = threadIdx.x; i < 256 * 2; i += THREADS) {
        float v = dynamic_map(i / 2);
        char *to = shared + i / 2 * PAIR_PITCH + FEW_MAP + i % 2 * 64;
#pragma unroll
        for (unsigned j = 0; j < 4; j++) *reinterpret_cast<float4 *>(to + (i / 2 + j) % 4 * 16) = {v, v, v, v};
    }
}
// Those that decode scales wait for those that fill the map.
template <int FILL, int DECODE> __device__ __forceinline__ void map_is_filled(bool decodes) {
    if (decodes) asm volatile("bar.sync 2, %0;" ::"n"(FILL + DECODE) : "memory");
    else asm volatile("bar.arrive 2, %0;" ::"n"(FILL + DECODE) : "memory");
}

// ------------------------------------------------------------------------------------------------------- the ring

// What the last warpgroup does.
template <class T, class L> struct FewProducer {
    static constexpr unsigned LANES = 96; // that decode scales
    static constexpr unsigned ROWS = (L::ROWS + LANES - 1) / LANES; // of each
    const Linear4WgmmaParams &p;
    const FewUnit unit;
    const unsigned thread; // of the warpgroup

    // As they lie in memory: the scales of a row's four blocks; or a word of their codes, and their group.
    struct Raw {
        uint32_t words[ROWS][4];
    };

    __device__ __forceinline__ char *stage(unsigned s) const { return shared + L::RING + s * L::STAGE_BYTES; }
    __device__ __forceinline__ unsigned row(int i) const { return thread - 32 + LANES * i; }

    __device__ __forceinline__ void load(Raw &raw, unsigned k) const {
        const Weight4Params &w = p.weight;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row(i) >= L::ROWS) break;
            // Rows past the end have the last one's.
            unsigned first = min(unit.row + row(i), w.rows - 1) * (w.cols / 64) + k * BLOCKS, shift = w.block_shift - 6;
            uint32_t(&words)[4] = raw.words[i];
            if (w.absmax) {
#pragma unroll
                for (int b = 0; b < BLOCKS; b++) words[b] = __float_as_uint(__ldg(w.absmax + (first + b >> shift)));
                continue;
            }
            if (shift == 0) {
                words[0] = __ldg(reinterpret_cast<const uint32_t *>(w.absmax_codes + first));
            } else {
                words[0] = 0;
#pragma unroll
                for (int b = 0; b < BLOCKS; b++) words[0] |= __ldg(w.absmax_codes + (first + b >> shift)) << 8 * b;
            }
            float2 group = __ldg(reinterpret_cast<const float2 *>(w.groups) + (first >> shift) / QUANT_GROUP);
            words[1] = __float_as_uint(group.x), words[2] = __float_as_uint(group.y);
        }
    }
    __device__ __forceinline__ float map(unsigned code) const {
        return *reinterpret_cast<const float *>(shared + L::TABLE + code * PAIR_PITCH + FEW_MAP + thread % 32 * 4);
    }
    __device__ __forceinline__ void decode(const Raw &raw, float4 *to, float ungain) const {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row(i) >= L::ROWS) break;
            const uint32_t(&words)[4] = raw.words[i];
            float2 group = {__uint_as_float(words[1]), __uint_as_float(words[2])};
            float scales[BLOCKS];
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) {
                float nested = nested_absmax(map(words[0] >> 8 * b & 255), group);
                scales[b] = (p.weight.absmax ? __uint_as_float(words[b]) : nested) * ungain;
            }
            to[row(i)] = {scales[0], scales[1], scales[2], scales[3]};
        }
    }
    // Three warps: the scales of each stage, asked for a stage ahead.
    __device__ __forceinline__ void scales() const {
        float ungain = 1.f / pair_gain<T>(p.weight.fp4);
        Turn<L::STAGES> ring;
        Raw raw, next;
        if (unit.stage < unit.end) load(raw, unit.stage);
        map_is_filled<L::CONSUMERS, LANES>(true);
#pragma unroll 1
        for (unsigned k = unit.stage; k < unit.end; k++, ring.next()) {
            if (k + 1 < unit.end) load(next, k + 1);
            barrier(L::FREE, ring.stage).wait(ring.parity ^ 1);
            decode(raw, reinterpret_cast<float4 *>(stage(ring.stage) + L::SCALES), ungain);
            barrier(L::FULL, ring.stage).warp_arrives();
            raw = next;
        }
    }

    __device__ __forceinline__ void copy_codes(unsigned k, unsigned s) const {
        Barrier &full = barrier(L::FULL, s);
        full.expect(L::SCALES);
        copy_tile(stage(s), p.codes, k * STAGE_K / 2, unit.row, full, true);
    }
    // One thread: as many stages of codes as there is room for before x is there.
    __device__ __forceinline__ void copy() const {
        unsigned early = min(unit.end, unit.stage + L::STAGES);
#pragma unroll 1
        for (unsigned k = unit.stage; k < early; k++) copy_codes(k, k - unit.stage);
        wait_for_last();
        Turn<L::STAGES> ring;
#pragma unroll 1
        for (unsigned k = unit.stage; k < unit.end; k++, ring.next()) {
            if (k >= early) {
                barrier(L::FREE, ring.stage).wait(ring.parity ^ 1);
                copy_codes(k, ring.stage);
            }
#pragma unroll 1
            for (unsigned b = 0; b < BLOCKS; b++) {
                char *to = stage(ring.stage) + L::X + b * L::X_TILE;
                copy_tile(to, p.x, k * STAGE_K + b * X_K, 0, barrier(L::FULL, ring.stage));
            }
        }
    }
    __device__ __forceinline__ void run() const {
        if (thread >= 32) scales();
        else if (thread == 0) copy();
    }
    static constexpr unsigned ARRIVALS = 1 + LANES / 32 * Barrier::WARP_ARRIVALS; // at a stage that is full
};

// ------------------------------------------------------------------------------------------------------- the products

// What a warp does that multiplies.
template <class T, class L> struct FewConsumer {
    static constexpr int OWN = BLOCKS / L::PARTS; // of a stage's blocks of 64
    using Sums = float[L::TOKENS / 8][4];
    const unsigned lane = threadIdx.x % 32, part = threadIdx.x / 128 / (L::ROWS / 64);
    const unsigned row = threadIdx.x / 32 % (L::ROWS / 16) * 16 + lane / 4; // in the tile; and the eighth after it
    Turn<L::STAGES> ring;
    int held = -1;               // the stage that the products under way read
    Sums sums, product;          // `product`: of the last 64 k
    float low = 0.f, high = 0.f; // its rows' scales
    uint32_t a[2][8]; // 32 k of operand A, as mma_m16n8k16 has it: those being multiplied, those being decoded

    __device__ __forceinline__ const char *stage() const { return shared + L::RING + ring.stage * L::STAGE_BYTES; }

    // Byte t of `codes` as a pair.
    __device__ __forceinline__ uint32_t pair(uint32_t codes) const {
        uint32_t offset = __byte_perm(codes, lane * 4, 0x7504 | lane % 4 << 4);
        return *reinterpret_cast<const uint32_t *>(shared + L::TABLE + offset);
    }
    // Half `half` of 64-block `b` of the stage. The copy engine has exchanged pieces of 16 bytes within each row (swizzle).
    __device__ __forceinline__ void decode(unsigned b, unsigned half, uint32_t (&a)[8]) const {
        const char *from = stage() + row * 128 + ((2 * b + half) ^ lane / 4) * 16;
        uint4 l = *reinterpret_cast<const uint4 *>(from), h = *reinterpret_cast<const uint4 *>(from + 8 * 128);
        const uint32_t words[8] = {l.x, h.x, l.y, h.y, l.z, h.z, l.w, h.w};
#pragma unroll
        for (int i = 0; i < 8; i++) a[i] = pair(words[i]);
    }
    // Queues product (+)= a x^T for half of 64 k.
    __device__ __forceinline__ void multiply(uint32_t tile, int half) {
        auto at = [&](int k) { return wgmma_tile<X_K>(0, 16) | tile + 2 * k; };
        wgmma_fence();
        wgmma_rows_transposed<T, L::TOKENS>(product, a[half], at(2 * half), half > 0);
        wgmma_rows_transposed<T, L::TOKENS>(product, a[half] + 4, at(2 * half + 1), true);
        wgmma_commit();
    }
    // Waits for the products under way, and adds them to the sums.
    __device__ __forceinline__ void settle() {
        wgmma_wait<0>(product);
#pragma unroll
        for (int n = 0; n < L::TOKENS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] = fmaf(i < 2 ? low : high, product[n][i], sums[n][i]);
        }
    }

    // Adds a stage.
    __device__ __forceinline__ void take() {
        barrier(L::FULL, ring.stage).wait(ring.parity);
        struct alignas(OWN * 4) Scales {
            float of[OWN];
        };
        const char *from = stage() + L::SCALES + (row * BLOCKS + part * OWN) * 4;
        Scales lows = *reinterpret_cast<const Scales *>(from);
        Scales highs = *reinterpret_cast<const Scales *>(from + 8 * BLOCKS * 4);
        uint32_t x = shared_address(stage()) + L::X + part * OWN * L::X_TILE;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            unsigned b = part * OWN + i;
            // The same in all lanes, and the compiler sees that it is.
            uint32_t tile = __shfl_sync(~0u, (x + i * L::X_TILE & 0x3FFFF) >> 4, 0);
            wgmma_wait<1>(); // a[0] has been multiplied
            decode(b, 0, a[0]);
            if (L::HOLDS || i > 0) settle();
            if (L::HOLDS && i == 0) release();
            low = lows.of[i], high = highs.of[i];
            multiply(tile, 0);
            decode(b, 1, a[1]);
            multiply(tile, 1);
        }
        held = ring.stage;
        if (!L::HOLDS) settle(), release();
        ring.next();
    }
    __device__ __forceinline__ void release() const {
        if (held >= 0) barrier(L::FREE, held).warp_arrives();
    }
    // The sums of all stages from `k` on.
    __device__ __forceinline__ void add_up(unsigned k, unsigned end) {
        clear(sums), clear(product);
#pragma unroll 1
        for (; k < end; k++) take();
        if (L::HOLDS) settle();
    }
    // Leaves the sums in the ring, which nobody reads or fills any more.
    __device__ __forceinline__ void leave() const {
        sync_consumers<L::CONSUMERS>();
        float *to = reinterpret_cast<float *>(shared + L::RING) + (part * L::TOKENS + lane % 4 * 2) * L::PITCH + row;
#pragma unroll
        for (int n = 0; n < L::TOKENS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) to[(n * 8 + i % 2) * L::PITCH + i / 2 * 8] = sums[n][i];
        }
        sync_consumers<L::CONSUMERS>();
    }
};

// ------------------------------------------------------------------------------------------------------- the outputs

__device__ __forceinline__ float4 plus(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

// Four neighbouring rows of one token, of those that the warpgroups left.
template <class L> __device__ __forceinline__ float4 few_sum(unsigned four) {
    unsigned token = four / (L::ROWS / 4), row = four % (L::ROWS / 4) * 4;
    const float *from = reinterpret_cast<const float *>(shared + L::RING) + token * L::PITCH + row;
    float4 sum = *reinterpret_cast<const float4 *>(from);
#pragma unroll
    for (int i = 1; i < L::PARTS; i++) sum = plus(sum, *reinterpret_cast<const float4 *>(from + i * L::TOKENS * L::PITCH));
    return sum;
}

// Adds up and stores: with two CTAs each its half of the tokens.
template <class O, class L> __device__ __forceinline__ void few_store(const Linear4WgmmaParams &p, const FewUnit &unit) {
    constexpr unsigned SHARE = L::FOURS / L::CTAS;
    unsigned own = unit.rank * SHARE;
    float4 *received = reinterpret_cast<float4 *>(shared + L::RECEIVED);
    if constexpr (L::CTAS == 2) {
        float4 *there = cluster_shared(received, unit.rank ^ 1);
        for (unsigned i = threadIdx.x; i < SHARE; i += L::CONSUMERS) there[i] = few_sum<L>((SHARE ^ own) + i);
        cluster_sync(); // of the threads that multiply: the others have ended
    }
    for (unsigned i = threadIdx.x; i < SHARE; i += L::CONSUMERS) {
        unsigned token = (own + i) / (L::ROWS / 4), row = unit.row + (own + i) % (L::ROWS / 4) * 4;
        if (token >= p.n) break;
        float4 sum = few_sum<L>(own + i);
        if constexpr (L::CTAS == 2) sum = plus(sum, received[i]);
        store_rows<O>(p, token, row, sum);
    }
}

template <class T, class O, int ROWS, int TOKENS, int CTAS>
__device__ __forceinline__ void fused_few(const Linear4WgmmaParams &p) {
    using L = FewLayout<ROWS, TOKENS, CTAS>;
    using Producer = FewProducer<T, L>;
    if (threadIdx.x == 0) {
        for (int i = 0; i < L::STAGES; i++) {
            barrier(L::FULL, i).init(Producer::ARRIVALS);
            barrier(L::FREE, i).init(L::WARPS * Barrier::WARP_ARRIVALS);
        }
        barriers_are_made();
    }
    if constexpr (CTAS == 2) cluster_sync(); // the other CTA runs: its shared memory is there
    else __syncthreads();
    let_next_start();
    FewUnit unit = few_unit<L>(p);
    if (threadIdx.x >= L::CONSUMERS) {
        set_registers<L::FEWER, false>();
        Producer{p, unit, threadIdx.x - L::CONSUMERS}.run();
    } else {
        set_registers<L::MORE, true>();
        fill_map<L::CONSUMERS>();
        map_is_filled<L::CONSUMERS, Producer::LANES>(false);
        fill_pairs<T, L::CONSUMERS>(p.weight.fp4);
        wait_for_last();
        sync_consumers<L::CONSUMERS>();
        FewConsumer<T, L> consumer;
        consumer.add_up(unit.stage, unit.end);
        consumer.leave();
        few_store<O, L>(p, unit);
    }
}
#endif
