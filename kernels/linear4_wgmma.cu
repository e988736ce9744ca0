// linear4 forward for 17 tokens and more on Hopper, by wgmma: out^T = W x^T. The weight is operand A, decoded from
// shared memory into the registers of the warps that multiply; a tile of x is operand B, as the copy engine laid it
// down. src/cuda/launch/gemm/linear4_wgmma.rs cuts the work; docs/linear4.md says what binds.
//
// A CTA, one on each multiprocessor, has 2 or 3 warpgroups of 64 rows, and a fourth whose threads keep two rings of
// stages full: 256 k of the weight, 64 k of x. Lane (g, t) of a warp needs byte t of each word of rows g and g + 8: the
// 16 k of a product are the 8 bytes of two words, in their natural order. A byte becomes a pair of T by one `prmt`
// (byte * 256 + lane * 4 is an address) and one look-up; the next 64 k are decoded while the last are multiplied.
//
// The weight is read while the kernel before this one still runs: the rings of codes and scales are full, and the table is,
// when x comes.
//
// Columns beside the weight, those of adapters, come as they are, from L2: 64 k are a stage of their own, with one of x.
//
// Wants cols % 256 = 0, blocks of 64 and more; x, its rows and the codes aligned to 16 bytes, nested scales to 4 and 8.
#include "linear4_few.cuh"
#include "linear4_parts.cuh"
#include "linear4_wgmma.cuh"
#include "gemm.cuh"

#if WGMMA
// Up to so many tokens, registers hold the product of 64 k beside the sums, and its scale multiplies that (AFTER): the
// most exact way, and the fastest. For more tokens the scale multiplies each weight.
constexpr int MAX_AFTER = 64;

// The stages of the weight, and with what is beside it.
__device__ __forceinline__ unsigned weight_stages(const Linear4WgmmaParams &p) { return p.weight.cols / STAGE_K; }
__device__ __forceinline__ unsigned all_stages(const Linear4WgmmaParams &p) {
    return weight_stages(p) + p.dense_k / X_K;
}

