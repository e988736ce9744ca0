// The gradients of causal attention, deterministic: every sum belongs to one warp and runs in a fixed order.
// Kernel 1: delta. Kernel 2: d_k and d_v, one block for 64 keys of one key head. Kernel 3: d_q, one block for
// 128 query rows of one head. Kernels 2 and 3 both compute the scores again.
#include "attention.cuh"
#include "reduce.cuh"

constexpr int WARPS = ATTENTION_SIMT_WARPS, THREADS = 32 * WARPS; // of the kernels without tiles

// One warp for each row and head.
template <class T, int D> __device__ __forceinline__ void attention_delta(const AttentionGradParams &p) {
    size_t job = size_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (job >= size_t(p.n) * p.q_heads) return;
    size_t row = job / p.q_heads;
    unsigned head = job % p.q_heads, lane = threadIdx.x % 32;
    const T *out = row_of<T>(p.out, row) + head * D;
    const T *d_out = row_of<T>(p.d_out, row) + head * D;
    struct alignas(D / 32 * sizeof(T)) Part {
        T v[D / 32];
    };
    const Part *a = reinterpret_cast<const Part *>(out) + lane, *b = reinterpret_cast<const Part *>(d_out) + lane;
    bool aligned = (reinterpret_cast<uintptr_t>(out) | reinterpret_cast<uintptr_t>(d_out)) % sizeof(Part) == 0;
    float sum = 0;
    if (aligned) {
        Part x = *a, y = *b;
#pragma unroll
        for (int c = 0; c < D / 32; c++) sum += to_f32(x.v[c]) * to_f32(y.v[c]);
    } else {
        for (int c = 0; c < D / 32; c++) sum += to_f32(a->v[c]) * to_f32(b->v[c]);
    }
    sum = warp_sum(sum);
    if (lane == 0) p.delta[size_t(head) * p.n + row] = sum;
}
ATTENTION_SIMT(attention_delta, AttentionGradParams)

// The matrices of kernels 2 and 3 at one sequence, query head and key head.
template <class T, int D> struct Heads {
    const T *q, *d_out, *k, *v;
    const float *lse, *delta;

    __device__ __forceinline__ Heads(const AttentionGradParams &p, unsigned start, unsigned head, unsigned kv_head) {
        q = row_of<T>(p.q, start) + head * D;
        d_out = row_of<T>(p.d_out, start) + head * D;
        k = row_of<T>(p.k, start) + kv_head * D;
        v = row_of<T>(p.v, start) + kv_head * D;
        lse = p.lse + size_t(head) * p.n + start;
        delta = p.delta + size_t(head) * p.n + start;
    }
};

// ---- kernel 2: a warp owns 16 keys, and computes scores with keys as rows: [keys, queries]
struct MmaKeys {
    using Engine = Mma;
    static constexpr int THREADS = ATTENTION_MMA_THREADS;
    static constexpr int KEYS = ATTENTION_GRAD_KV_MMA_KEYS, QUERIES = ATTENTION_GRAD_KV_MMA_QUERIES;
};
struct WgmmaKeys {
    using Engine = Wgmma;
    static constexpr int THREADS = ATTENTION_WGMMA_THREADS;
    static constexpr int KEYS = ATTENTION_GRAD_KV_WGMMA_KEYS, QUERIES = ATTENTION_GRAD_KV_WGMMA_QUERIES;
};

// Scores to weights; keys after their query get 0. `lse` belongs to the queries, in shared memory; `key` is the first
// row's distance from the first query.
template <int N>
__device__ __forceinline__ void weigh_keys(float (&s)[1][N][4], const float *lse, float scale, bool diagonal, int key) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++) {
        int query = n * 8 + lane % 4 * 2;
        float2 l = *reinterpret_cast<const float2 *>(lse + query);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float weight = exp2_fast(s[0][n][i] * scale - (i % 2 ? l.y : l.x) * LOG2_E);
            s[0][n][i] = diagonal && key + i / 2 * 8 + lane / 4 > query + i % 2 ? 0.f : weight;
        }
    }
}

