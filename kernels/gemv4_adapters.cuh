#pragma once
// Adapters of gemv4.cuh: xa = x A^T is made by all CTAs, a column each, before their first tile; each then waits for all of
// it while it works on the tiles, and adds xa B^T to its sums.
//
// A CTA writes its columns, then counts them. The copying warp, once it has filled the ring, waits for the count, and puts
// what has come into shared memory. All CTAs run at once, or in place of those of the kernel before: none waits for one that
// cannot start. The last that has waited makes both counts 0 again.
#include "gemv4_cta.cuh"

#if GEMV4
template <class T, unsigned TOKENS, bool GAPS> struct GemvAdapters {
    const NormLinear4Params &p;
    char *table;

    // Element i of what all have made, [TOKENS, p.columns], in shared memory. Scales in f32 leave no room but the halves of
    // the table's entries that have no scale in them (GAPS). Four from a multiple of four on lie together.
    __device__ __forceinline__ T *made(unsigned i) const {
        if constexpr (GAPS) {
            return reinterpret_cast<T *>(table + i / 64 * TABLE_PITCH + TABLE_PITCH / 2) + i % 64;
        } else {
            __shared__ alignas(8) T all[NORM_LINEAR4_GEMV_MAX_XA];
            return all + i;
        }
    }

    // The row of A of a column of xa, and where in a row of xa that is.
    struct Column {
        const T *a;
        unsigned at;
    };
    __device__ __forceinline__ Column column(unsigned i) const {
        unsigned f = 0;
        while (i >= p.b[f].r) i -= p.b[f++].r;
        return {static_cast<const T *>(p.a[f]) + size_t(i) * p.linear.weight.cols, p.b[f].col + i};
    }
    // What this CTA makes, into L2; then, once it may be read, into L1.
    __device__ __forceinline__ void ask(bool early) const {
        if (blockIdx.x >= p.columns) return;
        const T *a = column(blockIdx.x).a;
        for (unsigned k = threadIdx.x * 8; k < p.linear.weight.cols; k += GEMV4_WARPS * 256) early ? prefetch_l2(a + k) : touch(a + k);
    }
    // Of a token, of which x(k) gives 8 columns from k on.
    template <class X> __device__ __forceinline__ void make(unsigned token, X x) const {
        __shared__ alignas(16) float dots[GEMV4_WARPS];
#pragma unroll 1
        for (unsigned i = blockIdx.x; i < p.columns; i += gridDim.x) {
            Column own = column(i);
            float dot = 0.f;
            for (unsigned k = threadIdx.x * 8; k < p.linear.weight.cols; k += GEMV4_WARPS * 256) {
                Pack<T> xs = x(k), as = load_pack(own.a + k);
#pragma unroll
                for (int j = 0; j < 8; j++) dot += to_f32(xs.v[j]) * to_f32(as.v[j]);
            }
#pragma unroll
            for (int o = 16; o > 0; o >>= 1) dot += __shfl_xor_sync(~0u, dot, o);
            if (i != blockIdx.x || token > 0) sync_multipliers(); // the last sum was read
            if (threadIdx.x % 32 == 0) dots[threadIdx.x / 32] = dot;
            sync_multipliers();
            if (threadIdx.x > 0) continue;
            dot = 0.f;
#pragma unroll
            for (unsigned w = 0; w < GEMV4_WARPS; w++) dot += dots[w];
            row_of<T>(p.xa, token)[own.at] = from_f32<T>(dot);
            asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(__cvta_generic_to_global(p.tickets)) : "memory");
        }
    }
    // The copying warp: what all CTAs have made.
    __device__ __forceinline__ void collect() const {
        wait_for_last(); // the counts are those of the kernel before until then
        unsigned lane = threadIdx.x % 32, all = p.columns * TOKENS;
        if (lane == 0)
            while (load_acquire(p.tickets) < all) {}
        __syncwarp();
        for (unsigned i = lane; i < all; i += 32) {
            unsigned token = i / p.columns;
            const T *from = row_of<T>(p.xa, token) + column(i - token * p.columns).at;
            uint16_t bits = __ldcg(reinterpret_cast<const unsigned short *>(from));
            *made(i) = reinterpret_cast<const T &>(bits);
        }
        adapters_are_there(true);
        if (lane == 0 && atomicAdd(p.tickets + 1, 1) == gridDim.x - 1) p.tickets[0] = p.tickets[1] = 0;
    }

    // The rows of B for an output row: `each(factor, b, first)` with the first of its columns among all.
    template <class Each> __device__ __forceinline__ void each_b(unsigned row, Each each) const {
        unsigned first = 0;
        for (unsigned f = 0; f < p.adapters; first += p.b[f++].r) {
            const LoraLinearFactor &factor = p.b[f];
            unsigned own = row - factor.row;
            if (own < factor.rows) each(factor, static_cast<const T *>(factor.ptr) + size_t(own) * factor.r, first);
        }
    }
    // Four lanes: into L1.
    __device__ __forceinline__ void touch_b(unsigned row) const {
        each_b(row, [](const LoraLinearFactor &factor, const T *b, unsigned) {
            for (unsigned k = threadIdx.x % 4 * 16; k < factor.r; k += 64) touch(b + k);
        });
    }
    __device__ __forceinline__ void prefetch_b(unsigned row) const {
        each_b(row, [](const LoraLinearFactor &factor, const T *b, unsigned) {
            for (unsigned k = 0; k < factor.r; k += 64) prefetch_l2(b + k);
        });
    }
    // This lane's quarter of what adapters add to an output.
    __device__ __forceinline__ float quarter(unsigned row, unsigned token) const {
        struct alignas(8) Four {
            T v[4];
        };
        float sum = 0.f;
        each_b(row, [&](const LoraLinearFactor &factor, const T *b, unsigned first) {
            unsigned xa = token * p.columns + first;
            float dot = 0.f;
            for (unsigned k = threadIdx.x % 4 * 4; k < factor.r; k += 16) {
                Four x = *reinterpret_cast<const Four *>(made(xa + k)), y = *reinterpret_cast<const Four *>(b + k);
#pragma unroll
                for (int j = 0; j < 4; j++) dot += to_f32(x.v[j]) * to_f32(y.v[j]);
            }
            sum += factor.scale * dot;
        });
        return sum;
    }
};
#endif