// What a warp does that multiplies.
template <class T, class O, int WARPGROUPS, int TOKENS> struct Consumer {
    static constexpr bool AFTER = TOKENS <= MAX_AFTER;
    using L = Layout<WARPGROUPS, TOKENS>;
    using Sums = float[TOKENS / 8][4];
    const Linear4WgmmaParams &p;
    const unsigned warp, lane;
    const WarpScales scales;
    const float ungain;
    Turn<L::X_STAGES> x;
    Turn<L::W_STAGES> w;
    unsigned slot = 0;   // of the scales
    int held = -1;       // the stage of x that the products under way read
    unsigned ahead_unit; // the scales to be queued next
    Unit ahead;
    Sums part; // AFTER: the product of the last 64 k, and its rows' scales
    float part_low = 0.f, part_high = 0.f;
    uint32_t a[2][16]; // 64 k of operand A, as mma_m16n8k16 has it: those being multiplied, those being decoded

    __device__ __forceinline__ explicit Consumer(const Linear4WgmmaParams &p)
        : p(p), warp(threadIdx.x / 32), lane(threadIdx.x % 32),
          scales{p.weight, L::SCALES + warp * SCALE_SLOTS * SLOT_BYTES, L::MAP, lane},
          ungain(1.f / pair_gain<T>(p.weight.fp4)) {
        next_ahead(blockIdx.x);
    }

    __device__ __forceinline__ Unit unit(unsigned i) const { return unit_of(p, i, all_stages(p), L::ROWS, TOKENS); }
    __device__ __forceinline__ void arrive(int ring, unsigned stage) const {
        if (lane == 0) barrier(ring, stage).arrive();
    }

    // The unit from `i` on that has stages of the weight.
    __device__ __forceinline__ void next_ahead(unsigned i) {
        for (; i < p.units; i += gridDim.x) {
            ahead = unit(i), ahead.end = min(ahead.end, weight_stages(p));
            if (ahead.stage < ahead.end) break;
        }
        ahead_unit = i;
    }
    __device__ __forceinline__ void queue_scales(unsigned slot) {
        if (ahead_unit < p.units) {
            scales.queue(ahead.row + warp * 16, ahead.stage, slot);
            if (++ahead.stage == ahead.end) next_ahead(ahead_unit + gridDim.x);
        }
        cp_async_commit(); // also when empty: the waits count groups
    }

    // Byte t of `codes` as a pair.
    __device__ __forceinline__ uint32_t pair(uint32_t codes) const {
        uint32_t offset = __byte_perm(codes, lane * 4, 0x7504 | lane % 4 << 4);
        return *reinterpret_cast<const uint32_t *>(shared + L::TABLE + offset);
    }
    // 64-block `b` of the stage into `a`, times `low` in rows g and `high` in rows g + 8. The copy engine has exchanged
    // pieces of 16 bytes within each row (swizzle).
    template <class Low> __device__ __forceinline__ void decode(int b, Low low, Low high, uint32_t (&a)[16]) const {
        const char *row = shared + L::W + w.stage * L::W_BYTES + (warp * 16 + lane / 4) * 128;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            unsigned offset = ((2 * b + half) ^ lane / 4) * 16;
            uint4 l = *reinterpret_cast<const uint4 *>(row + offset);
            uint4 h = *reinterpret_cast<const uint4 *>(row + 8 * 128 + offset);
            const uint32_t words[8] = {l.x, h.x, l.y, h.y, l.z, h.z, l.w, h.w};
#pragma unroll
            for (int i = 0; i < 8; i++) a[half * 8 + i] = (i % 2 ? high : low).times(pair(words[i]));
        }
    }
    // Queues sums (+)= a x^T for 64 k.
    __device__ __forceinline__ void multiply(Sums &sums, const uint32_t (&a)[16], bool add) {
        barrier(L::X_FULL, x.stage).wait(x.parity);
        uint64_t tile = wgmma_tile<X_K>(shared_address(shared) + L::X + x.stage * L::X_BYTES, 16);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) wgmma_rows_transposed<T, TOKENS>(sums, a + 4 * k, tile + 2 * k, add || k > 0);
        wgmma_commit();
    }
    // After the products before the last have ended.
    __device__ __forceinline__ void release_x() {
        if (held >= 0) arrive(L::X_FREE, held);
    }

    // sums += a stage of the weight times one of x.
    __device__ __forceinline__ void stage(const Unit &unit, unsigned k, Sums &sums) {
        barrier(L::W_FULL, w.stage).wait(w.parity);
        cp_async_wait<SCALE_SLOTS - 1>();
        __syncwarp();
        unsigned row = unit.row + warp * 16;
        float scale0 = scales.read(row, k, slot, 0) * ungain, scale1 = scales.read(row, k, slot, 1) * ungain;
        __syncwarp();
        queue_scales(slot);
        slot = (slot + 1) % SCALE_SLOTS;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            float low = __shfl_sync(~0u, scale0, (lane & ~3u) + b), high = __shfl_sync(~0u, scale1, (lane & ~3u) + b);
            if constexpr (AFTER) {
                decode(b, Unscaled(), Unscaled(), a[b % 2]);
                settle(sums);
                multiply(part, a[b % 2], false);
                part_low = low, part_high = high;
            } else {
                decode(b, Scale<T>(low), Scale<T>(high), a[b % 2]);
                multiply(sums, a[b % 2], true);
                wgmma_wait<1>();
                release_x();
            }
            held = x.stage;
            x.next();
        }
        __syncwarp();
        arrive(L::W_FREE, w.stage);
        w.next();
    }
    // 64 columns beside the weight into `a`.
    __device__ __forceinline__ void load_beside(unsigned row, unsigned column, uint32_t (&a)[16]) const {
        row += lane / 4, column += lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            // Rows past the end, which are not stored, have the last one's.
            const T *from = static_cast<const T *>(p.dense) + size_t(min(row + 8 * i, p.weight.rows - 1)) * p.dense_k;
#pragma unroll
            for (int k = 0; k < 8; k++)
                a[k / 2 * 4 + k % 2 * 2 + i] = *reinterpret_cast<const uint32_t *>(from + column + k * 8);
        }
    }
    // sums += 64 of them times those of x.
    __device__ __forceinline__ void stage_beside(const Unit &unit, unsigned k, Sums &sums) {
        if constexpr (AFTER) settle(sums);
        load_beside(unit.row + warp * 16, (k - weight_stages(p)) * X_K, a[0]);
        if constexpr (AFTER) {
            multiply(part, a[0], false);
            part_low = part_high = 1.f;
        } else {
            multiply(sums, a[0], true);
            wgmma_wait<0>(sums);
            release_x();
        }
        held = x.stage;
        x.next();
    }
    __device__ __forceinline__ static void clear(Sums &sums) {
#pragma unroll
        for (int i = 0; i < TOKENS / 2; i++) sums[i / 4][i % 4] = 0.f;
    }
    // Waits for the products under way. AFTER: adds them to the sums, scaled.
    __device__ __forceinline__ void settle(Sums &sums) {
        if constexpr (AFTER) {
            wgmma_wait<0>(part);
#pragma unroll
            for (int n = 0; n < TOKENS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) sums[n][i] = fmaf(i < 2 ? part_low : part_high, part[n][i], sums[n][i]);
            }
        } else {
            wgmma_wait<0>(sums);
        }
        release_x();
    }

    // Stores the sums of 8 tokens, from `token` on, of this warp's rows: each lane those of four neighbouring rows.
    __device__ __forceinline__ void store(unsigned row, unsigned token, const float (&sums)[4]) const {
        float *turned = reinterpret_cast<float *>(shared + L::STORE) + warp * 8 * STORE_PITCH;
        unsigned g = lane / 4, t = lane % 4;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++) turned[(2 * t + i % 2) * STORE_PITCH + g + i / 2 * 8] = sums[i];
        __syncwarp();
        float4 v = *reinterpret_cast<const float4 *>(turned + g * STORE_PITCH + t * 4);
        if (token + g < p.n) store_rows<O>(p, token + g, row + warp * 16 + t * 4, v, p.weight.rows);
    }

    __device__ __forceinline__ void run() {
        for (unsigned i = 0; i < SCALE_SLOTS; i++) queue_scales(i);
        fill_pairs<T, L::CONSUMERS>(p.weight.fp4);
        float *map = reinterpret_cast<float *>(shared + L::MAP);
        if (threadIdx.x < 256) map[threadIdx.x] = dynamic_map(threadIdx.x);
        wait_for_last();
        sync_consumers<L::CONSUMERS>();
        for (unsigned i = blockIdx.x; i < p.units; i += gridDim.x) {
            Unit unit = this->unit(i);
            Sums sums = {};
            clear(part);
            unsigned k = unit.stage;
            for (; k < min(unit.end, weight_stages(p)); k++) stage(unit, k, sums);
            for (; k < unit.end; k++) stage_beside(unit, k, sums);
            settle(sums);
            part_low = part_high = 0.f;
            held = -1;
            if (unit.whole) {
#pragma unroll
                for (int n = 0; n < TOKENS / 8; n++)
                    if (unit.token + n * 8 < p.n) store(unit.row, unit.token + n * 8, sums[n]);
            } else {
                TileParts<L::CONSUMERS, TOKENS / 8, 1>(p, *reinterpret_cast<unsigned *>(shared + L::SHARES))
                    .finish(unit, {&sums}, [&](unsigned token, const float (&sum)[1][4]) {
                        store(unit.row, token, sum[0]);
                    });
            }
        }
    }
};