// ds = p (dp - delta), in place of dp; 0 where the key is after its query.
template <int N>
__device__ __forceinline__ void slope_keys(float (&dp)[1][N][4], const float (&p)[1][N][4], const float *delta,
                                           bool diagonal, int key) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++) {
        int query = n * 8 + lane % 4 * 2;
        float2 d = *reinterpret_cast<const float2 *>(delta + query);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float slope = p[0][n][i] * (dp[0][n][i] - (i % 2 ? d.y : d.x));
            dp[0][n][i] = diagonal && key + i / 2 * 8 + lane / 4 > query + i % 2 ? 0.f : slope;
        }
    }
}

template <class T, int D, class C> __device__ __forceinline__ void attention_grad_kv(const AttentionGradParams &p) {
    extern __shared__ __align__(1024) unsigned char shared[];
    using E = typename C::Engine;
    using Keys = Tile<D, C::KEYS>;
    using Queries = Tile<D, C::QUERIES>;
    constexpr int QUERIES = C::QUERIES, THREADS = C::THREADS;
    constexpr unsigned STAGE = 2 * Queries::BYTES;
    BlockJob job(p.kv_heads, p.n_seqs);
    Sequence seq(p.cu_seqlens, job.sequence, p.n);
    unsigned key0 = job.tile * C::KEYS; // the keys with most queries first
    if (key0 >= seq.len) return;
    unsigned group = p.q_heads / p.kv_heads, kv_head = job.head;
    unsigned k_tile = shared_address(shared), v_tile = k_tile + Keys::BYTES, stages = v_tile + Keys::BYTES;
    float *rows = reinterpret_cast<float *>(shared + 2 * Keys::BYTES + 2 * STAGE); // [2 stages][lse, delta][QUERIES]
    unsigned rounds = (seq.len - key0 + QUERIES - 1) / QUERIES, steps = rounds * group;
    auto load_queries = [&](unsigned step) {
        Heads<T, D> at(p, seq.start, kv_head * group + step / rounds, kv_head);
        unsigned query = key0 + step % rounds * QUERIES, to = stages + step % 2 * STAGE, valid = seq.len - query;
        load_tile<T, D, QUERIES, THREADS>(to, at.q + size_t(query) * p.q.stride, p.q.stride, valid);
        load_tile<T, D, QUERIES, THREADS>(to + Queries::BYTES, at.d_out + size_t(query) * p.d_out.stride,
                                          p.d_out.stride, valid);
        unsigned row = threadIdx.x % QUERIES;
        const float *from = threadIdx.x < QUERIES ? at.lse : at.delta;
        if (threadIdx.x < 2 * QUERIES)
            cp_async4(shared_address(rows + step % 2 * (2 * QUERIES) + threadIdx.x),
                      from + (row < valid ? query + row : 0), row < valid ? 4 : 0);
        cp_async_commit();
    };
    {
        Heads<T, D> at(p, seq.start, kv_head * group, kv_head);
        load_tile<T, D, C::KEYS, THREADS>(k_tile, at.k + size_t(key0) * p.k.stride, p.k.stride, seq.len - key0);
        load_tile<T, D, C::KEYS, THREADS>(v_tile, at.v + size_t(key0) * p.v.stride, p.v.stride, seq.len - key0);
    }
    load_queries(0);

    // First key of this warp, and of those it works with.
    unsigned key = threadIdx.x / 32 * 16, first = threadIdx.x / E::TOGETHER * E::template GROUP<1>;
    float d_k[1][D / 8][4] = {}, d_v[1][D / 8][4] = {};
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<0>();
        E::publish();
        __syncthreads();
        if (step + 1 < steps) load_queries(step + 1);
        unsigned q_tile = stages + step % 2 * STAGE, d_tile = q_tile + Queries::BYTES;
        unsigned query = step % rounds * QUERIES; // from key0
        if (first >= query + QUERIES) continue;
        bool diagonal = key + 15 > query;
        const float *lse = rows + step % 2 * (2 * QUERIES);
        float s[1][QUERIES / 8][4], dp[1][QUERIES / 8][4];
        unsigned weights[1][QUERIES / 16][4], slopes[1][QUERIES / 16][4];
        E::begin();
        E::template multiply<T, D, Keys, Queries>(s, k_tile, q_tile);
        E::commit();
        E::template multiply<T, D, Keys, Queries>(dp, v_tile, d_tile);
        E::commit();
        E::template wait<1>(s);
        weigh_keys(s, lse, p.scale * LOG2_E, diagonal, int(key - query));
        to_fragments<T>(weights, s);
        E::begin();
        E::template add<T, Queries>(d_v, weights, d_tile);
        E::commit();
        E::template wait<1>(dp);
        slope_keys(dp, s, lse + QUERIES, diagonal, int(key - query));
        to_fragments<T>(slopes, dp);
        E::begin();
        E::template add<T, Queries>(d_k, slopes, q_tile);
        E::commit();
        E::template wait<0>(d_v);
        E::template wait<0>(d_k);
    }

    __syncthreads(); // the other warps have read keys and values
    if (key0 + key >= seq.len) return;
    size_t row = seq.start + key0 + key;
    unsigned valid = seq.len - key0 - key;
    T *to_k = row_of<T>(p.d_k, row) + kv_head * D;
    T *to_v = row_of<T>(p.d_v, row) + kv_head * D;
    store_rows<T, D, Keys, 1>(to_k, p.d_k.stride, valid, d_k, {{p.scale, p.scale}}, shared, key);
    store_rows<T, D, Keys, 1>(to_v, p.d_v.stride, valid, d_v, {{1.f, 1.f}}, shared + Keys::BYTES, key);
}
ATTENTION_MMA(attention_grad_kv, AttentionGradParams, MmaKeys)
ATTENTION_WGMMA(attention_grad_kv, AttentionGradParams, WgmmaKeys)

