// linear4_grad for up to 512 tokens on Hopper, by wgmma: d_x^T = W^T d_out^T. The contraction runs over the rows of the
// weight. Its columns are the rows of operand A, decoded in the registers of the warps that multiply; a tile of d_out is
// operand B, as the copy engine laid it down. src/cuda/launch/gemm/linear4_wgmma.rs cuts the work.
//
// A CTA, one on each multiprocessor, has 256 columns, two warpgroups that multiply, and a third that keeps a ring of
// stages full: 64 rows of the weight by 256 columns, and as many columns of d_out, which one thread has copied, and the
// scales, which three warps decode, each those of every third stage. A warp that multiplies has half of 64 columns that
// share a scale, of which lane (g, t) takes two bytes of each row: columns 4 g to 4 g + 3. Each byte is a product of
// its own, whose row g is the byte's first column and row g + 8 its second. So the pairs that one look-up each makes of
// rows n and n + 1 become operand A by exchanging halves, and what a lane has in the end are four neighbouring columns.
//
// The scales change along the contraction, so weights are scaled before they are multiplied, a pair of rows at a time.
// Rows below the weight, those of adapters, come as they are, from L2.
//
// Wants cols % 256 = 0, blocks of 64 and more; d_out, its rows and the codes aligned to 16 bytes, d_x, its rows and those
// below the weight to 8; with such rows, rows % 64 = 0.
#include "linear4_parts.cuh"
#include "linear4_pairs.cuh"
#include "gemm.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

#if WGMMA
constexpr int STAGE_ROWS = LINEAR4_GRAD_WGMMA_STAGE_ROWS, COLS = LINEAR4_GRAD_WGMMA_COLS;
constexpr int CONSUMERS = 256, BYTES = 2; // of each row, in a lane
constexpr int COLUMNS = COLS / 64, SCALES_BYTES = STAGE_ROWS / 2 * 8; // of 64; of each, in a stage
constexpr unsigned SCALE_WARPS = 3;

// Dynamic shared memory, by offset. A stage is a tile of d_out, one of codes, and scales.
template <int TOKENS> struct Layout {
    static constexpr int X_BYTES = TOKENS * STAGE_ROWS * 2, W_BYTES = STAGE_ROWS * COLS / 2;
    static constexpr int CODES = X_BYTES, SCALES = CODES + W_BYTES, STAGE_BYTES = SCALES + COLUMNS * SCALES_BYTES;
    static constexpr int OTHERS = 1024 + 256;
    static constexpr int FIT = (LINEAR4_WGMMA_SHARED_BYTES - 256 * PAIR_PITCH - OTHERS) / STAGE_BYTES;
    static constexpr int STAGES = FIT < 8 ? FIT : 8;
    static constexpr int TABLE = 0, RING = 256 * PAIR_PITCH, MAP = RING + STAGES * STAGE_BYTES, FULL = MAP + 1024;
    static constexpr int FREE = FULL + STAGES * 8, SHARES = FREE + STAGES * 8;
    static_assert(STAGES >= 3 && SHARES + 4 <= LINEAR4_WGMMA_SHARED_BYTES && STAGE_BYTES % 1024 == 0);
};

__device__ __forceinline__ Barrier &barrier(int ring, unsigned stage) {
    return reinterpret_cast<Barrier *>(shared + ring)[stage];
}

// The stages of the weight, and with what is below it.
__device__ __forceinline__ unsigned weight_stages(const Linear4WgmmaParams &p) {
    return (p.weight.rows + STAGE_ROWS - 1) / STAGE_ROWS;
}
__device__ __forceinline__ unsigned all_stages(const Linear4WgmmaParams &p) {
    return weight_stages(p) + p.dense_k / STAGE_ROWS;
}

