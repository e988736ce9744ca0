#pragma once
// How the output of a product by wgmma is cut into units of work, and how CTAs that share a tile add their parts up.
#include "params.h"
#include "ptx.cuh"
#include <cstdint>

constexpr int MAX_SPLITS = LINEAR4_WGMMA_MAX_SPLITS;

// A tile of the output, or a part of its contraction.
struct Unit {
    unsigned row, token;  // the first
    unsigned stage, end;  // of the contraction, in stages
    unsigned split, rank; // which of the split tiles, and which part of it
    bool whole;
};

__device__ __forceinline__ Unit unit_of(const Linear4WgmmaParams &p, unsigned i, unsigned stages, unsigned rows,
                                        unsigned tokens) {
    Unit unit{0, 0, 0, stages, 0, 0, i < p.whole};
    unsigned tile = i;
    if (!unit.whole) {
        unit.split = (i - p.whole) / p.splits, unit.rank = (i - p.whole) % p.splits;
        tile = p.whole + unit.split;
        unit.stage = stages * unit.rank / p.splits, unit.end = stages * (unit.rank + 1) / p.splits;
    }
    unit.row = tile / p.token_tiles * rows, unit.token = tile % p.token_tiles * tokens;
    return unit;
}

// The warps that multiply wait for each other.
template <int CONSUMERS> __device__ __forceinline__ void sync_consumers() {
    asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory");
}

// A thread has FOURS times four sums of each of CHUNKS chunks of 8 tokens.
template <int CONSUMERS, int CHUNKS, int FOURS> struct TileParts {
    using Sums = float[CHUNKS][4];
    const Linear4WgmmaParams &p;
    unsigned &told; // in shared memory

    __device__ __forceinline__ TileParts(const Linear4WgmmaParams &p, unsigned &told) : p(p), told(told) {}

    // Which shares of a split tile this CTA adds up, as bits; all parts are then in memory. Called by one thread.
    // A CTA adds up its own share if the others come while it waits: it does not wait for long, since they may not be
    // running. Whoever comes last takes the shares of those who left. The bits of a sum do not depend on who adds.
    __device__ __forceinline__ unsigned shares(const Unit &unit) const {
        unsigned *ticket = p.tickets + unit.split * 2;
        constexpr unsigned COME = 0xFFFF; // how many have come; in the upper half, who left
        __threadfence();
        unsigned seen = atomicAdd(ticket, 1) + 1, mine = 1u << unit.rank;
        if ((seen & COME) == p.splits) mine |= seen >> 16;
        for (unsigned i = 0; (seen & COME) < p.splits && i < p.patience; i++)
            seen = load_acquire(ticket);
        if ((seen & COME) < p.splits && (atomicOr(ticket, mine << 16) & COME) < p.splits) mine = 0;
        __threadfence();
        return mine;
    }
    // Leaves this CTA's part of a tile in memory, and adds up parts, in order; `store` takes the sums of 8 tokens, from
    // the one that it is given on. A share is every `splits`th 8 tokens.
    template <class Store>
    __device__ __forceinline__ void finish(const Unit &unit, const Sums *const (&sums)[FOURS], Store store) const {
        float4 *part0 = reinterpret_cast<float4 *>(p.partial) + threadIdx.x; // of this thread
        part0 += size_t(unit.split) * p.splits * CHUNKS * FOURS * CONSUMERS;
        auto part = [&](unsigned rank, unsigned n, int f) { return part0 + ((rank * CHUNKS + n) * FOURS + f) * CONSUMERS; };
#pragma unroll
        for (int n = 0; n < CHUNKS; n++) {
#pragma unroll
            for (int f = 0; f < FOURS; f++) {
                const float (&v)[4] = (*sums[f])[n];
                *part(unit.rank, n, f) = {v[0], v[1], v[2], v[3]};
            }
        }
        sync_consumers<CONSUMERS>();
        if (threadIdx.x == 0) told = shares(unit);
        sync_consumers<CONSUMERS>();
        // How many have read the ticket for the last time.
        unsigned done = threadIdx.x == 0 ? atomicAdd(p.tickets + unit.split * 2 + 1, 1) + 1 : 0;
        for (unsigned mine = told; mine; mine &= mine - 1) {
#pragma unroll(FOURS == 1 ? 2 : 1)
            for (unsigned n = __ffs(mine) - 1; n < CHUNKS && unit.token + n * 8 < p.n; n += p.splits) {
                float sum[FOURS][4];
#pragma unroll
                for (int f = 0; f < FOURS; f++) {
                    float4 v[MAX_SPLITS];
#pragma unroll
                    for (int i = 0; i < MAX_SPLITS; i++)
                        if (i < p.splits) v[i] = __ldcg(part(i, n, f));
                    sum[f][0] = v[0].x, sum[f][1] = v[0].y, sum[f][2] = v[0].z, sum[f][3] = v[0].w;
#pragma unroll
                    for (int i = 1; i < MAX_SPLITS; i++)
                        if (i < p.splits) sum[f][0] += v[i].x, sum[f][1] += v[i].y, sum[f][2] += v[i].z, sum[f][3] += v[i].w;
                }
                store(unit.token + n * 8, sum);
            }
        }
        if (done == p.splits) p.tickets[unit.split * 2] = p.tickets[unit.split * 2 + 1] = 0; // for the next launch
    }
};
