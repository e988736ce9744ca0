#pragma once
// A choice among few candidates by one warp, which waits for no other: what a top_k leaves, mostly. Each lane compares
// its candidates with all, so that neither thresholds are searched nor values sorted, and adds up in order of id.
#include "cluster.cuh"
#include "sample.cuh"

// In order of id, in shared memory.
constexpr unsigned FEW = 256;
struct Few {
    float value[FEW]; // divided by the temperature
    float mass[FEW];
    unsigned id[FEW], count;

    // Of those whose value has this key, or a larger one: how many they are, and their mass.
    __device__ __forceinline__ void above(unsigned key, unsigned &n, float &sum) const {
        n = 0, sum = 0;
        for (unsigned i = 0; i < count; i++)
            if (key_of(value[i]) >= key) n++, sum += mass[i];
    }
    // The largest key of a candidate that is more than `least` and for which `enough` holds, or else `least`.
    template <class Enough> __device__ __forceinline__ unsigned threshold(unsigned least, Enough enough) const {
        unsigned best = least;
        for (unsigned i = threadIdx.x % 32; i < count; i += 32) {
            unsigned key = key_of(value[i]), n;
            float sum;
            above(key, n, sum);
            if (key > best && enough(n, sum)) best = key;
        }
        return __reduce_max_sync(~0u, best);
    }
    // The first of the kept, in order of id, whose cumulative mass exceeds u times the whole; the last, where rounding
    // has left none.
    __device__ __forceinline__ unsigned draw(unsigned least, float min_p, float u) const {
        auto kept = [&](unsigned i) { return key_of(value[i]) >= least && mass[i] >= min_p ? mass[i] : 0.f; };
        double whole = 0, sum = 0;
        for (unsigned i = 0; i < count; i++) whole += kept(i);
        unsigned last = 0;
        for (unsigned i = 0; i < count; i++) {
            if (!(kept(i) > 0)) continue;
            last = id[i], sum += kept(i);
            if (sum > u * whole) break;
        }
        return last;
    }
    // By a whole warp. `max` is the largest value; `total` the mass that top_p is a share of, or 0 for that of top_k.
    __device__ __forceinline__ unsigned choose(const SampleParams &p, float max, double total, float u) {
        for (unsigned i = threadIdx.x % 32; i < count; i += 32) mass[i] = expf(value[i] - max);
        __syncwarp();
        unsigned least = p.top_k ? threshold(0, [&](unsigned n, float) { return n >= p.top_k; }) : 0;
        if (p.top_p < 1) {
            unsigned n;
            float of_top_k;
            above(least, n, of_top_k);
            double need = p.top_p * (total > 0 ? total : of_top_k);
            least = threshold(least, [&](unsigned, float sum) { return sum >= need; });
        }
        return draw(least, p.min_p, u);
    }
};

// All threads of the CTAs that share a sequence; each sees what the others wrote to shared memory.
template <unsigned CTAS> __device__ __forceinline__ void sync_all() {
#if CLUSTERS
    if constexpr (CTAS > 1) return cluster_sync();
#endif
    __syncthreads();
}
// `p` in shared memory, but in that of CTA `rank` of these.
template <unsigned CTAS, class T> __device__ __forceinline__ T *shared_of(T *p, unsigned rank) {
#if CLUSTERS
    if constexpr (CTAS > 1) return cluster_shared(p, rank);
#endif
    return p;
}

// Makes one list of those of all warps, in the first CTA's `few`, where that is short; a count above CAPACITY is of a list
// that is not complete. False: it is not short.
template <unsigned CTAS> __device__ bool gather(const Set &set, unsigned rank, Shared &s, Few &few) {
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) s.counts[warp] = set.count;
    sync_all<CTAS>();
    unsigned all = 0, before = 0;
#pragma unroll
    for (unsigned i = 0; i < CTAS; i++) {
        unsigned count = *shared_of<CTAS>(&s.counts[lane], i);
        if (__any_sync(~0u, count > CAPACITY)) return false;
        if (i == rank) before = all + __reduce_add_sync(~0u, lane < warp ? count : 0);
        all += __reduce_add_sync(~0u, count);
    }
    if (all > FEW) return false;
    Few &first = *shared_of<CTAS>(&few, 0);
    for (unsigned i = lane; i < set.count; i += 32)
        first.value[before + i] = set.value[i], first.id[before + i] = set.id[i];
    if (threadIdx.x == 0) few.count = all;
    sync_all<CTAS>();
    return true;
}