// The two threads that keep the rings full.
template <int WARPGROUPS, int TOKENS> __device__ __forceinline__ void produce(const Linear4WgmmaParams &p) {
    using L = Layout<WARPGROUPS, TOKENS>;
    Turn<L::W_STAGES> w;
    Turn<L::X_STAGES> x;
    if (threadIdx.x / 32 == L::CONSUMERS / 32 + 1) wait_for_last();
    for (unsigned i = blockIdx.x; i < p.units; i += gridDim.x) {
        Unit unit = unit_of(p, i, all_stages(p), L::ROWS, TOKENS);
        unsigned weight_end = min(unit.end, weight_stages(p));
        for (unsigned k = unit.stage; threadIdx.x == L::CONSUMERS && k < weight_end; k++, w.next()) {
            Barrier &full = barrier(L::W_FULL, w.stage);
            barrier(L::W_FREE, w.stage).wait(w.parity ^ 1);
            full.expect(L::W_BYTES);
            char *to = shared + L::W + w.stage * L::W_BYTES;
            copy_tile(to, p.codes, k * STAGE_K / 2, unit.row, full, p.token_tiles == 1);
        }
        // In steps of X_K: those of the weight's stages, and one for each of the others.
        auto step = [&](unsigned stage) {
            unsigned of_weight = min(stage, weight_stages(p));
            return of_weight * (STAGE_K / X_K) + stage - of_weight;
        };
        unsigned end = step(unit.end);
        for (unsigned k = step(unit.stage); threadIdx.x == L::CONSUMERS + 32 && k < end; k++, x.next()) {
            Barrier &full = barrier(L::X_FULL, x.stage);
            barrier(L::X_FREE, x.stage).wait(x.parity ^ 1);
            full.expect(L::X_BYTES);
            copy_tile(shared + L::X + x.stage * L::X_BYTES, p.x, k * X_K, unit.token, full);
        }
    }
}