// ---- kernel 3: a warp owns 32 queries, or 16
struct MmaQueries {
    using Engine = Mma;
    static constexpr int THREADS = ATTENTION_MMA_THREADS, M = 2;
    static constexpr int QUERIES = ATTENTION_GRAD_Q_MMA_QUERIES, KEYS = ATTENTION_GRAD_Q_MMA_KEYS;
};
struct WgmmaQueries {
    using Engine = Wgmma;
    static constexpr int THREADS = ATTENTION_WGMMA_THREADS, M = 1;
    static constexpr int QUERIES = ATTENTION_GRAD_Q_WGMMA_QUERIES, KEYS = ATTENTION_GRAD_Q_WGMMA_KEYS;
};

// Scores to weights; `lse` in base 2.
template <int M, int N>
__device__ __forceinline__ void weigh_queries(float (&s)[M][N][4], const float (&lse)[M][2], float scale) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[m][n][i] = exp2_fast(s[m][n][i] * scale - lse[m][i / 2]);
}

// ds = p (dp - delta), in place of p; 0 where the key is after its query.
template <int M, int N>
__device__ __forceinline__ void slope_queries(float (&p)[M][N][4], const float (&dp)[M][N][4],
                                              const float (&delta)[M][2], bool diagonal, unsigned query, unsigned key) {
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float slope = p[m][n][i] * (dp[m][n][i] - delta[m][i / 2]);
                bool hidden = diagonal && key + n * 8 + lane % 4 * 2 + i % 2 > query + m * 16 + i / 2 * 8 + lane / 4;
                p[m][n][i] = hidden ? 0.f : slope;
            }
}

