// The gradients of causal attention, deterministic: every sum belongs to one warp and runs in a fixed order. Kernel 1:
// delta. Kernel 2: d_k and d_v, one CTA for a tile of keys of one key head. Kernel 3: d_q, one CTA for 128 query rows
// of one head.
//
// Kernels 2 and 3 both compute the scores again, which costs 7 products in place of 5: the price of having no sum that
// CTAs share, so no atomic additions and no second pass over d_q. Both keep what they own in registers for the whole
// loop and let the other side's tiles pass in two stages of cp.async. Kernel 2 computes scores with keys as rows, so
// that the weights are the left operand of d_v += P^T d_out without a transpose; lse and delta then belong to columns
// and come through shared memory with the tiles. A group of query heads is one loop: the sum over its heads stays in
// registers.
//
// Registers set the tiles: at D = 128 a warp's 16 rows of d_k and d_v are 128 f32 a thread, scores and their gradient
// 64 more with 64 queries. The bound is the tensor cores' rate.
#include "attention.cuh"
#include "attention_grad_simt.cuh"
#include "reduce.cuh"

// One warp for each row and head.
template <class T, int D> __device__ __forceinline__ void attention_delta(const AttentionGradParams &p) {
    size_t job = size_t(blockIdx.x) * ATTENTION_SIMT_WARPS + threadIdx.x / 32;
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

// A CTA's keys, and its shared memory: keys, values, then stages of queries and their output gradients, then lse and
// delta of each stage's queries.
template <class T, int D, class C> struct KeysBlock {
    using Keys = Tile<D, C::KEYS>;
    using Queries = Tile<D, C::QUERIES>;
    static constexpr int QUERIES = C::QUERIES, THREADS = C::THREADS;
    static constexpr unsigned STAGES = ATTENTION_STAGES, STAGE = 2 * Queries::BYTES;
    const AttentionGradParams &p;
    unsigned char *shared;
    BlockJob job; // its head is a key head
    Sequence seq;
    unsigned key0, group, rounds;
    unsigned k_tile, v_tile, stages;
    float *rows; // [STAGES][lse, delta][QUERIES]

    __device__ __forceinline__ KeysBlock(const AttentionGradParams &p, unsigned char *shared)
        : p(p), shared(shared), job(p.kv_heads, p.n_seqs), seq(p.cu_seqlens, job.sequence, p.n) {
        key0 = job.tile * C::KEYS; // the keys with most queries first
        group = p.q_heads / p.kv_heads;
        rounds = (seq.len - key0 + QUERIES - 1) / QUERIES;
        k_tile = shared_address(shared), v_tile = k_tile + Keys::BYTES, stages = v_tile + Keys::BYTES;
        rows = reinterpret_cast<float *>(shared + 2 * Keys::BYTES + STAGES * STAGE);
    }
    __device__ __forceinline__ void load_keys() const {
        Heads<T, D> at(p, seq.start, job.head * group, job.head);
        load_tile<T, D, C::KEYS, THREADS>(k_tile, at.k + size_t(key0) * p.k.stride, p.k.stride, seq.len - key0);
        load_tile<T, D, C::KEYS, THREADS>(v_tile, at.v + size_t(key0) * p.v.stride, p.v.stride, seq.len - key0);
    }
    // Step `step`: query tiles from the first that sees these keys, head after head of the group.
    __device__ __forceinline__ void load_queries(unsigned step) const {
        Heads<T, D> at(p, seq.start, job.head * group + step / rounds, job.head);
        unsigned query = key0 + step % rounds * QUERIES, to = stages + step % STAGES * STAGE, valid = seq.len - query;
        load_tile<T, D, QUERIES, THREADS>(to, at.q + size_t(query) * p.q.stride, p.q.stride, valid);
        load_tile<T, D, QUERIES, THREADS>(to + Queries::BYTES, at.d_out + size_t(query) * p.d_out.stride,
                                          p.d_out.stride, valid);
        unsigned row = threadIdx.x % QUERIES;
        const float *from = threadIdx.x < QUERIES ? at.lse : at.delta;
        if (threadIdx.x < 2 * QUERIES)
            cp_async4(shared_address(rows + step % STAGES * (2 * QUERIES) + threadIdx.x),
                      from + (row < valid ? query + row : 0), row < valid ? 4 : 0);
        cp_async_commit();
    }
    // This warp's rows, from key0 + `key` on, through its rows of the tiles of keys and values.
    __device__ __forceinline__ void store(const float (&d_k)[1][D / 8][4], const float (&d_v)[1][D / 8][4],
                                          unsigned key) const {
        if (key0 + key >= seq.len) return;
        size_t row = seq.start + key0 + key;
        unsigned valid = seq.len - key0 - key;
        T *to_k = row_of<T>(p.d_k, row) + job.head * D;
        T *to_v = row_of<T>(p.d_v, row) + job.head * D;
        store_rows<T, D, Keys, 1>(to_k, p.d_k.stride, valid, d_k, {{p.scale, p.scale}}, shared, key);
        store_rows<T, D, Keys, 1>(to_v, p.d_v.stride, valid, d_v, {{1.f, 1.f}}, shared + Keys::BYTES, key);
    }
};

template <class T, int D, class C> __device__ __forceinline__ void attention_grad_kv(const AttentionGradParams &p) {
    extern __shared__ __align__(1024) unsigned char shared[];
    using E = typename C::Engine;
    using Block = KeysBlock<T, D, C>;
    using Keys = typename Block::Keys;
    using Queries = typename Block::Queries;
    constexpr int QUERIES = C::QUERIES;
    Block block(p, shared);
    if (block.key0 >= block.seq.len) return;
    block.load_keys();
    block.load_queries(0);

    // First key of this warp, and of those it works with.
    unsigned key = threadIdx.x / 32 * 16, first = threadIdx.x / E::TOGETHER * E::template GROUP<1>;
    unsigned steps = block.rounds * block.group;
    float d_k[1][D / 8][4] = {}, d_v[1][D / 8][4] = {};
    for (unsigned step = 0; step < steps; step++) {
        begin_stage<E>();
        if (step + 1 < steps) block.load_queries(step + 1);
        unsigned q_tile = block.stages + step % Block::STAGES * Block::STAGE, d_tile = q_tile + Queries::BYTES;
        unsigned query = step % block.rounds * QUERIES; // from key0
        if (first >= query + QUERIES) continue;
        bool diagonal = key + 15 > query;
        const float *lse = block.rows + step % Block::STAGES * (2 * QUERIES);
        float s[1][QUERIES / 8][4], dp[1][QUERIES / 8][4];
        unsigned weights[1][QUERIES / 16][4], slopes[1][QUERIES / 16][4];
        // Both products are queued before the first is waited for: exponentials overlap with the second, and then the
        // slopes with d_v.
        E::begin();
        E::template multiply<T, D, Keys, Queries>(s, block.k_tile, q_tile);
        E::commit();
        E::template multiply<T, D, Keys, Queries>(dp, block.v_tile, d_tile);
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
    block.store(d_k, d_v, key);
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

// lse in base 2 and delta of a warp's rows, of which the first is `query`.
template <int M> struct RowScalars {
    float lse[M][2], delta[M][2];

    __device__ __forceinline__ RowScalars(const float *all_lse, const float *all_delta, unsigned query, unsigned len) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                unsigned row = query + m * 16 + h * 8 + threadIdx.x % 32 / 4;
                lse[m][h] = row < len ? all_lse[row] * LOG2_E : 0.f;
                delta[m][h] = row < len ? all_delta[row] : 0.f;
            }
    }
};

template <class T, int D, class C> __device__ __forceinline__ void attention_grad_q(const AttentionGradParams &p) {
    extern __shared__ __align__(1024) unsigned char shared[];
    using E = typename C::Engine;
    using Queries = Tile<D, C::QUERIES>;
    using Keys = Tile<D, C::KEYS>;
    constexpr int M = C::M, THREADS = C::THREADS, QUERIES = C::QUERIES, KEYS = C::KEYS;
    constexpr unsigned STAGES = ATTENTION_STAGES;
    BlockJob job(p.q_heads, p.n_seqs);
    Sequence seq(p.cu_seqlens, job.sequence, p.n);
    unsigned q0 = ((p.max_len + QUERIES - 1) / QUERIES - 1 - job.tile) * QUERIES; // the longest rows first
    if (q0 >= seq.len) return;
    Heads<T, D> at(p, seq.start, job.head, job.head / (p.q_heads / p.kv_heads));
    unsigned q_tile = shared_address(shared), d_tile = q_tile + Queries::BYTES, kv_tiles = d_tile + Queries::BYTES;
    auto load_kv = [&](unsigned block) {
        unsigned key = block * KEYS, to = kv_tiles + block % STAGES * (2 * Keys::BYTES), valid = seq.len - key;
        load_tile<T, D, KEYS, THREADS>(to, at.k + size_t(key) * p.k.stride, p.k.stride, valid);
        load_tile<T, D, KEYS, THREADS>(to + Keys::BYTES, at.v + size_t(key) * p.v.stride, p.v.stride, valid);
        cp_async_commit();
    };
    load_tile<T, D, QUERIES, THREADS>(q_tile, at.q + size_t(q0) * p.q.stride, p.q.stride, seq.len - q0);
    load_tile<T, D, QUERIES, THREADS>(d_tile, at.d_out + size_t(q0) * p.d_out.stride, p.d_out.stride, seq.len - q0);
    load_kv(0);

    unsigned warp_row = threadIdx.x / 32 * (16 * M), query = q0 + warp_row;
    unsigned last_query = q0 + (threadIdx.x / E::TOGETHER + 1) * E::template GROUP<M> - 1;
    RowScalars<M> rows(at.lse, at.delta, query, seq.len);
    float d_q[M][D / 8][4] = {};
    unsigned blocks = (min(q0 + QUERIES, seq.len) + KEYS - 1) / KEYS;
    for (unsigned block = 0; block < blocks; block++) {
        begin_stage<E>();
        if (block + 1 < blocks) load_kv(block + 1);
        unsigned key = block * KEYS, k_tile = kv_tiles + block % STAGES * (2 * Keys::BYTES);
        if (key > last_query) continue;
        float s[M][KEYS / 8][4], dp[M][KEYS / 8][4];
        unsigned slopes[M][KEYS / 16][4];
        E::begin();
        E::template multiply<T, D, Queries, Keys>(s, q_tile, k_tile);
        E::commit();
        E::template multiply<T, D, Queries, Keys>(dp, d_tile, k_tile + Keys::BYTES);
        E::commit();
        E::template wait<1>(s);
        weigh_queries(s, rows.lse, p.scale * LOG2_E);
        E::template wait<0>(dp);
        slope_queries(s, dp, rows.delta, key + KEYS - 1 > query, query, key);
        to_fragments<T>(slopes, s);
        E::begin();
        E::template add<T, Keys>(d_q, slopes, k_tile);
        E::commit();
        E::template wait<0>(d_q);
    }

    __syncthreads(); // the other warps have read the queries
    if (query >= seq.len) return;
    float scale[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) scale[m][0] = scale[m][1] = p.scale;
    T *to = row_of<T>(p.d_q, seq.start + query) + job.head * D;
    store_rows<T, D, Queries>(to, p.d_q.stride, seq.len - query, d_q, scale, shared, warp_row);
}
ATTENTION_MMA(attention_grad_q, AttentionGradParams, MmaQueries)
ATTENTION_WGMMA(attention_grad_q, AttentionGradParams, WgmmaQueries)

// ---- any type and alignment
ATTENTION_SIMT(attention_grad_kv_simt, AttentionGradParams)
ATTENTION_SIMT(attention_grad_q_simt, AttentionGradParams)
