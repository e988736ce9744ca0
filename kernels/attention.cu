// Causal attention of packed sequences (FlashAttention-2: Dao, 2023): one CTA for 128 query rows of one head.
//
// A warp owns whole query rows (32 with mma.sync, 16 with wgmma): their scores, weights and sums of values stay in its
// registers, so that maxima and sums of a row take two shuffles among four lanes, and no warp waits for another but at
// the tile barriers. The weights of one tile are, element by element, already where the second product wants its left
// operand; they never go to shared memory.
//
// Queries are loaded once. Keys and values pass in two stages by cp.async: a stage is asked for before the other is
// worked on, so that a tile's memory latency hides behind the two products of the tile before.
//
// Tiles of a prefix come before those of the sequence: a tile has rows of one of them.
//
// Registers set the tiles. At D = 128 a thread of the mma.sync form has 128 f32 of `o` and 64 of scores (keys 64), so
// two CTAs of 128 threads fill the registers; of the wgmma form 64 and 64 (keys 128), in one CTA of 256 threads that
// may have 255 registers each. Shared memory at D = 128: 96 and 160 KiB. The bound is the tensor cores' rate.
#include "attention.cuh"
#include "reduce.cuh"

// One CTA: four warps of 32 rows, or two warpgroups of 64.
struct MmaTiles {
    using Engine = Mma;
    static constexpr int THREADS = ATTENTION_MMA_THREADS, M = 2;
    static constexpr int QUERIES = ATTENTION_MMA_QUERIES, KEYS = ATTENTION_MMA_KEYS;
};
struct WgmmaTiles {
    using Engine = Wgmma;
    static constexpr int THREADS = ATTENTION_WGMMA_THREADS, M = 1;
    static constexpr int QUERIES = ATTENTION_WGMMA_QUERIES, KEYS = ATTENTION_WGMMA_KEYS;
};

// The running softmax of a warp's rows; a lane holds the rows l / 4 + 8 h + 16 m and its share of their sums.
template <int M> struct Softmax {
    float max[M][2], sum[M][2];

    __device__ __forceinline__ void begin() {
#pragma unroll
        for (int m = 0; m < M; m++) max[m][0] = max[m][1] = -INFINITY, sum[m][0] = sum[m][1] = 0;
    }

    // Scores to exponentials (base 2, of `scale` times the score); rescales what `o` holds so far.
    template <int KEYS, int D>
    __device__ __forceinline__ void update(float (&s)[M][KEYS][4], float (&o)[M][D][4], float scale) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float top = max[m][h];
#pragma unroll
                for (int n = 0; n < KEYS; n++) top = fmaxf(top, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
                // Of a row without a finite score every exponential is 0.
                float base = top == -INFINITY ? 0.f : top * scale;
                float shrink = exp2_fast(max[m][h] * scale - base);
                max[m][h] = top;
                float total = 0;
#pragma unroll
                for (int n = 0; n < KEYS; n++)
#pragma unroll
                    for (int i = 2 * h; i < 2 * h + 2; i++) {
                        s[m][n][i] = exp2_fast(s[m][n][i] * scale - base);
                        total += s[m][n][i];
                    }
                sum[m][h] = sum[m][h] * shrink + total;
#pragma unroll
                for (int n = 0; n < D; n++) {
                    o[m][n][2 * h] *= shrink;
                    o[m][n][2 * h + 1] *= shrink;
                }
            }
    }

    // Adds each row's sum up over the four lanes that have a share of it; stores the logarithm for rows below `len`, of
    // which this warp's first is `query`, and gives back what to multiply the rows by.
    __device__ __forceinline__ void finish(float (&inverse)[M][2], float *lse, unsigned query, unsigned len,
                                           float scale) {
        unsigned lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float total = sum[m][h];
                total += __shfl_xor_sync(~0u, total, 1);
                total += __shfl_xor_sync(~0u, total, 2);
                inverse[m][h] = 1.f / total;
                unsigned row = query + m * 16 + h * 8 + lane / 4;
                if (lane % 4 == 0 && row < len) lse[row] = max[m][h] * scale + logf(total);
            }
    }
};

// Hides the keys after each query; `query` and `key` are those of element [0][0] of the warp.
template <int M, int KEYS>
__device__ __forceinline__ void mask(float (&s)[M][KEYS][4], unsigned query, unsigned key) {
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < KEYS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (key + n * 8 + lane % 4 * 2 + i % 2 > query + m * 16 + i / 2 * 8 + lane / 4) s[m][n][i] = -INFINITY;
}

// Hides the keys from `valid` on; `valid` counts from the first of the tile.
template <int M, int KEYS> __device__ __forceinline__ void mask_from(float (&s)[M][KEYS][4], unsigned valid) {
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < KEYS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (n * 8 + lane % 4 * 2 + i % 2 >= valid) s[m][n][i] = -INFINITY;
}

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
    using E = typename C::Engine;
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

    unsigned warp_row = threadIdx.x / 32 * (16 * M), lane = threadIdx.x % 32, query = q0 + warp_row;
    unsigned last_query = q0 + (threadIdx.x / E::TOGETHER + 1) * E::template GROUP<M> - 1;
    float o[M][D / 8][4] = {};
    Softmax<M> softmax;
    softmax.begin();
    unsigned blocks = prefix_blocks + (min(q0 + C::QUERIES, seq.len) + KEYS - 1) / KEYS;
    for (unsigned block = 0; block < blocks; block++) {
        begin_stage<E>();
        if (block + 1 < blocks) load_kv(block + 1);
        bool own = block >= prefix_blocks;
        unsigned key = (own ? block - prefix_blocks : block) * KEYS;
        unsigned k_tile = kv_tiles + block % STAGES * (2 * Keys::BYTES);
        if (own && key > last_query) continue; // nothing to see for these rows, but the barriers are for all
        float s[M][KEYS / 8][4];
        unsigned weights[M][KEYS / 16][4];
        E::begin();
        E::template multiply<T, D, Queries, Keys>(s, q_tile, k_tile);
        E::commit();
        E::template wait<0>(s);
        if (own && key + KEYS - 1 > query) mask(s, query, key);
        if (!own && key + KEYS > prefix.len) mask_from(s, prefix.len - key);
        softmax.update(s, o, p.scale * LOG2_E);
        to_fragments<T>(weights, s);
        E::begin();
        E::template add<T, Keys>(o, weights, k_tile + Keys::BYTES);
        E::commit();
        E::template wait<0>(o);
    }

    float inverse[M][2];
    softmax.finish(inverse, p.lse + size_t(job.head) * p.n + seq.start, query, seq.len, p.scale);
    __syncthreads(); // the other warps have read the queries
    if (query >= seq.len) return;
    T *out = row_of<T>(p.out, seq.start + query) + job.head * D;
    store_rows<T, D, Queries>(out, p.out.stride, seq.len - query, o, inverse, shared, warp_row);
}
ATTENTION_MMA(attention, AttentionParams, MmaTiles)
ATTENTION_WGMMA(attention, AttentionParams, WgmmaTiles)

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
