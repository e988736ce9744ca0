#pragma once
// Of linear4_few.cuh: what lies where in shared memory, which part of the product a CTA has, and the warps that keep its ring
// of stages full.
#include "linear4_wgmma.cuh"

#if WGMMA
// In the table, beside the pairs of each byte: the dynamic map's entry, a copy for each of 16 lanes, and scales.
constexpr int FEW_MAP = 128, FEW_MAP_LANES = 16, FEW_SCALES = FEW_MAP + FEW_MAP_LANES * 4;

// Dynamic shared memory, by offset. A stage is K of the codes, x in tiles of 64 k, and scales: those of BLOCKS blocks of each
// row. GATED: half of the rows are gate's, half up's.
template <int ROWS_, int TOKENS_, int CTAS_, bool GATED_> struct FewLayout {
    static constexpr int ROWS = ROWS_, TOKENS = TOKENS_, CTAS = CTAS_, HALVES = GATED_ ? 2 : 1;
    // Whether registers hold the product of 64 k beside the sums, which its scale multiplies. For more tokens the scale
    // multiplies each weight.
    static constexpr bool AFTER = TOKENS <= LINEAR4_FEW_WHOLE_TOKENS, GATED = GATED_;
    static constexpr int K = AFTER ? STAGE_K : STAGE_K / 2, BLOCKS = K / 64;
    static constexpr int PARTS = ROWS == 192 ? 1 : 256 / ROWS; // of a stage's k, so many warpgroups for each 64 rows
    static constexpr int WARPS = ROWS / 16 * PARTS, CONSUMERS = WARPS * 32, THREADS = CONSUMERS + 128;
    // Scales are in the table's gaps, of few rows in the ring, where reading them meets fewer conflicts.
    static constexpr bool GAPS = ROWS > 64;
    static constexpr int GAP_ROWS = (PAIR_PITCH - FEW_SCALES) / (BLOCKS * 4);
    static constexpr int CODES = ROWS * K / 2, X_TILE = TOKENS * X_K * 2, COPIED = CODES + BLOCKS * X_TILE;
    static constexpr int STAGE_BYTES = COPIED + (GAPS ? 0 : 1024);
    // The sums, [part][token][row], are in the ring when it is empty: a row's PITCH avoids bank conflicts. FOURS of a tile.
    static constexpr int PITCH = ROWS + 4, FOURS = TOKENS * ROWS / 4, SHARE = FOURS / CTAS;
    static constexpr int SUMS_BYTES = PARTS * TOKENS * PITCH * 4, RECEIVED_BYTES = CTAS == 1 ? 0 : SHARE * 16;
    // Where the other CTA leaves sums: behind the ring, or where there is no room in what the table has been.
    static constexpr bool OVER = CTAS == 2 && !AFTER;
    static constexpr int BEHIND = OVER ? 0 : RECEIVED_BYTES;
    static constexpr int FIT = (LINEAR4_WGMMA_SHARED_BYTES - 256 * PAIR_PITCH - BEHIND - 256) / STAGE_BYTES;
    static constexpr int STAGES = FIT < 8 ? FIT : 8;
    static constexpr int TABLE = 0, RING = 256 * PAIR_PITCH, RING_END = RING + STAGES * STAGE_BYTES;
    static constexpr int SUMS = RING_END - SUMS_BYTES, RECEIVED = OVER ? 0 : RING_END;
    static constexpr int FULL = RING_END + BEHIND, FREE = FULL + STAGES * 8; // and one more, for no stage
    static_assert(STAGES >= 2 && SUMS >= RING && PARTS <= BLOCKS && (!OVER || RECEIVED_BYTES <= SUMS));
    static_assert(GAPS ? STAGES * ROWS <= 256 * GAP_ROWS : ROWS * BLOCKS * 4 <= 1024);
    static_assert(ROWS / HALVES % 8 == 0 && (CTAS == 1 || !GATED));
    // Whether a stage is released in the next one, when its last products have long ended. With few stages that is late.
    static constexpr bool HOLDS = STAGES > 3 || !AFTER;
    // Pieces of 32 k of operand A in registers: those being multiplied, those being decoded.
    static constexpr int PIECES = PARTS == 1 ? 4 : 2;
    // 64 Ki registers: so many a thread when the kernel starts, then those of the last warpgroup and of the others.
    static constexpr int REGISTERS = 2048 / (WARPS + 4) / 8 * 8, FEWER = ROWS == 192 ? 40 : 32;
    static constexpr int MORE = ((WARPS + 4) * REGISTERS - 4 * FEWER) / WARPS / 8 * 8;

    __device__ __forceinline__ static char *stage(unsigned s) { return shared + RING + s * STAGE_BYTES; }
    // The scales of a row's blocks.
    __device__ __forceinline__ static char *scales(unsigned s, unsigned row) {
        if (!GAPS) return stage(s) + COPIED + row * BLOCKS * 4;
        unsigned gap = s * (ROWS / GAP_ROWS) + row / GAP_ROWS;
        return shared + TABLE + gap * PAIR_PITCH + FEW_SCALES + row % GAP_ROWS * BLOCKS * 4;
    }
};

// The rows of this CTA's tile from `row` on, those of each half; and its stages.
struct FewUnit {
    unsigned row, stage, end, rank;
};
template <class L> __device__ __forceinline__ FewUnit few_unit(const Linear4WgmmaParams &p) {
    unsigned stages = p.weight.cols / L::K, rank = blockIdx.x % L::CTAS;
    return {blockIdx.x / L::CTAS * (L::ROWS / L::HALVES), stages * rank / L::CTAS, stages * (rank + 1) / L::CTAS, rank};
}

