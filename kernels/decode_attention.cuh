#pragma once
// What the kernels of decode_attention share: how the work is dealt, the new token's heads, and merging.
#include "attention_ptx.cuh"
#include "params.h"
#include "qk_norm_rope.cuh"
#include "reduce.cuh"

constexpr unsigned THREADS = DECODE_ATTENTION_THREADS, WARPS = THREADS / 32;
constexpr unsigned HEADS = DECODE_ATTENTION_HEADS;
constexpr unsigned STATS = DECODE_ATTENTION_STATS, MAX_SPLITS = DECODE_ATTENTION_MAX_SPLITS;
constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float2 &pair_at(float *p) { return *reinterpret_cast<float2 *>(p); }

// 2^((a - top) scale); 0 when nothing was seen.
__device__ __forceinline__ float weight(float a, float top, float scale) {
    return exp2_fast((a - (top == -INFINITY ? 0.f : top)) * scale);
}

// 16 bytes of what is read once.
__device__ __forceinline__ uint4 load_once(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(p)));
    return v;
}
__device__ __forceinline__ unsigned word(const uint4 &v, int i) { return reinterpret_cast<const unsigned *>(&v)[i]; }

// What a CTA has of the queries, of type Q in rows of PITCH, and of what its warps find.
template <class Q, int D, unsigned PITCH> struct Findings {
    alignas(16) Q q[HEADS][PITCH];
    alignas(16) float found[WARPS][HEADS][D + STATS]; // by each warp, as in `partial`
    bool last;
};

// What a CTA works on: heads head0 .. head0 + heads of a sequence, and every `active`-th batch of tiles.
struct Job {
    unsigned b, split, kv_head, head0, heads;
    unsigned cached, len, tiles, active; // keys in the cache, and with the new one; splits that have tiles
    bool stores;                         // has the new key, and puts it in the cache

    __device__ __forceinline__ explicit Job(const DecodeAttentionParams &p) {
        unsigned group = p.q_heads / p.kv_heads, chunk = blockIdx.y / p.kv_heads * HEADS;
        b = blockIdx.x, split = blockIdx.z, kv_head = blockIdx.y % p.kv_heads;
        head0 = kv_head * group + chunk, heads = min(group - chunk, HEADS), stores = chunk == 0;
    }
    // In tiles of `tile` keys. A position from `capacity` on has no place in the cache: that token sees only what is there.
    __device__ __forceinline__ void place(const DecodeAttentionParams &p, unsigned position, unsigned tile) {
        bool fits = position < p.capacity;
        cached = fits ? position : p.capacity, len = cached + fits;
        tiles = (len + tile - 1) / tile, active = min(p.splits, (tiles + WARPS - 1) / WARPS);
        stores = stores && fits && (tiles - 1) / WARPS % active == split;
    }
    // Among the jobs of all sequences.
    __device__ __forceinline__ unsigned index() const { return blockIdx.x * gridDim.y + blockIdx.y; }
};

// ------------------------------------------------------------------------------------- the new token

// A group of lanes has one head: the queries of the job, then the key, then the value.
template <class T, int D> struct NewToken {
    static constexpr unsigned LANES = Half<T, D>::LANES, ALL = HEADS + 2;
    static_assert(ALL * LANES <= THREADS);
    unsigned head, at;
    bool packed;
    Half<T, D> h;
    Factors<T, D> f;

    // Reads what is frozen only.
    __device__ __forceinline__ NewToken(const DecodeAttentionParams &p, bool all_packed) {
        head = min(threadIdx.x / LANES, ALL - 1), at = threadIdx.x % LANES * VEC<T>, packed = all_packed;
        f.load_weight(is_key() ? p.k_weight : p.q_weight, at, packed);
    }
    __device__ __forceinline__ bool is_key() const { return head == HEADS; }
    __device__ __forceinline__ bool is_value() const { return head > HEADS; }
    // Whole warps without a head have nothing to do. Groups of lanes without one have the last again.
    __device__ __forceinline__ bool is_idle() const { return threadIdx.x / 32 * 32 / LANES >= ALL; }
    // Queries that the job has not are the last one again.
    __device__ __forceinline__ void load(const DecodeAttentionParams &p, const Job &job) {
        unsigned of_kind = is_value() ? p.q_heads + p.kv_heads : p.q_heads;
        unsigned column = (head < HEADS ? job.head0 + min(head, job.heads - 1) : of_kind + job.kv_head) * D;
        h.load_row(row_of<T>(p.qkv, job.b) + column, at, packed);
    }
    __device__ __forceinline__ void ask_for_angles(const DecodeAttentionParams &p, unsigned position) const {
        size_t first = size_t(min(position, p.max_positions - 1)) * (D / 2) + at;
        prefetch_l2(p.cos + first), prefetch_l2(p.sin + first);
    }
    // The norm of queries and key, and their rotation.
    __device__ __forceinline__ void rotate(const DecodeAttentionParams &p, unsigned position) {
        f.load_angles(p, position, at, packed);
        float scale = h.inverse_rms(p.eps); // by all lanes of a warp
        if (!is_value()) f.rotate(h, scale);
    }
};

// ------------------------------------------------------------------------------------- merging

