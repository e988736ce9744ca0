// Causal attention of packed sequences (FlashAttention-2: Dao, 2023): one CTA for 128 query rows of one head.
//
// A warp owns 32 query rows: their scores, weights and sums of values stay in its
// registers, so that maxima and sums of a row take two shuffles among four lanes, and no warp waits for another but at
// the tile barriers. The weights of one tile are, element by element, already where the second product wants its left
// operand; they never go to shared memory.
//
// Queries are loaded once. Keys and values pass in two stages by cp.async: a stage is asked for before the other is
// worked on, so that a tile's memory latency hides behind the two products of the tile before.
//
// Tiles of a prefix come before those of the sequence: a tile has rows of one of them.
//
// Registers set the tiles. At D = 128 a thread has 128 f32 of `o` and 64 of scores (64 keys), so two CTAs of 128
// threads fill the registers. Shared memory at D = 128: 96 KiB. The bound is the tensor cores' rate. Hopper has kernels
// of its own for heads of 64 and 128 elements: attention_wgmma.cu.
#include "attention_softmax.cuh"
#include "reduce.cuh"

// One CTA: four warps of 32 rows.
struct MmaTiles {
    static constexpr int THREADS = ATTENTION_MMA_THREADS, M = 2;
    static constexpr int QUERIES = ATTENTION_MMA_QUERIES, KEYS = ATTENTION_MMA_KEYS;
};

// Asks for the keys and values from `key` on of the `len` rows that begin at `start`.
template <class T, int D, class C>
__device__ __forceinline__ void load_keys(unsigned to, const Matrix &k, const Matrix &v, unsigned start, unsigned len,
                                          unsigned key, unsigned column) {
    unsigned to_v = to + Tile<D, C::KEYS>::BYTES, row = start + key, valid = len - key;
    load_tile<T, D, C::KEYS, C::THREADS>(to, row_of<T>(k, row) + column, k.stride, valid);
    load_tile<T, D, C::KEYS, C::THREADS>(to_v, row_of<T>(v, row) + column, v.stride, valid);
    cp_async_commit();
}

template <class T, int D, class C> __device__ __forceinline__ void attention(const AttentionParams &p) {
    extern __shared__ __align__(1024) unsigned char shared[];
    using Queries = Tile<D, C::QUERIES>;
    using Keys = Tile<D, C::KEYS>;
    constexpr int M = C::M, KEYS = C::KEYS, STAGES = ATTENTION_STAGES;
    BlockJob job(p.q_heads, p.n_seqs);
    Sequence seq(p.cu_seqlens, job.sequence, p.n);
    unsigned q0 = ((p.max_len + C::QUERIES - 1) / C::QUERIES - 1 - job.tile) * C::QUERIES; // the longest rows first
    if (q0 >= seq.len) return;
    Prefix prefix(p, job.sequence);
    unsigned prefix_blocks = (prefix.len + KEYS - 1) / KEYS;
    unsigned q_tile = shared_address(shared), kv_tiles = q_tile + Queries::BYTES;
    auto load_kv = [&](unsigned block) {
        unsigned to = kv_tiles + block % STAGES * (2 * Keys::BYTES), column = job.head / (p.q_heads / p.kv_heads) * D;
        if (block < prefix_blocks)
            load_keys<T, D, C>(to, p.prefix_k, p.prefix_v, prefix.start, prefix.len, block * KEYS, column);
        else
            load_keys<T, D, C>(to, p.k, p.v, seq.start, seq.len, (block - prefix_blocks) * KEYS, column);
    };
    load_tile<T, D, C::QUERIES, C::THREADS>(q_tile, row_of<T>(p.q, seq.start + q0) + job.head * D, p.q.stride,
                                            seq.len - q0);
    load_kv(0);

    unsigned warp_row = threadIdx.x / 32 * (16 * M), query = q0 + warp_row, last_query = query + 16 * M - 1;
    float o[M][D / 8][4] = {};
    Softmax<M> softmax;
    softmax.begin();
    unsigned blocks = prefix_blocks + (min(q0 + C::QUERIES, seq.len) + KEYS - 1) / KEYS;
    for (unsigned block = 0; block < blocks; block++) {
        begin_stage();
        if (block + 1 < blocks) load_kv(block + 1);
        bool own = block >= prefix_blocks;
        unsigned key = (own ? block - prefix_blocks : block) * KEYS;
        unsigned k_tile = kv_tiles + block % STAGES * (2 * Keys::BYTES);
        if (own && key > last_query) continue; // nothing to see for these rows, but the barriers are for all
        float s[M][KEYS / 8][4], shrink[M][2];
        unsigned weights[M][KEYS / 16][4];
        Mma::multiply<T, D, Queries, Keys>(s, q_tile, k_tile);
        if (own && key + KEYS - 1 > query) mask(s, query, key);
        if (!own && key + KEYS > prefix.len) mask_from(s, prefix.len - key);
        softmax.weigh(s, shrink, p.scale * LOG2_E);
        softmax.rescale(o, shrink);
        to_fragments<T>(weights, s);
        Mma::add<T, Keys>(o, weights, k_tile + Keys::BYTES);
    }

    float inverse[M][2];
    softmax.finish(inverse, p.lse + size_t(job.head) * p.n + seq.start, query, seq.len, p.scale);
    __syncthreads(); // the other warps have read the queries
    if (query >= seq.len) return;
    T *out = row_of<T>(p.out, seq.start + query) + job.head * D;
    store_rows<T, D, Queries>(out, p.out.stride, seq.len - query, o, inverse, shared, warp_row);
}
ATTENTION_MMA(attention, AttentionParams, MmaTiles)

