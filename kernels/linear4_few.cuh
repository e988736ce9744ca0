#pragma once
// linear4 forward for 9 to 128 tokens on Hopper, by wgmma as linear4_wgmma.cu, for outputs of at most one tile for each
// multiprocessor. src/cuda/launch/gemm/linear4_wgmma.rs chooses; docs/linear4.md says what binds.
//
// A CTA has 192 rows, 64 for each of three warpgroups; or 128 or 64, and several warpgroups share their 64 rows, each with a
// part of a stage's k. The last warpgroup keeps one ring of stages full, of codes, x and scales: a thread has the copy engine
// fetch, and three warps decode scales, ahead of those that multiply. With CTAS = 2 two CTAs, a cluster, share the k of a
// tile: each adds up half of the tokens, whose sums the other one leaves in its shared memory.
//
// A warpgroup looks codes up while the products of the last ones are under way. Up to 64 tokens the products of 64 k, which
// share a scale, are added to the sums, scaled, when the codes of the next are there.
//
// GATED: a CTA has as many rows of gate as of up, and stores SwiGLU of the two.
//
// The weight is read while the kernel before this one still runs.
//
// Wants what linear4_wgmma.cu wants, and nothing beside the weight.
#include "cluster.cuh"
#include "linear4_few_ring.cuh"
#include "linear4_parts.cuh"
#include "sigmoid.cuh"

#if WGMMA
// ------------------------------------------------------------------------------------------------------- the products

// What a warp does that multiplies.
template <class T, class L> struct FewConsumer {
    static constexpr int OWN = L::BLOCKS / L::PARTS; // of a stage's blocks of 64
    using Sums = float[L::TOKENS / 8][4];
    struct alignas(OWN * 4) Scales {
        float of[OWN];
    };
    const unsigned lane = threadIdx.x % 32, part = threadIdx.x / 128 / (L::ROWS / 64);
    const unsigned row = threadIdx.x / 32 % (L::ROWS / 16) * 16 + lane / 4; // in the tile; and the eighth after it
    Turn<L::STAGES> ring;
    unsigned held = L::STAGES;   // the stage that the products under way read, or none
    Sums sums, product;          // `product`: AFTER, of the last 64 k
    float low = 0.f, high = 0.f; // its rows' scales
    uint32_t a[L::PIECES][8];    // each as mma_m16n8k16 has it, twice

    // Byte t of `codes` as a pair.
    __device__ __forceinline__ uint32_t pair(uint32_t codes) const {
        uint32_t offset = __byte_perm(codes, lane * 4, 0x7504 | lane % 4 << 4);
        return *reinterpret_cast<const uint32_t *>(shared + L::TABLE + offset);
    }
    // Piece `half` of this warp's 64-block `i` of the stage, times `low` in rows g and `high` in rows g + 8. The copy engine
    // has exchanged pieces of 16 bytes within each row (swizzle).
    template <class Low>
    __device__ __forceinline__ void decode(int i, int half, uint32_t (&a)[8], Low low, Low high) const {
        constexpr unsigned PITCH = L::K / 2; // of a row
        unsigned piece = 2 * (part * OWN + i) + half;
        const char *from = L::stage(ring.stage) + row * PITCH + (piece ^ lane / (512 / PITCH)) * 16;
        uint4 l = *reinterpret_cast<const uint4 *>(from), h = *reinterpret_cast<const uint4 *>(from + 8 * PITCH);
        const uint32_t words[8] = {l.x, h.x, l.y, h.y, l.z, h.z, l.w, h.w};
#pragma unroll
        for (int j = 0; j < 8; j++) a[j] = (j % 2 ? high : low).times(pair(words[j]));
    }
    __device__ __forceinline__ void decode(int i, int half, uint32_t (&a)[8]) const {
        decode(i, half, a, Unscaled(), Unscaled());
    }
    // Queues sums (+)= a x^T for piece `half` of 64 k.
    __device__ __forceinline__ void multiply(Sums &sums, const uint32_t (&a)[8], uint32_t tile, int half, bool add) {
        auto at = [&](int k) { return wgmma_tile<X_K>(0, 16) | tile + 2 * k; };
        wgmma_fence();
        wgmma_rows_transposed<T, L::TOKENS>(sums, a, at(2 * half), add);
        wgmma_rows_transposed<T, L::TOKENS>(sums, a + 4, at(2 * half + 1), true);
        wgmma_commit();
    }
    // Waits for the products under way; AFTER: adds them to the sums.
    __device__ __forceinline__ void settle() {
        if constexpr (L::AFTER) {
            wgmma_wait<0>(product);
#pragma unroll
            for (int n = 0; n < L::TOKENS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) sums[n][i] = fmaf(i < 2 ? low : high, product[n][i], sums[n][i]);
            }
        } else {
            wgmma_wait<0>(sums);
        }
    }
    // The stage before. No branch where products are under way that it would part: the compiler would wait for them.
    __device__ __forceinline__ void release() const {
        if (!L::AFTER || held < L::STAGES) barrier(L::FREE, held).warp_arrives();
    }

    // Adds a stage.
    __device__ __forceinline__ void take() {
        barrier(L::FULL, ring.stage).wait(ring.parity);
        Scales lows = *reinterpret_cast<const Scales *>(L::scales(ring.stage, row) + part * OWN * 4);
        Scales highs = *reinterpret_cast<const Scales *>(L::scales(ring.stage, row + 8) + part * OWN * 4);
        uint32_t x = shared_address(L::stage(ring.stage)) + L::CODES + part * OWN * L::X_TILE;
        // The same in all lanes, and the compiler sees that it is.
        uint32_t tile = __shfl_sync(~0u, (x & 0x3FFFF) >> 4, 0);
        if constexpr (L::AFTER) scale_products(lows, highs, tile);
        else scale_weights(lows, highs, tile);
        held = ring.stage;
        if (!L::HOLDS) settle(), release();
        ring.next();
    }
    __device__ __forceinline__ void scale_products(const Scales &lows, const Scales &highs, uint32_t tile) {
#pragma unroll
        for (int i = 0; i < OWN; i++, tile += L::X_TILE >> 4) {
            constexpr bool BOTH = L::PIECES == 4; // pieces of 64 k are decoded before the first is multiplied
            uint32_t(&first)[8] = a[BOTH ? i % 2 * 2 : 0], (&second)[8] = a[BOTH ? i % 2 * 2 + 1 : 1];
            if (!BOTH) wgmma_wait<1>(); // `first` has been multiplied
            decode(i, 0, first);
            if (BOTH) decode(i, 1, second);
            if (L::HOLDS || i > 0) settle();
            if (L::HOLDS && i == 0) release();
            low = lows.of[i], high = highs.of[i];
            multiply(product, first, tile, 0, false);
            if (!BOTH) decode(i, 1, second);
            multiply(product, second, tile, 1, true);
        }
    }
    __device__ __forceinline__ void scale_weights(const Scales &lows, const Scales &highs, uint32_t tile) {
#pragma unroll
        for (int i = 0; i < 2 * OWN; i++) {
            uint32_t(&piece)[8] = a[i % L::PIECES];
            decode(i / 2, i % 2, piece, Scale<T>(lows.of[i / 2]), Scale<T>(highs.of[i / 2]));
            multiply(sums, piece, tile + i / 2 * (L::X_TILE >> 4), i % 2, true);
            wgmma_wait<L::PIECES - 1>(); // what the next piece takes the place of has been multiplied
            if (i == L::PIECES - 2) release();
        }
    }
    // The sums of all stages from `k` on.
    __device__ __forceinline__ void add_up(unsigned k, unsigned end) {
        clear(sums);
        if constexpr (L::AFTER) clear(product);
#pragma unroll 1
        for (; k < end; k++) take();
        if (L::HOLDS) settle();
    }
    // Leaves the sums in the ring, which nobody reads or fills any more.
    __device__ __forceinline__ void leave() const {
        sync_consumers<L::CONSUMERS>();
        float *to = reinterpret_cast<float *>(shared + L::SUMS) + (part * L::TOKENS + lane % 4 * 2) * L::PITCH + row;
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
    const float *from = reinterpret_cast<const float *>(shared + L::SUMS) + token * L::PITCH + row;
    float4 sum = *reinterpret_cast<const float4 *>(from);
#pragma unroll
    for (int i = 1; i < L::PARTS; i++) sum = plus(sum, *reinterpret_cast<const float4 *>(from + i * L::TOKENS * L::PITCH));
    return sum;
}

