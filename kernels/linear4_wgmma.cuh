#pragma once
// The pieces of linear4_wgmma.cu: what lies where in shared memory, how the work is cut into units, a stage of the
// weight's scales, the pairs of codes.
#include "linear4_pairs.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

constexpr int STAGE_K = LINEAR4_WGMMA_STAGE_K, X_K = LINEAR4_WGMMA_X_K;
constexpr int BLOCKS = STAGE_K / 64; // of 64, which is what shares a scale at least
constexpr int SCALE_SLOTS = 4;       // stages of scales under way
constexpr int SLOT_BYTES = 256;      // of a warp
constexpr int STORE_PITCH = 20;      // floats from token to token: 8 tokens of 16 rows without bank conflicts

// Dynamic shared memory, by offset.
template <int WARPGROUPS, int TOKENS> struct Layout {
    static constexpr int ROWS = WARPGROUPS * 64, WARPS = WARPGROUPS * 4, CONSUMERS = WARPGROUPS * 128;
    static constexpr int THREADS = CONSUMERS + 128;
    static constexpr int X_BYTES = TOKENS * X_K * 2, W_BYTES = ROWS * STAGE_K / 2;
    static constexpr int OTHERS =
        256 * PAIR_PITCH + WARPS * (SCALE_SLOTS * SLOT_BYTES + 8 * STORE_PITCH * 4) + 256 * 4 + 256;
    static constexpr int W_STAGES = TOKENS == 32 ? 4 : 3;
    static constexpr int X_FIT = (LINEAR4_WGMMA_SHARED_BYTES - OTHERS - W_STAGES * W_BYTES) / X_BYTES;
    static constexpr int X_STAGES = X_FIT < 12 ? X_FIT : 12;
    static constexpr int TABLE = 0, X = 256 * PAIR_PITCH, W = X + X_STAGES * X_BYTES;
    static constexpr int SCALES = W + W_STAGES * W_BYTES, STORE = SCALES + WARPS * SCALE_SLOTS * SLOT_BYTES;
    static constexpr int MAP = STORE + WARPS * 8 * STORE_PITCH * 4, BARRIERS = MAP + 256 * 4;
    static constexpr int X_FULL = BARRIERS, X_FREE = X_FULL + X_STAGES * 8;
    static constexpr int W_FULL = X_FREE + X_STAGES * 8, W_FREE = W_FULL + W_STAGES * 8, SHARES = W_FREE + W_STAGES * 8;
    static_assert(X_STAGES >= 3 && SHARES + 4 <= LINEAR4_WGMMA_SHARED_BYTES && W % 1024 == 0);
};

// A barrier of a ring.
__device__ __forceinline__ Barrier &barrier(int ring, unsigned stage) {
    return reinterpret_cast<Barrier *>(shared + ring)[stage];
}

// --------------------------------------------------------------------------------------------------------- decoding

// For what is scaled later.
struct Unscaled {
    __device__ __forceinline__ uint32_t times(uint32_t pair) const { return pair; }
};

// ----------------------------------------------------------------------------------------------------------- scales

template <int BYTES> __device__ __forceinline__ void cp_async(uint32_t to, const void *from, uint32_t bytes = BYTES) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
                 "n"(BYTES), "r"(bytes)
        : "memory");
}

// The scales of a warp's 16 rows, a stage at a time: the codes of a row's scales, which one aligned word holds, and
// behind the 16 words the rows' groups; or the plain scales, lane (g, t) that of row g and 64-block t, and 128 bytes on
// of row g + 8.
struct WarpScales {
    const Weight4Params &w;
    unsigned slots, map; // offsets in shared memory; `map`: the dynamic map
    unsigned lane;

    // Which scale 64-block `i` of this stage of a row has. Rows past the end have the last one's.
    __device__ __forceinline__ unsigned block(unsigned row, unsigned stage, unsigned i) const {
        return (min(row, w.rows - 1) * (w.cols / 64) + stage * BLOCKS + i) >> (w.block_shift - 6);
    }
    __device__ __forceinline__ void queue(unsigned row, unsigned stage, unsigned slot) const {
        uint32_t to = shared_address(shared) + slots + slot * SLOT_BYTES;
        if (w.absmax) {
            cp_async<4>(to + lane * 4, w.absmax + block(row + lane / 4, stage, lane % 4));
            cp_async<4>(to + 128 + lane * 4, w.absmax + block(row + 8 + lane / 4, stage, lane % 4));
            return;
        }
        unsigned first = block(row + lane % 16, stage, 0), word = first & ~3u;
        if (lane < 16) {
            unsigned blocks = block(w.rows - 1, w.cols / STAGE_K - 1, BLOCKS - 1) + 1; // of the weight
            cp_async<4>(to + lane * 4, w.absmax_codes + word, min(4u, blocks - word));
        } else {
            cp_async<8>(to + lane * 8 - 64, w.groups + first / QUANT_GROUP * 2);
        }
    }
    // The scale of row g and 64-block t, or with i = 1 of row g + 8.
    __device__ __forceinline__ float read(unsigned row, unsigned stage, unsigned slot, int i) const {
        const char *from = shared + slots + slot * SLOT_BYTES;
        unsigned r = lane / 4 + 8 * i;
        if (w.absmax) return *reinterpret_cast<const float *>(from + i * 128 + lane * 4);
        unsigned char code = from[r * 4 + block(row + r, stage, lane % 4) % 4];
        float value = *reinterpret_cast<const float *>(shared + map + code * 4);
        return nested_absmax(value, *reinterpret_cast<const float2 *>(from + 64 + r * 8));
    }
};

// ---------------------------------------------------------------------------------------------------------- outputs

// Stores, or adds, the sums of four neighbouring rows of a token, of those before `rows`.
template <class O>
__device__ __forceinline__ void store_rows(const Linear4WgmmaParams &p, unsigned token, unsigned row, float4 four,
                                           unsigned rows) {
    struct alignas(4 * sizeof(O)) Pack4 {
        O v[4];
    };
    const float sums[4] = {four.x, four.y, four.z, four.w};
    O *to = row_of<O>(p.out, token) + row;
    auto value = [&](O old, int i) { return from_f32<O>(p.accumulate ? to_f32(old) + sums[i] : sums[i]); };
    if (row + 4 <= rows && reinterpret_cast<uintptr_t>(to) % sizeof(Pack4) == 0) {
        Pack4 &out = *reinterpret_cast<Pack4 *>(to), old = p.accumulate ? out : Pack4();
        out = {value(old.v[0], 0), value(old.v[1], 1), value(old.v[2], 2), value(old.v[3], 3)};
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (row + i < rows) to[i] = value(p.accumulate ? to[i] : O(), i);
}
