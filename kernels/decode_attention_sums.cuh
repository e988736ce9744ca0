#pragma once
// The way of decode_attention's warps with tiles that asks for nothing, and what all its kernels do.
#include "decode_attention.cuh"

// ------------------------------------------------------------------------------------- tiles by FMA

// For any type, alignment and cache. D / VEC lanes share a row; these lane groups take the rows of a tile in turn, U at a time.
template <class T, int D> struct Sums {
    static constexpr unsigned LANES = D / VEC<T>, GROUPS = 32 / LANES, U = 2;
    float o[HEADS][VEC<T>] = {}, top[HEADS], sum[HEADS] = {};
    bool packed;

    __device__ __forceinline__ explicit Sums(bool packed) : packed(packed) {
#pragma unroll
        for (float &t : top) t = -INFINITY;
    }
    __device__ static float merge_scale(float scale) { return scale; }
    template <class Cache> __device__ __forceinline__ void start(const Cache &, unsigned, unsigned) {}
    template <class Cache>
    __device__ __forceinline__ void run(const Cache &cache, const typename Cache::Shared &shared, unsigned tile,
                                        unsigned end, unsigned step, unsigned heads, float scale) {
        unsigned column = threadIdx.x % LANES * VEC<T>, lane_group = threadIdx.x % 32 / LANES;
        float qs[HEADS][VEC<T>];
#pragma unroll
        for (unsigned g = 0; g < HEADS; g++) load(qs[g], &shared.q[g][column], true);
#pragma unroll 1
        for (; tile < end; tile += step)
#pragma unroll 1
            for (unsigned row = lane_group; row < Cache::TILE; row += GROUPS * U) {
                float k[U][VEC<T>], v[U][VEC<T>];
                bool here[U];
#pragma unroll
                for (unsigned u = 0; u < U; u++) {
                    unsigned key = tile * Cache::TILE + row + u * GROUPS;
                    here[u] = key <= cache.last;
                    cache.load(k[u], v[u], key, column, shared, packed);
                }
#pragma unroll
                for (unsigned g = 0; g < HEADS; g++)
                    if (g < heads) add(g, qs[g], k, v, here, scale);
            }
    }
    __device__ __forceinline__ void add(unsigned g, const float (&q)[VEC<T>], const float (&k)[U][VEC<T>],
                                        const float (&v)[U][VEC<T>], const bool (&here)[U], float scale) {
        float s[U], old = top[g];
#pragma unroll
        for (unsigned u = 0; u < U; u++) {
            float dot = 0;
#pragma unroll
            for (int i = 0; i < VEC<T>; i++) dot += q[i] * k[u][i];
#pragma unroll
            for (unsigned distance = LANES / 2; distance > 0; distance /= 2)
                dot += __shfl_xor_sync(~0u, dot, distance);
            s[u] = here[u] ? dot : -INFINITY;
            top[g] = fmaxf(top[g], s[u]);
        }
        float shrink = weight(old, top[g], scale);
        sum[g] *= shrink;
#pragma unroll
        for (int i = 0; i < VEC<T>; i++) o[g][i] *= shrink;
#pragma unroll
        for (unsigned u = 0; u < U; u++) {
            float w = weight(s[u], top[g], scale);
            sum[g] += w;
#pragma unroll
            for (int i = 0; i < VEC<T>; i++) o[g][i] += w * v[u][i];
        }
    }
    // Merges the lane groups, two and two, and stores what they have.
    template <class Shared> __device__ __forceinline__ void store(Shared &shared, unsigned heads, float scale) {
        unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (unsigned g = 0; g < HEADS; g++) {
#pragma unroll
            for (unsigned distance = LANES; distance < 32; distance *= 2) {
                float other = __shfl_xor_sync(~0u, top[g], distance), all = fmaxf(top[g], other);
                float mine = weight(top[g], all, scale), theirs = weight(other, all, scale);
                top[g] = all;
                sum[g] = sum[g] * mine + __shfl_xor_sync(~0u, sum[g], distance) * theirs;
#pragma unroll
                for (int i = 0; i < VEC<T>; i++)
                    o[g][i] = o[g][i] * mine + __shfl_xor_sync(~0u, o[g][i], distance) * theirs;
            }
            if (g >= heads || lane >= LANES) continue;
#pragma unroll
            for (int i = 0; i < VEC<T>; i++) shared.found[warp][g][lane * VEC<T> + i] = o[g][i];
            if (lane == 0) pair_at(&shared.found[warp][g][D]) = make_float2(top[g], sum[g]);
        }
    }
};

// ------------------------------------------------------------------------------------- all of it

// `Cache` has the keys and values and what a CTA shares, `Warp` a way with tiles. `packed`: everything that is read moves
// 16 bytes at a time.
template <class Warp, class Cache, class T, int D>
__device__ __forceinline__ void decode_attention(const DecodeAttentionParams &p, bool packed) {
    __shared__ typename Cache::Shared shared;
    float scale = p.scale * LOG2_E;
    Job job(p);
    NewToken<T, D> token(p, packed);
    if (!p.settled) wait_for_last();
    unsigned position = p.positions[job.b];
    job.place(p, position, Cache::TILE);
    Cache cache(p, job);
    Warp warp(packed);
    // All splits walk over the keys together, so that what is read at a time lies together.
    unsigned tile = job.split * WARPS + threadIdx.x / 32, step = job.active * WARPS;
    if (job.split < job.active) {
        warp.start(cache, tile, job.tiles);
        token.ask_for_angles(p, position);
    }
    begin_kernel();
    if (job.split >= job.active) return;
    token.load(p, job);
    if (!token.is_idle()) {
        token.rotate(p, position);
        shared.take(token);
    }
    __syncthreads(); // queries and what is the token's own are there
    if (job.stores) cache.append(p, job, shared);
    warp.run(cache, shared, tile, job.tiles, step, job.heads, scale);
    warp.store(shared, job.heads, scale);
    __syncthreads(); // all warps' findings are there
    finish<T, D>(p, job, shared, Warp::merge_scale(scale));
}