template <int THREADS> __device__ __forceinline__ void fill_map() {
    constexpr unsigned FOURS = FEW_MAP_LANES / 4;
    for (unsigned i = threadIdx.x; i < 256 * FOURS; i += THREADS) {
        float v = dynamic_map(i / FOURS);
        char *to = shared + i / FOURS * PAIR_PITCH + FEW_MAP + (i / FOURS + i) % FOURS * 16;
        *reinterpret_cast<float4 *>(to) = {v, v, v, v};
    }
}
// Those that decode scales wait for those that fill the map.
template <int FILL, int DECODE> __device__ __forceinline__ void map_is_filled(bool decodes) {
    if (decodes) asm volatile("bar.sync 2, %0;" ::"n"(FILL + DECODE) : "memory");
    else asm volatile("bar.arrive 2, %0;" ::"n"(FILL + DECODE) : "memory");
}

// What the last warpgroup does.
template <class T, class L> struct FewProducer {
    static constexpr unsigned LANES = 96; // that decode scales
    static constexpr unsigned ROWS = (L::ROWS + LANES - 1) / LANES; // of each
    static constexpr unsigned HALF_ROWS = L::ROWS / L::HALVES;
    const Linear4WgmmaParams &p;
    const FewUnit unit;
    const unsigned thread; // of the warpgroup

    // As they lie in memory: the scales of a row's blocks; or a word of their codes, and their group.
    struct Raw {
        uint32_t words[ROWS][4];
    };

    // The first row of a half of the tile.
    __device__ __forceinline__ unsigned first_row(unsigned half) const { return unit.row + half * (p.weight.rows / L::HALVES); }
    __device__ __forceinline__ unsigned row(int i) const { return thread - 32 + LANES * i; }

    __device__ __forceinline__ void load(Raw &raw, unsigned k) const {
        const Weight4Params &w = p.weight;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row(i) >= L::ROWS) break;
            // Rows past the end have the last one's.
            unsigned of_weight = min(first_row(row(i) / HALF_ROWS) + row(i) % HALF_ROWS, w.rows - 1);
            unsigned first = of_weight * (w.cols / 64) + k * L::BLOCKS, shift = w.block_shift - 6;
            uint32_t(&words)[4] = raw.words[i];
            if (w.absmax) {
#pragma unroll
                for (int b = 0; b < L::BLOCKS; b++) words[b] = __float_as_uint(__ldg(w.absmax + (first + b >> shift)));
                continue;
            }
            if (shift == 0) {
                using Codes = std::conditional_t<L::BLOCKS == 4, uint32_t, uint16_t>;
                words[0] = __ldg(reinterpret_cast<const Codes *>(w.absmax_codes + first));
            } else {
                words[0] = 0;
#pragma unroll
                for (int b = 0; b < L::BLOCKS; b++) words[0] |= __ldg(w.absmax_codes + (first + b >> shift)) << 8 * b;
            }
            float2 group = __ldg(reinterpret_cast<const float2 *>(w.groups) + (first >> shift) / QUANT_GROUP);
            words[1] = __float_as_uint(group.x), words[2] = __float_as_uint(group.y);
        }
    }
    __device__ __forceinline__ float map(unsigned code) const {
        const char *entry = shared + L::TABLE + code * PAIR_PITCH + FEW_MAP;
        return *reinterpret_cast<const float *>(entry + thread % FEW_MAP_LANES * 4);
    }
    __device__ __forceinline__ void decode(const Raw &raw, unsigned s, float ungain) const {
        struct alignas(L::BLOCKS * 4) Scales {
            float of[L::BLOCKS];
        };
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row(i) >= L::ROWS) break;
            const uint32_t(&words)[4] = raw.words[i];
            float2 group = {__uint_as_float(words[1]), __uint_as_float(words[2])};
            Scales scales;
#pragma unroll
            for (int b = 0; b < L::BLOCKS; b++) {
                float nested = nested_absmax(map(words[0] >> 8 * b & 255), group);
                scales.of[b] = (p.weight.absmax ? __uint_as_float(words[b]) : nested) * ungain;
            }
            *reinterpret_cast<Scales *>(L::scales(s, row(i))) = scales;
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
            decode(raw, ring.stage, ungain);
            barrier(L::FULL, ring.stage).warp_arrives();
            raw = next;
        }
    }

    __device__ __forceinline__ void copy_codes(unsigned k, unsigned s) const {
        Barrier &full = barrier(L::FULL, s);
        full.expect(L::COPIED);
#pragma unroll
        for (unsigned half = 0; half < L::HALVES; half++)
            copy_tile(L::stage(s) + half * (L::CODES / L::HALVES), p.codes, k * (L::K / 2), first_row(half), full, true);
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
            for (unsigned b = 0; b < L::BLOCKS; b++) {
                char *to = L::stage(ring.stage) + L::CODES + b * L::X_TILE;
                copy_tile(to, p.x, k * L::K + b * X_K, 0, barrier(L::FULL, ring.stage));
            }
        }
    }
    __device__ __forceinline__ void run() const {
        if (thread >= 32) scales();
        else if (thread == 0) copy();
    }
    static constexpr unsigned ARRIVALS = 1 + LANES / 32 * Barrier::WARP_ARRIVALS; // at a stage that is full
};
#endif