// What a warp does that multiplies.
template <class T, int TOKENS> struct Consumer {
    using L = Layout<TOKENS>;
    using Sums = float[TOKENS / 8][4];
    using Pair = typename Two<T>::type;
    const Linear4WgmmaParams &p;
    const unsigned warp, lane;
    Turn<L::STAGES> ring;
    int held = -1; // the stage that the products under way read
    uint32_t a[2][2][BYTES][4]; // 32 rows of operand A, as mma_m16n8k16 has it: those being multiplied, those being decoded

    __device__ __forceinline__ explicit Consumer(const Linear4WgmmaParams &p)
        : p(p), warp(threadIdx.x / 32), lane(threadIdx.x % 32) {}

    __device__ __forceinline__ const char *of_stage(int what) const {
        return shared + L::RING + ring.stage * L::STAGE_BYTES + what;
    }

    // Byte `i` of `codes` as a pair.
    __device__ __forceinline__ uint32_t pair(uint32_t codes, int i) const {
        uint32_t offset = __byte_perm(codes, lane * 4, 0x7504 | i << 4);
        return *reinterpret_cast<const uint32_t *>(shared + L::TABLE + offset);
    }
    // The 32 rows from `row` of the stage on into `a`. The copy engine has exchanged pieces of 16 bytes within each row
    // (swizzle). Transposed, 8 rows of a piece give lane (g, t) bytes 2 g and 2 g + 1 of row 2 t, then of row 2 t + 1.
    __device__ __forceinline__ void decode(unsigned row, uint32_t (&a)[2][BYTES][4]) const {
        unsigned own = row + lane, piece = warp % COLUMNS * 2 + warp / COLUMNS;
        uint32_t codes[4];
        ldmatrix_x4_trans(codes, shared_address(of_stage(L::CODES)) + own * 128 + (piece ^ own % 8) * 16);
        const char *scales = of_stage(L::SCALES) + warp % COLUMNS * SCALES_BYTES + row * 4 + lane % 4 * 16;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint4 scale = *reinterpret_cast<const uint4 *>(scales + half * 64);
#pragma unroll
            for (int k = 0; k < 2; k++) {
                Pair high = reinterpret_cast<const Pair &>(k ? scale.z : scale.x);
                Pair low = reinterpret_cast<const Pair &>(k ? scale.w : scale.y);
#pragma unroll
                for (int byte = 0; byte < BYTES; byte++) {
                    uint32_t first = pair(codes[2 * half + k], byte), second = pair(codes[2 * half + k], BYTES + byte);
                    a[half][byte][2 * k] = times(__byte_perm(first, second, 0x5410), high, low);
                    a[half][byte][2 * k + 1] = times(__byte_perm(first, second, 0x7632), high, low);
                }
            }
        }
    }
    // The same of rows below the weight.
    __device__ __forceinline__ void load_below(unsigned column, unsigned row, uint32_t (&a)[2][BYTES][4]) const {
        const T *from = static_cast<const T *>(p.dense) + size_t(row + lane % 4 * 2) * p.weight.cols + column;
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const T *at = from + size_t(half * 16 + k * 8) * p.weight.cols;
                uint2 first = *reinterpret_cast<const uint2 *>(at);
                uint2 second = *reinterpret_cast<const uint2 *>(at + p.weight.cols);
#pragma unroll
                for (int byte = 0; byte < BYTES; byte++) {
                    uint32_t one = byte ? first.y : first.x, other = byte ? second.y : second.x;
                    a[half][byte][2 * k] = __byte_perm(one, other, 0x5410);
                    a[half][byte][2 * k + 1] = __byte_perm(one, other, 0x7632);
                }
            }
        }
    }
    // The first of a lane's columns of this unit.
    __device__ __forceinline__ unsigned column(const Unit &unit) const {
        return unit.row + (warp % COLUMNS * 2 + warp / COLUMNS) * 32 + lane / 4 * 4;
    }
    __device__ __forceinline__ static uint32_t times(uint32_t pair, Pair high, Pair low) {
        auto v = reinterpret_cast<const Pair &>(pair);
        auto product = __hfma2(v, high, __hmul2(v, low));
        return reinterpret_cast<const uint32_t &>(product);
    }

    // sums += a stage of the weight times one of d_out.
    template <bool BELOW> __device__ __forceinline__ void stage(const Unit &unit, unsigned k, Sums (&sums)[BYTES]) {
        barrier(L::FULL, ring.stage).wait(ring.parity);
        uint64_t tile = wgmma_tile<STAGE_ROWS>(shared_address(of_stage(0)), 16);
#pragma unroll
        for (int pass = 0; pass < 2; pass++) {
            if constexpr (BELOW)
                load_below(column(unit), (k - weight_stages(p)) * STAGE_ROWS + pass * 32, a[pass]);
            else
                decode(pass * 32, a[pass]);
            wgmma_fence();
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int byte = 0; byte < BYTES; byte++)
                    wgmma_rows_transposed<T, TOKENS>(sums[byte], a[pass][half][byte], tile + 4 * pass + 2 * half, true);
            wgmma_commit();
            wgmma_wait<1>();
            if (pass == 0) release();
        }
        held = ring.stage;
        ring.next();
    }
    // After the products before the last have ended.
    __device__ __forceinline__ void release() const {
        if (held >= 0) barrier(L::FREE, held).warp_arrives();
    }

    // Stores the sums of 8 tokens, from `token` on: each lane four columns of two of them.
    __device__ __forceinline__ void store(const Unit &unit, unsigned token, const float (&sums)[BYTES][4]) const {
        token += lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (token + i >= p.n) continue;
            struct alignas(8) Four {
                T v[4];
            } &to = *reinterpret_cast<Four *>(row_of<T>(p.out, token + i) + column(unit));
            float v[4] = {sums[0][i], sums[0][2 + i], sums[1][i], sums[1][2 + i]};
            Four out = p.accumulate ? to : Four();
#pragma unroll
            for (int j = 0; j < 4; j++) out.v[j] = from_f32<T>(p.accumulate ? to_f32(out.v[j]) + v[j] : v[j]);
            to = out;
        }
    }

    __device__ __forceinline__ void run() {
        fill_pairs<T, CONSUMERS>(p.weight.fp4);
        sync_consumers<CONSUMERS>();
        for (unsigned i = blockIdx.x; i < p.units; i += gridDim.x) {
            Unit unit = unit_of(p, i, all_stages(p), COLS, TOKENS);
            Sums sums[BYTES] = {};
            unsigned k = unit.stage;
            for (; k < min(unit.end, weight_stages(p)); k++) stage<false>(unit, k, sums);
            for (; k < unit.end; k++) stage<true>(unit, k, sums);
            wgmma_wait<0>(sums[0]), wgmma_wait<0>(sums[1]);
            release();
            held = -1;
            if (unit.whole) {
#pragma unroll
                for (int n = 0; n < TOKENS / 8; n++) {
                    float chunk[BYTES][4];
#pragma unroll
                    for (int j = 0; j < 4; j++) chunk[0][j] = sums[0][n][j], chunk[1][j] = sums[1][n][j];
                    store(unit, unit.token + n * 8, chunk);
                }
            } else {
                TileParts<CONSUMERS, TOKENS / 8, BYTES>(p, *reinterpret_cast<unsigned *>(shared + L::SHARES))
                    .finish(unit, {&sums[0], &sums[1]},
                            [&](unsigned token, const float (&sum)[BYTES][4]) { store(unit, token, sum); });
            }
        }
    }
};

