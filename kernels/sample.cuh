#pragma once
// What is common to all ways to choose a token: sums over a CTA, the logits of a sequence, its largest, and lists of candidates.
//
// A warp looks at a range of ids of its own, so that lists, masses and the cumulative sum are in order of id without a
// sort, and the draw is the same whatever path led to it. Sums of masses are f64 across warps, in a fixed order. A
// helper that writes to a field of `Shared` again has a barrier before it, so that what stood there has been read.
#include "keys.cuh"
#include "params.h"
#include "reduce.cuh"
#include "types.cuh"
#include <cfloat>
#include <cstdint>

constexpr unsigned THREADS = SAMPLE_THREADS;
constexpr unsigned WARPS = THREADS / 32;
// Candidates of one warp, which looks at a range of ids of its own.
constexpr unsigned CAPACITY = 128;
// Candidates to look for when top_p alone decides how many are needed.
constexpr unsigned TOP_P_CANDIDATES = 256;

struct Shared {
    float value[WARPS * CAPACITY];
    unsigned id[WARPS * CAPACITY];
    double totals[WARPS];
    unsigned long long best[WARPS];
    unsigned counts[WARPS];
    unsigned chosen;
};

__device__ unsigned block_count(unsigned n, Shared &s) {
    n = __reduce_add_sync(~0u, n);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.counts[threadIdx.x / 32] = n;
    __syncthreads();
    return __reduce_add_sync(~0u, s.counts[threadIdx.x % 32]);
}

__device__ double block_total(float v, Shared &s) {
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.totals[threadIdx.x / 32] = v;
    __syncthreads();
    double total = s.totals[threadIdx.x % 32];
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) total += __shfl_xor_sync(~0u, total, o);
    return total;
}

// The logits of one sequence; each warp of `warps`, of which this is one, looks at ids start .. end, four at a time.
struct Row {
    float *logits;
    unsigned vocab, start, end;
    bool packed;

    __device__ Row(float *logits, unsigned vocab, unsigned warp = threadIdx.x / 32, unsigned warps = WARPS)
        : logits(logits), vocab(vocab) {
        unsigned range = (vocab + warps * 128 - 1) / (warps * 128) * 128;
        start = min(warp * range, vocab);
        end = min(start + range, vocab);
        packed = reinterpret_cast<uintptr_t>(logits) % 16 == 0;
    }
    // Ids i .. i + 3; -inf for those that do not exist.
    __device__ __forceinline__ float4 load(unsigned i) const {
        if (packed && i + 4 <= end) return *reinterpret_cast<const float4 *>(logits + i);
        auto one = [&](unsigned j) { return j < end ? logits[j] : -INFINITY; };
        return make_float4(one(i), one(i + 1), one(i + 2), one(i + 3));
    }
    // Calls `visit(first id, four logits)` for every id of this warp's range; all lanes take part in every call.
    template <class Visit> __device__ __forceinline__ void each(Visit visit) const {
        constexpr int AHEAD = 4;
        for (unsigned i = start; i < end; i += AHEAD * 128) {
            float4 x[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) x[a] = load(i + a * 128 + threadIdx.x % 32 * 4);
#pragma unroll
            for (int a = 0; a < AHEAD; a++) visit(i + a * 128 + threadIdx.x % 32 * 4, x[a]);
        }
    }
};

struct Best {
    float value = -INFINITY; // this thread's largest
    unsigned id = 0;

    __device__ __forceinline__ void add(unsigned i, float v) {
        if (v > value) {
            value = v;
            id = i;
        }
    }
    __device__ __forceinline__ void add(const Row &row) {
        row.each([&](unsigned i, float4 x) { add(i, x.x), add(i + 1, x.y), add(i + 2, x.z), add(i + 3, x.w); });
    }
};

// A logit and its id as a number that is larger where the logit is, or the id is less among equals.
__device__ __forceinline__ unsigned long long rank_of(const Best &best) {
    return (uint64_t(key_of(best.value)) << 32) | ~best.id;
}
__device__ __forceinline__ unsigned long long warp_best(unsigned long long best) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        unsigned long long other = __shfl_xor_sync(~0u, best, o);
        best = other > best ? other : best;
    }
    return best;
}
__device__ __forceinline__ unsigned long long block_best(unsigned long long best, unsigned long long (&of_warps)[WARPS]) {
    best = warp_best(best);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
    __syncthreads();
    return warp_best(of_warps[threadIdx.x % 32]);
}

// The largest logit of all; the lowest id among equals.
__device__ Best block_best(const Best &mine, Shared &s) {
    unsigned long long best = block_best(rank_of(mine), s.best);
    Best all;
    all.value = from_key(unsigned(best >> 32));
    all.id = ~unsigned(best);
    return all;
}

// The largest key in lo ..= hi for which `holds`, which holds for lo, and for whatever is below where it holds.
template <class Holds> __device__ unsigned bisect(unsigned lo, unsigned hi, Holds holds) {
    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2 + 1;
        if (holds(mid)) lo = mid;
        else hi = mid - 1;
    }
    return lo;
}

// What is chosen from: this warp's part, in order of id. Values are divided by the temperature.
struct Set {
    const float *value;
    const unsigned *id; // null: first + index
    unsigned first, count;
    float max; // of the whole set

    __device__ __forceinline__ float mass(unsigned i) const { return expf(value[i] - max); }
    __device__ __forceinline__ unsigned id_of(unsigned i) const { return id ? id[i] : first + i; }

    __device__ unsigned count_from(unsigned key, Shared &s) const {
        unsigned n = 0;
        for (unsigned i = threadIdx.x % 32; i < count; i += 32) n += key_of(value[i]) >= key;
        return block_count(n, s);
    }
    __device__ double mass_from(unsigned key, Shared &s) const {
        float sum = 0;
        for (unsigned i = threadIdx.x % 32; i < count; i += 32) sum += key_of(value[i]) >= key ? mass(i) : 0.f;
        return block_total(sum, s);
    }
};

// Where lists of logits begin, so that all from `least` on are in them.
__device__ __forceinline__ float listed_from(float least, float max) {
    // A little less: logits that differ may be equal after the division.
    least -= fabsf(least) * 1e-6f + FLT_MIN;
    // Where others are possible, what is minus infinity is not listed: it may be nearly all.
    return max > -INFINITY ? fmaxf(least, -FLT_MAX) : least;
}

// Collects the logits from `least` on. False when they do not fit; then the list is not to be used.
__device__ bool collect(const Row &row, float least, float temperature, Shared &s, Set &set) {
    unsigned warp = threadIdx.x / 32, n = 0;
    row.each([&](unsigned i, float4 x) {
        float v[4] = {x.x, x.y, x.z, x.w};
        unsigned hits = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) hits |= unsigned(i + j < row.end && v[j] >= least) << j;
        if (!__any_sync(~0u, hits)) return;
        unsigned mine = __popc(hits), before = mine;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            unsigned other = __shfl_up_sync(~0u, before, o);
            if (threadIdx.x % 32 >= o) before += other;
        }
        unsigned at = n + before - mine;
        n += __shfl_sync(~0u, before, 31);
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (hits >> j & 1) {
                if (at < CAPACITY) {
                    s.value[warp * CAPACITY + at] = v[j] / temperature;
                    s.id[warp * CAPACITY + at] = i + j;
                }
                at++;
            }
    });
    set.value = s.value + warp * CAPACITY;
    set.id = s.id + warp * CAPACITY;
    set.first = 0;
    set.count = n;
    // A barrier, too: the list is complete after it.
    return !__syncthreads_or(n > CAPACITY);
}