// What some of the keys give: maximum of the scores, sum of exponentials, two columns of the sum of values.
struct Part {
    float top = -INFINITY, sum = 0;
    float2 o = {0, 0};

    __device__ __forceinline__ void add(float w, const float2 &v) { o.x += w * v.x, o.y += w * v.y; }
};

// Columns d and d + 1 of head g of all warps.
template <int D, class Shared>
__device__ __forceinline__ Part of_warps(Shared &shared, unsigned g, unsigned d, float scale) {
    Part all;
    float2 stats[WARPS];
#pragma unroll
    for (unsigned w = 0; w < WARPS; w++) {
        stats[w] = pair_at(&shared.found[w][g][D]);
        all.top = fmaxf(all.top, stats[w].x);
    }
#pragma unroll
    for (unsigned w = 0; w < WARPS; w++) {
        float by = weight(stats[w].x, all.top, scale);
        all.sum += by * stats[w].y;
        all.add(by, pair_at(&shared.found[w][g][d]));
    }
    return all;
}

// Columns d and d + 1 of a head of all splits, in their order: lane l of the warp has the weights of splits l and
// l + 32. From L2, since other multiprocessors wrote them; what can be is asked for before anything is used.
template <int D> __device__ __forceinline__ Part of_splits(float *head, unsigned count, unsigned d, float scale) {
    constexpr unsigned STRIDE = HEADS * (D + STATS), U = DECODE_ATTENTION_MERGED;
    static_assert(MAX_SPLITS <= 2 * U);
    unsigned lane = threadIdx.x % 32;
    float2 stats[2], o[U];
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        stats[i] = {-INFINITY, 0};
        if (lane + i * U < count) stats[i] = __ldcg(&pair_at(head + (lane + i * U) * STRIDE + D));
    }
    Part all;
    float weights[2];
#pragma unroll 1
    for (unsigned first = 0; first < count; first += U, head += U * STRIDE) {
#pragma unroll
        for (unsigned u = 0; u < U; u++) {
            if (u % 8 == 0 && first + u >= count) break;
            o[u] = {0, 0};
            if (first + u < count) o[u] = __ldcg(&pair_at(head + u * STRIDE + d));
        }
        if (first == 0) {
            all.top = warp_max(fmaxf(stats[0].x, stats[1].x));
#pragma unroll
            for (unsigned i = 0; i < 2; i++) weights[i] = weight(stats[i].x, all.top, scale);
            all.sum = warp_sum(weights[0] * stats[0].y + weights[1] * stats[1].y);
        }
#pragma unroll
        for (unsigned u = 0; u < U; u++) {
            if (u % 8 == 0 && first + u >= count) break;
            all.add(__shfl_sync(~0u, weights[0], u), o[u]);
        }
        weights[0] = weights[1];
    }
    return all;
}

// Is this the last split to have come here? Then the others' parts can be seen. All threads get the answer.
__device__ __forceinline__ bool is_last(unsigned *ticket, unsigned active, bool &last) {
    __syncthreads(); // all have written their parts
    if (threadIdx.x == 0) {
        // Who sees the ticket taken, sees what was written before the barrier; and reads nothing before.
        unsigned taken;
        asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], 1;" : "=r"(taken) : "l"(ticket) : "memory");
        last = taken == active - 1;
        if (last) *ticket = 0; // for the next launch
    }
    __syncthreads();
    return last;
}

template <class T> __device__ __forceinline__ void store_result(T *out, const Part &part) {
    out[0] = from_f32<T>(__fdividef(part.o.x, part.sum));
    out[1] = from_f32<T>(__fdividef(part.o.y, part.sum));
}

// Merges what the warps have found: to the output, or where there are several splits, to `partial`, which has for each
// split and head D sums, the maximum and the sum of exponentials; the last split merges these.
template <class T, int D, class Shared>
__device__ __forceinline__ void finish(const DecodeAttentionParams &p, const Job &job, Shared &shared, float scale) {
    constexpr unsigned PART = D + STATS;
    float *partial = p.partial + size_t(job.index()) * p.splits * HEADS * PART;
    T *out = row_of<T>(p.out, job.b) + job.head0 * D;
#pragma unroll 1
    for (unsigned i = 2 * threadIdx.x; i < job.heads * D; i += 2 * THREADS) {
        unsigned g = i / D, d = i % D;
        Part part = of_warps<D>(shared, g, d, scale);
        float *to = partial + (job.split * HEADS + g) * PART;
        if (job.active == 1) {
            store_result(out + i, part);
        } else {
            pair_at(to + d) = part.o;
            if (d == 0) pair_at(to + D) = make_float2(part.top, part.sum);
        }
    }
    if (job.active == 1 || !is_last(p.tickets + job.index(), job.active, shared.last)) return;
    constexpr unsigned SLICE = D < 64 ? D : 64; // columns of a warp
#pragma unroll 1
    for (unsigned slice = threadIdx.x / 32; slice < job.heads * (D / SLICE); slice += WARPS) {
        unsigned i = slice * SLICE + 2 * threadIdx.x % SLICE;
        store_result(out + i, of_splits<D>(partial + i / D * PART, job.active, i % D, scale));
    }
}