// What SwiGLU makes of four, rounded before as the product's outputs are.
template <class T> __device__ __forceinline__ float4 few_gated(float4 gate, float4 up) {
    auto of = [](float gate, float up) { return swiglu<T>(to_f32(from_f32<T>(gate)), to_f32(from_f32<T>(up))); };
    return {of(gate.x, up.x), of(gate.y, up.y), of(gate.z, up.z), of(gate.w, up.w)};
}

// Adds up and stores: with two CTAs each its half of the tokens.
template <class T, class O, class L>
__device__ __forceinline__ void few_store(const Linear4WgmmaParams &p, const FewUnit &unit) {
    constexpr unsigned SHARE = L::SHARE, ROW_FOURS = L::ROWS / 4, OUT_FOURS = ROW_FOURS / L::HALVES; // of a token
    unsigned own = unit.rank * SHARE;
    float4 *received = reinterpret_cast<float4 *>(shared + L::RECEIVED);
    if constexpr (L::CTAS == 2) {
        if (L::OVER) cluster_sync(); // the other CTA's table is not read any more
        float4 *there = cluster_shared(received, unit.rank ^ 1);
        for (unsigned i = threadIdx.x; i < SHARE; i += L::CONSUMERS) there[i] = few_sum<L>((SHARE ^ own) + i);
        cluster_sync(); // of the threads that multiply: the others have ended
    }
    for (unsigned i = threadIdx.x; i < SHARE / L::HALVES; i += L::CONSUMERS) {
        unsigned token = own / ROW_FOURS + i / OUT_FOURS, row = i % OUT_FOURS * 4, four = token * ROW_FOURS + row / 4;
        if (token >= p.n) break;
        float4 sum = few_sum<L>(four);
        if constexpr (L::CTAS == 2) sum = plus(sum, received[i]);
        if constexpr (L::GATED) sum = few_gated<T>(sum, few_sum<L>(four + OUT_FOURS));
        store_rows<O>(p, token, unit.row + row, sum, p.weight.rows / L::HALVES);
    }
}

template <class T, class O, int ROWS, int TOKENS, int CTAS, bool GATED>
__device__ __forceinline__ void fused_few(const Linear4WgmmaParams &p) {
    using L = FewLayout<ROWS, TOKENS, CTAS, GATED>;
    using Producer = FewProducer<T, L>;
    if (threadIdx.x == 0) {
        for (int i = 0; i < L::STAGES; i++) barrier(L::FULL, i).init(Producer::ARRIVALS);
        for (int i = 0; i <= L::STAGES; i++) barrier(L::FREE, i).init(L::WARPS * Barrier::WARP_ARRIVALS);
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
        few_store<T, O, L>(p, unit);
    }
}
#endif