template <class T, class O, int WARPGROUPS, int TOKENS>
__device__ __forceinline__ void fused(const Linear4WgmmaParams &p) {
    using L = Layout<WARPGROUPS, TOKENS>;
    auto barriers = [](int ring, int stages, unsigned arrivals) {
        for (int i = 0; i < stages; i++) barrier(ring, i).init(arrivals);
    };
    if (threadIdx.x == 0) {
        barriers(L::X_FULL, L::X_STAGES, 1), barriers(L::W_FULL, L::W_STAGES, 1);
        barriers(L::X_FREE, L::X_STAGES, L::WARPS), barriers(L::W_FREE, L::W_STAGES, L::WARPS);
        barriers_are_made();
    }
    __syncthreads();
    let_next_start();
    // 64 Ki registers: what the kernel starts with, dealt out anew.
    if (threadIdx.x >= L::CONSUMERS) {
        set_registers<WARPGROUPS == 2 ? 24 : 32, false>();
        produce<WARPGROUPS, TOKENS>(p);
    } else {
        set_registers<WARPGROUPS == 2 ? 240 : 160, true>();
        Consumer<T, O, WARPGROUPS, TOKENS>(p).run();
    }
}

#define WGMMA_TILE(name, WARPGROUPS, TOKENS)                                                                           \
    EARLY_ENTRIES(name, Linear4WgmmaParams, (Layout<WARPGROUPS, TOKENS>::THREADS), 1, fused, WARPGROUPS, TOKENS)          \
    EARLY_ENTRIES_F32_OUT(name, Linear4WgmmaParams, (Layout<WARPGROUPS, TOKENS>::THREADS), 1, fused, WARPGROUPS, TOKENS)
// By rows and tokens.
WGMMA_TILE(linear4_wgmma_192x32, 3, 32)
WGMMA_TILE(linear4_wgmma_192x64, 3, 64)
WGMMA_TILE(linear4_wgmma_192x96, 3, 96)
WGMMA_TILE(linear4_wgmma_192x128, 3, 128)
WGMMA_TILE(linear4_wgmma_128x256, 2, 256)

// linear4_few.cuh. By rows and tokens, a CTA for each tile, or two; with SwiGLU a CTA for each.
#define FEW_ENTRY(name, suffix, T, O, ROWS, TOKENS, CTAS, GATED, CLUSTER)                                              \
    extern "C" __global__ void CLUSTER __launch_bounds__((FewLayout<ROWS, TOKENS, CTAS, GATED>::THREADS), 1)           \
        name##_##suffix(const __grid_constant__ Linear4WgmmaParams p) {                                                \
        fused_few<T, O, ROWS, TOKENS, CTAS, GATED>(p);                                                                 \
    }
#define FEW_ENTRIES(name, ...)                                                                                         \
    FEW_ENTRY(name, bf16, bf16, bf16, __VA_ARGS__)                                                                     \
    FEW_ENTRY(name, f16, f16, f16, __VA_ARGS__)
#define FEW_ENTRIES_F32_OUT(name, ...)                                                                                 \
    FEW_ENTRY(name, bf16_f32, bf16, f32, __VA_ARGS__)                                                                  \
    FEW_ENTRY(name, f16_f32, f16, f32, __VA_ARGS__)
#define FEW_TILE(ROWS, TOKENS)                                                                                         \
    FEW_ENTRIES(linear4_few_##ROWS##x##TOKENS, ROWS, TOKENS, 1, false, )                                               \
    FEW_ENTRIES_F32_OUT(linear4_few_##ROWS##x##TOKENS, ROWS, TOKENS, 1, false, )                                       \
    FEW_ENTRIES(linear4_few_swiglu_##ROWS##x##TOKENS, ROWS, TOKENS, 1, true, )
#define FEW_TILE_OF_TWO(ROWS, TOKENS)                                                                                  \
    FEW_ENTRIES(linear4_few2_##ROWS##x##TOKENS, ROWS, TOKENS, 2, false, CLUSTER_OF(2))                                 \
    FEW_ENTRIES_F32_OUT(linear4_few2_##ROWS##x##TOKENS, ROWS, TOKENS, 2, false, CLUSTER_OF(2))
FEW_TILE(192, 16)
FEW_TILE(192, 32)
FEW_TILE(192, 64)
FEW_TILE(192, 96)
FEW_TILE(192, 128)
FEW_TILE(64, 16)
FEW_TILE(64, 32)
FEW_TILE(64, 64)
FEW_TILE_OF_TWO(64, 16)
FEW_TILE_OF_TWO(64, 32)
FEW_TILE_OF_TWO(64, 64)
FEW_TILE_OF_TWO(128, 96)
FEW_TILE_OF_TWO(128, 128)
#endif