template <class T, int D, class C> __device__ __forceinline__ void attention_grad_q(const AttentionGradParams &p) {
    extern __shared__ __align__(1024) unsigned char shared[];
    using E = typename C::Engine;
    using Queries = Tile<D, C::QUERIES>;
    using Keys = Tile<D, C::KEYS>;
    constexpr int M = C::M, THREADS = C::THREADS, QUERIES = C::QUERIES, KEYS = C::KEYS;
    BlockJob job(p.q_heads, p.n_seqs);
    Sequence seq(p.cu_seqlens, job.sequence, p.n);
    unsigned q0 = ((p.max_len + QUERIES - 1) / QUERIES - 1 - job.tile) * QUERIES; // the longest rows first
    if (q0 >= seq.len) return;
    Heads<T, D> at(p, seq.start, job.head, job.head / (p.q_heads / p.kv_heads));
    unsigned q_tile = shared_address(shared), d_tile = q_tile + Queries::BYTES, kv_tiles = d_tile + Queries::BYTES;
    auto load_kv = [&](unsigned block) {
        unsigned key = block * KEYS, to = kv_tiles + block % 2 * (2 * Keys::BYTES), valid = seq.len - key;
        load_tile<T, D, KEYS, THREADS>(to, at.k + size_t(key) * p.k.stride, p.k.stride, valid);
        load_tile<T, D, KEYS, THREADS>(to + Keys::BYTES, at.v + size_t(key) * p.v.stride, p.v.stride, valid);
        cp_async_commit();
    };
    load_tile<T, D, QUERIES, THREADS>(q_tile, at.q + size_t(q0) * p.q.stride, p.q.stride, seq.len - q0);
    load_tile<T, D, QUERIES, THREADS>(d_tile, at.d_out + size_t(q0) * p.d_out.stride, p.d_out.stride, seq.len - q0);
    load_kv(0);

    unsigned warp_row = threadIdx.x / 32 * (16 * M), lane = threadIdx.x % 32, query = q0 + warp_row;
    unsigned last_query = q0 + (threadIdx.x / E::TOGETHER + 1) * E::template GROUP<M> - 1;
    float lse[M][2], delta[M][2], scale[M][2], d_q[M][D / 8][4] = {};
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            unsigned row = query + m * 16 + h * 8 + lane / 4;
            lse[m][h] = row < seq.len ? at.lse[row] * LOG2_E : 0.f;
            delta[m][h] = row < seq.len ? at.delta[row] : 0.f;
            scale[m][h] = p.scale;
        }
    unsigned blocks = (min(q0 + QUERIES, seq.len) + KEYS - 1) / KEYS;
    for (unsigned block = 0; block < blocks; block++) {
        cp_async_wait<0>();
        E::publish();
        __syncthreads();
        if (block + 1 < blocks) load_kv(block + 1);
        unsigned key = block * KEYS, k_tile = kv_tiles + block % 2 * (2 * Keys::BYTES);
        if (key > last_query) continue;
        float s[M][KEYS / 8][4], dp[M][KEYS / 8][4];
        unsigned slopes[M][KEYS / 16][4];
        E::begin();
        E::template multiply<T, D, Queries, Keys>(s, q_tile, k_tile);
        E::commit();
        E::template multiply<T, D, Queries, Keys>(dp, d_tile, k_tile + Keys::BYTES);
        E::commit();
        E::template wait<1>(s);
        weigh_queries(s, lse, p.scale * LOG2_E);
        E::template wait<0>(dp);
        slope_queries(s, dp, delta, key + KEYS - 1 > query, query, key);
        to_fragments<T>(slopes, s);
        E::begin();
        E::template add<T, Keys>(d_q, slopes, k_tile);
        E::commit();
        E::template wait<0>(d_q);
    }

    __syncthreads(); // the other warps have read the queries
    if (query >= seq.len) return;
    T *to = row_of<T>(p.d_q, seq.start + query) + job.head * D;
    store_rows<T, D, Queries>(to, p.d_q.stride, seq.len - query, d_q, scale, shared, warp_row);
}
ATTENTION_MMA(attention_grad_q, AttentionGradParams, MmaQueries)
ATTENTION_WGMMA(attention_grad_q, AttentionGradParams, WgmmaQueries)

// ---- any type and alignment, sums in f32
// A warp owns one row; its lanes compute the weights of 32 rows of the other side, then own columns of the sums.
template <class T, int D> struct SimtTile {
    static constexpr int ROWS = 32;
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
    constexpr int ROWS = SimtTile<T, D>::ROWS;
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
            __syncthreads();
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
ATTENTION_SIMT(attention_grad_kv_simt, AttentionGradParams)

template <class T, int D> __device__ __forceinline__ void attention_grad_q_simt(const AttentionGradParams &p) {
    constexpr int ROWS = SimtTile<T, D>::ROWS;
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
        __syncthreads();
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
ATTENTION_SIMT(attention_grad_q_simt, AttentionGradParams)
