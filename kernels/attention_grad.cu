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
#include "attention_slopes.cuh"
#include "reduce.cuh"

// A group of lanes for each row and head, each with 16 bytes of both.
template <class T, int D> __device__ __forceinline__ void attention_delta(const AttentionGradParams &p) {
    constexpr unsigned LANES = D / VEC<T>;
    size_t job = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / LANES, jobs = size_t(p.n) * p.q_heads;
    size_t row = min(job, jobs - 1) / p.q_heads; // lanes without a job stay: groups of a warp add up together
    unsigned head = min(job, jobs - 1) % p.q_heads, lane = threadIdx.x % LANES;
    const T *out = row_of<T>(p.out, row) + head * D + lane * VEC<T>;
    const T *d_out = row_of<T>(p.d_out, row) + head * D + lane * VEC<T>;
    auto load = [](const T *from, unsigned stride) {
        if (aligned16(from, stride)) return load_pack(from);
        Pack<T> values;
        for (int i = 0; i < VEC<T>; i++) values.v[i] = from[i];
        return values;
    };
    Pack<T> a = load(out, p.out.stride), b = load(d_out, p.d_out.stride);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < VEC<T>; i++) sum += to_f32(a.v[i]) * to_f32(b.v[i]);
#pragma unroll
    for (unsigned i = LANES / 2; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
    if (lane == 0 && job < jobs) p.delta[size_t(head) * p.n + row] = sum;
}
ATTENTION_SIMT(attention_delta, AttentionGradParams)

// ---- kernel 2: a warp owns 16 keys, and computes scores with keys as rows: [keys, queries]
struct MmaKeys {
    static constexpr int THREADS = ATTENTION_MMA_THREADS;
    static constexpr int KEYS = ATTENTION_GRAD_KV_MMA_KEYS, QUERIES = ATTENTION_GRAD_KV_MMA_QUERIES;
};

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
    using Block = KeysBlock<T, D, C>;
    using Keys = typename Block::Keys;
    using Queries = typename Block::Queries;
    constexpr int QUERIES = C::QUERIES;
    Block block(p, shared);
    if (block.key0 >= block.seq.len) return;
    block.load_keys();
    block.load_queries(0);

    unsigned key = threadIdx.x / 32 * 16; // this warp's first
    unsigned steps = block.rounds * block.group;
    float d_k[1][D / 8][4] = {}, d_v[1][D / 8][4] = {};
    for (unsigned step = 0; step < steps; step++) {
        begin_stage();
        if (step + 1 < steps) block.load_queries(step + 1);
        unsigned q_tile = block.stages + step % Block::STAGES * Block::STAGE, d_tile = q_tile + Queries::BYTES;
        unsigned query = step % block.rounds * QUERIES; // from key0
        if (key >= query + QUERIES) continue;
        bool diagonal = key + 15 > query;
        const float *lse = block.rows + step % Block::STAGES * (2 * QUERIES);
        float s[1][QUERIES / 8][4], dp[1][QUERIES / 8][4];
        unsigned weights[1][QUERIES / 16][4], slopes[1][QUERIES / 16][4];
        Mma::multiply<T, D, Keys, Queries>(s, block.k_tile, q_tile);
        Mma::multiply<T, D, Keys, Queries>(dp, block.v_tile, d_tile);
        weigh_keys(s, lse, p.scale * LOG2_E, diagonal, int(key - query));
        to_fragments<T>(weights, s);
        Mma::add<T, Queries>(d_v, weights, d_tile);
        slope_keys(dp, s, lse + QUERIES, diagonal, int(key - query));
        to_fragments<T>(slopes, dp);
        Mma::add<T, Queries>(d_k, slopes, q_tile);
    }
    __syncthreads(); // the other warps have read keys and values
    block.store(d_k, d_v, key);
}
ATTENTION_MMA(attention_grad_kv, AttentionGradParams, MmaKeys)

// ---- kernel 3: a warp owns 32 queries
struct MmaQueries {
    static constexpr int THREADS = ATTENTION_MMA_THREADS, M = 2;
    static constexpr int QUERIES = ATTENTION_GRAD_Q_MMA_QUERIES, KEYS = ATTENTION_GRAD_Q_MMA_KEYS;
};

template <class T, int D, class C> __device__ __forceinline__ void attention_grad_q(const AttentionGradParams &p) {
    extern __shared__ __align__(1024) unsigned char shared[];
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

    unsigned warp_row = threadIdx.x / 32 * (16 * M), query = q0 + warp_row, last_query = query + 16 * M - 1;
    RowScalars<M> rows(at.lse, at.delta, query, seq.len);
    float d_q[M][D / 8][4] = {};
    unsigned blocks = (min(q0 + QUERIES, seq.len) + KEYS - 1) / KEYS;
    for (unsigned block = 0; block < blocks; block++) {
        begin_stage();
        if (block + 1 < blocks) load_kv(block + 1);
        unsigned key = block * KEYS, k_tile = kv_tiles + block % STAGES * (2 * Keys::BYTES);
        if (key > last_query) continue;
        float s[M][KEYS / 8][4], dp[M][KEYS / 8][4];
        unsigned slopes[M][KEYS / 16][4];
        Mma::multiply<T, D, Queries, Keys>(s, q_tile, k_tile);
        Mma::multiply<T, D, Queries, Keys>(dp, d_tile, k_tile + Keys::BYTES);
        weigh_queries(s, rows.lse, p.scale * LOG2_E);
        slope_queries(s, dp, rows.delta, key + KEYS - 1 > query, query, key);
        to_fragments<T>(slopes, s);
        Mma::add<T, Keys>(d_q, slopes, k_tile);
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

// ---- any type and alignment
ATTENTION_SIMT(attention_grad_kv_simt, AttentionGradParams)
ATTENTION_SIMT(attention_grad_q_simt, AttentionGradParams)
