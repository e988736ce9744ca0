#pragma once
// Gradients of attention for any type and alignment, products and sums in f32. A warp owns one row; its lanes compute
// the weights of 32 rows of the other side, then own columns of the sums.
#include "attention.cuh"

// 32 rows of one matrix. The padding puts a column, which 32 lanes read in `dot`, into 32 banks.
template <class T, int D> struct SimtTile {
    static constexpr int ROWS = 32, WARPS = ATTENTION_SIMT_WARPS, THREADS = 32 * WARPS;
    float x[ROWS][D + 1];

    __device__ void load(const T *from, unsigned stride, unsigned valid) {
        for (unsigned i = threadIdx.x; i < ROWS * D; i += THREADS)
            x[i / D][i % D] = i / D < valid ? to_f32(from[size_t(i / D) * stride + i % D]) : 0.f;
    }
    __device__ float dot(const float *own) const {
        float sum = 0;
#pragma unroll 8
        for (int d = 0; d < D; d++) sum += own[d] * x[threadIdx.x % 32][d];
        return sum;
    }
    __device__ void add(float (&sums)[D / 32], float weight, unsigned row) const {
#pragma unroll
        for (int c = 0; c < D / 32; c++) sums[c] += weight * x[row][threadIdx.x % 32 + c * 32];
    }
};

template <class T, int D> __device__ __forceinline__ void attention_grad_kv_simt(const AttentionGradParams &p) {
    constexpr int ROWS = SimtTile<T, D>::ROWS, WARPS = ATTENTION_SIMT_WARPS;
    __shared__ SimtTile<T, D> qs, ds;
    __shared__ float own_k[WARPS][D], own_v[WARPS][D];
    BlockJob job(p.kv_heads, p.n_seqs);
    Sequence seq(p.cu_seqlens, job.sequence, p.n);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, key0 = job.tile * WARPS, key = key0 + warp;
    if (key0 >= seq.len) return;
    unsigned group = p.q_heads / p.kv_heads;
    const Heads<T, D> first(p, seq.start, job.head * group, job.head);
    for (int c = lane; c < D; c += 32) {
        own_k[warp][c] = key < seq.len ? to_f32(first.k[size_t(key) * p.k.stride + c]) : 0.f;
        own_v[warp][c] = key < seq.len ? to_f32(first.v[size_t(key) * p.v.stride + c]) : 0.f;
    }
    float d_k[D / 32] = {}, d_v[D / 32] = {};
    for (unsigned head = job.head * group; head < (job.head + 1) * group; head++) {
        Heads<T, D> at(p, seq.start, head, job.head);
        for (unsigned query0 = key0; query0 < seq.len; query0 += ROWS) {
            __syncthreads(); // the tiles before have been read
            qs.load(at.q + size_t(query0) * p.q.stride, p.q.stride, seq.len - query0);
            ds.load(at.d_out + size_t(query0) * p.d_out.stride, p.d_out.stride, seq.len - query0);
            __syncthreads();
            unsigned query = query0 + lane;
            bool visible = key <= query && query < seq.len;
            float weight = visible ? expf(qs.dot(own_k[warp]) * p.scale - at.lse[query]) : 0.f;
            float gradient = visible ? weight * (ds.dot(own_v[warp]) - at.delta[query]) : 0.f;
            for (unsigned j = key - min(key, query0); j < min(ROWS, int(seq.len - query0)); j++) {
                ds.add(d_v, __shfl_sync(~0u, weight, j), j);
                qs.add(d_k, __shfl_sync(~0u, gradient, j), j);
            }
        }
    }
    if (key >= seq.len) return;
    T *to_k = row_of<T>(p.d_k, seq.start + key) + job.head * D;
    T *to_v = row_of<T>(p.d_v, seq.start + key) + job.head * D;
    for (int c = 0; c < D / 32; c++) {
        to_k[lane + c * 32] = from_f32<T>(d_k[c] * p.scale);
        to_v[lane + c * 32] = from_f32<T>(d_v[c]);
    }
}

template <class T, int D> __device__ __forceinline__ void attention_grad_q_simt(const AttentionGradParams &p) {
    constexpr int ROWS = SimtTile<T, D>::ROWS, WARPS = ATTENTION_SIMT_WARPS;
    __shared__ SimtTile<T, D> ks, vs;
    __shared__ float own_q[WARPS][D], own_d[WARPS][D];
    BlockJob job(p.q_heads, p.n_seqs);
    Sequence seq(p.cu_seqlens, job.sequence, p.n);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned query0 = ((p.max_len + WARPS - 1) / WARPS - 1 - job.tile) * WARPS, query = query0 + warp;
    if (query0 >= seq.len) return;
    Heads<T, D> at(p, seq.start, job.head, job.head / (p.q_heads / p.kv_heads));
    bool exists = query < seq.len;
    for (int c = lane; c < D; c += 32) {
        own_q[warp][c] = exists ? to_f32(at.q[size_t(query) * p.q.stride + c]) : 0.f;
        own_d[warp][c] = exists ? to_f32(at.d_out[size_t(query) * p.d_out.stride + c]) : 0.f;
    }
    float lse = exists ? at.lse[query] : 0.f, delta = exists ? at.delta[query] : 0.f, d_q[D / 32] = {};
    unsigned last = min(query0 + WARPS, seq.len);
    for (unsigned key0 = 0; key0 < last; key0 += ROWS) {
        __syncthreads(); // the tiles before have been read
        ks.load(at.k + size_t(key0) * p.k.stride, p.k.stride, last - key0);
        vs.load(at.v + size_t(key0) * p.v.stride, p.v.stride, last - key0);
        __syncthreads();
        bool visible = key0 + lane <= query && exists;
        float weight = visible ? expf(ks.dot(own_q[warp]) * p.scale - lse) : 0.f;
        float gradient = visible ? weight * (vs.dot(own_d[warp]) - delta) : 0.f;
        unsigned count = min(ROWS, int(min(query + 1, last) - min(key0, min(query + 1, last))));
        for (unsigned j = 0; j < count; j++) ks.add(d_q, __shfl_sync(~0u, gradient, j), j);
    }
    if (!exists) return;
    T *to = row_of<T>(p.d_q, seq.start + query) + job.head * D;
    for (int c = 0; c < D / 32; c++) to[lane + c * 32] = from_f32<T>(d_q[c] * p.scale);
}