// Any type and alignment, sums in f32: one warp for each query row. A lane has the score of one of 32 keys, then
// columns of the sums; tiles are padded by one element, so that 32 lanes that read a column of keys read 32 banks.
template <class T, int D> __device__ __forceinline__ void attention_simt(const AttentionParams &p) {
    constexpr int WARPS = ATTENTION_SIMT_WARPS, THREADS = 32 * WARPS, TILE = 32, PART = D / 32;
    __shared__ float ks[TILE][D + 1], vs[TILE][D + 1], qs[WARPS][D];
    BlockJob job(p.q_heads, p.n_seqs);
    Sequence seq(p.cu_seqlens, job.sequence, p.n);
    unsigned q0 = ((p.max_len + WARPS - 1) / WARPS - 1 - job.tile) * WARPS;
    if (q0 >= seq.len) return;
    Prefix prefix(p, job.sequence);
    unsigned prefix_tiles = (prefix.len + TILE - 1) / TILE;
    unsigned kv_head = job.head / (p.q_heads / p.kv_heads);
    const T *q = row_of<T>(p.q, seq.start) + job.head * D;
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned row = q0 + warp, last = min(q0 + WARPS, seq.len);
    for (int c = 0; c < PART; c++)
        qs[warp][lane + c * 32] = row < seq.len ? to_f32(q[size_t(row) * p.q.stride + lane + c * 32]) : 0.f;
    float top = -INFINITY, sum = 0, o[PART] = {};
    for (unsigned tile = 0; tile < prefix_tiles + (last + TILE - 1) / TILE; tile++) {
        bool own = tile >= prefix_tiles;
        unsigned key0 = (own ? tile - prefix_tiles : tile) * TILE, end = own ? last : prefix.len;
        unsigned visible = min(TILE, own ? int(row + 1 - min(key0, row + 1)) : int(end - key0));
        const T *k = (own ? row_of<T>(p.k, seq.start) : row_of<T>(p.prefix_k, prefix.start)) + kv_head * D;
        const T *v = (own ? row_of<T>(p.v, seq.start) : row_of<T>(p.prefix_v, prefix.start)) + kv_head * D;
        unsigned k_stride = own ? p.k.stride : p.prefix_k.stride, v_stride = own ? p.v.stride : p.prefix_v.stride;
        __syncthreads();
        for (unsigned i = threadIdx.x; i < TILE * D; i += THREADS) {
            unsigned key = key0 + i / D;
            ks[i / D][i % D] = key < end ? to_f32(k[size_t(key) * k_stride + i % D]) : 0.f;
            vs[i / D][i % D] = key < end ? to_f32(v[size_t(key) * v_stride + i % D]) : 0.f;
        }
        __syncthreads();
        float dot = 0;
#pragma unroll 8
        for (int d = 0; d < D; d++) dot += qs[warp][d] * ks[lane][d];
        float s = lane < visible ? dot * p.scale : -INFINITY;
        float new_top = fmaxf(top, warp_max(s));
        float base = new_top == -INFINITY ? 0.f : new_top;
        float shrink = expf(top - base), e = expf(s - base);
        top = new_top;
        sum = sum * shrink + warp_sum(e);
#pragma unroll
        for (int c = 0; c < PART; c++) o[c] *= shrink;
        for (unsigned j = 0; j < visible; j++) {
            float w = __shfl_sync(~0u, e, j);
#pragma unroll
            for (int c = 0; c < PART; c++) o[c] += w * vs[j][lane + c * 32];
        }
    }
    if (row >= seq.len) return;
    T *out = row_of<T>(p.out, seq.start + row) + job.head * D;
#pragma unroll
    for (int c = 0; c < PART; c++) out[lane + c * 32] = from_f32<T>(o[c] / sum);
    if (lane == 0) p.lse[size_t(job.head) * p.n + seq.start + row] = top + logf(sum);
}
ATTENTION_SIMT(attention_simt, AttentionParams)