// The warps that keep the ring full.
template <class T, int TOKENS> struct Producer {
    using L = Layout<TOKENS>;
    const Linear4WgmmaParams &p;
    const unsigned warp, lane;

    __device__ __forceinline__ explicit Producer(const Linear4WgmmaParams &p)
        : p(p), warp(threadIdx.x / 32 - CONSUMERS / 32), lane(threadIdx.x % 32) {}

    __device__ __forceinline__ void copy(const Unit &unit, unsigned k, char *to, Barrier &full) const {
        bool coded = k < weight_stages(p);
        full.expect(coded ? L::CODES + L::W_BYTES : L::CODES);
        copy_tile(to, p.x, k * STAGE_ROWS, unit.token, full);
        if (coded) copy_tile(to + L::CODES, p.codes, unit.row / 2, k * STAGE_ROWS, full, p.token_tiles == 1);
    }

    // The scales of rows 2 lane and 2 lane + 1, each as the sum of two T (Scale): the pair of the first, then of the
    // second. Rows past the end have the last one's.
    __device__ __forceinline__ void decode_scales(const Unit &unit, unsigned k, char *to) const {
        float scales[2][COLUMNS];
#pragma unroll
        for (int i = 0; i < 2; i++) row_scales(min(k * STAGE_ROWS + 2 * lane + i, p.weight.rows - 1), unit.row / 64, scales[i]);
        using Pair = typename Two<T>::type;
        unsigned place = (lane / 8 * 8 + lane % 4 * 2 + lane / 4 % 2) * 8; // what a lane wants of 16 rows is 16 bytes
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
            Scale<T> first(scales[0][column]), second(scales[1][column]);
            Pair high = {first.high.x, second.high.x}, low = {first.low.x, second.low.x};
            *reinterpret_cast<uint2 *>(to + column * SCALES_BYTES + place) = {
                reinterpret_cast<const uint32_t &>(high), reinterpret_cast<const uint32_t &>(low)};
        }
    }
    // Those of four neighbouring blocks of 64, which lie in one group; for the table's codes.
    __device__ __forceinline__ void row_scales(unsigned row, unsigned column, float (&scales)[COLUMNS]) const {
        const Weight4Params &w = p.weight;
        unsigned first = row * (w.cols / 64) + column, shift = w.block_shift - 6;
        float ungain = 1.f / pair_gain<T>(w.fp4);
        if (w.absmax) {
#pragma unroll
            for (int i = 0; i < COLUMNS; i++) scales[i] = w.absmax[first + i >> shift] * ungain;
            return;
        }
        uint32_t codes = 0;
        if (shift == 0) {
            codes = *reinterpret_cast<const uint32_t *>(w.absmax_codes + first);
        } else {
#pragma unroll
            for (int i = 0; i < COLUMNS; i++) codes |= w.absmax_codes[first + i >> shift] << 8 * i;
        }
        float2 group = reinterpret_cast<const float2 *>(w.groups)[(first >> shift) / QUANT_GROUP];
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            float value = reinterpret_cast<const float *>(shared + L::MAP)[codes >> 8 * i & 255];
            scales[i] = nested_absmax(value, group) * ungain;
        }
    }

    __device__ __forceinline__ void run() const {
        float *map = reinterpret_cast<float *>(shared + L::MAP);
        for (unsigned i = threadIdx.x - CONSUMERS; i < 256; i += 128) map[i] = dynamic_map(i);
        asm volatile("bar.sync 2, 128;" ::: "memory");
        Turn<L::STAGES> ring;
        unsigned turn = 1; // of the warp whose stage it is
        for (unsigned i = blockIdx.x; i < p.units; i += gridDim.x) {
            Unit unit = unit_of(p, i, all_stages(p), COLS, TOKENS);
            for (unsigned k = unit.stage; k < unit.end; k++, ring.next(), turn = turn % SCALE_WARPS + 1) {
                if (warp != 0 && warp != turn) continue;
                Barrier &full = barrier(L::FULL, ring.stage);
                char *to = shared + L::RING + ring.stage * L::STAGE_BYTES;
                barrier(L::FREE, ring.stage).wait(ring.parity ^ 1);
                if (warp == turn) {
                    if (k < weight_stages(p)) decode_scales(unit, k, to + L::SCALES);
                    full.warp_arrives();
                } else if (lane == 0) {
                    copy(unit, k, to, full);
                }
            }
        }
    }
};

template <class T, class O, int TOKENS> __device__ __forceinline__ void fused(const Linear4WgmmaParams &p) {
    using L = Layout<TOKENS>;
    if (threadIdx.x == 0) {
        for (int i = 0; i < L::STAGES; i++) {
            barrier(L::FULL, i).init(1 + Barrier::WARP_ARRIVALS); // the copies, and the scales
            barrier(L::FREE, i).init(CONSUMERS / 32 * Barrier::WARP_ARRIVALS);
        }
        barriers_are_made();
    }
    __syncthreads();
    // 64 Ki registers: what the kernel starts with, dealt out anew.
    if (threadIdx.x >= CONSUMERS) {
        set_registers<40, false>();
        Producer<T, TOKENS>(p).run();
    } else {
        set_registers<232, true>();
        Consumer<T, TOKENS>(p).run();
    }
}

// By columns and tokens.
ENTRIES(linear4_grad_wgmma_256x64, Linear4WgmmaParams, LINEAR4_GRAD_WGMMA_THREADS, 1, fused, 64)
ENTRIES(linear4_grad_wgmma_256x128, Linear4WgmmaParams, LINEAR4_GRAD_WGMMA_THREADS, 1, fused, 128)
#endif
