// One new token of each sequence: norm and rotation of its heads, its key and value into the cache, and its attention
// over what the cache has and itself. A CTA has up to 8 query heads that share a key head, so that keys and values are
// read once. Keys come in tiles of 16. The warps of a CTA take one each; where a sequence has more tiles than warps,
// more CTAs (splits) do, and all walk over the keys together. Each warp keeps maximum, sum of exponentials and weighted
// sum of values of all heads; these are merged over the warps of a CTA, then over the splits by the last of them to
// finish, in an order that does not depend on which that is.
//
// A warp has one of two ways with a tile: `Products`, by the tensor cores, and `Sums`, for any type and alignment. The
// bound is the memory, and where the cache is short, latency.
//
// What is settled before the kernel before this one began, the first tile among it, is loaded while that one runs.
//
// Every CTA normalises and rotates the query heads for itself, and rounds them as QkNormRope does. Nobody reads the row
// of the new token from the cache: its key and value are taken from shared memory. One CTA writes both.
#include "decode_attention_sums.cuh"

// Where a job's keys and values lie. The new token's are not there yet.
template <class T, int D> struct Rows {
    static constexpr unsigned TILE = DECODE_ATTENTION_TILE;
    // Rows of q begin 64 bytes apart modulo 128: eight lanes read the same columns of two rows at once.
    struct Shared : Findings<T, D, D + 64 / sizeof(T)> {
        alignas(16) T k[D], v[D]; // of the new token

        __device__ __forceinline__ void take(const NewToken<T, D> &token) {
            T *to = token.is_value() ? v : token.is_key() ? k : this->q[token.head];
            token.h.store_row(to, token.at, true);
        }
    };
    const T *k_cache, *v_cache;
    // Rows: the new token's, or none's where there is no room for it; the last of all; the last in the cache.
    unsigned own, last, newest, width;

    __device__ __forceinline__ Rows(const DecodeAttentionParams &p, const Job &job) {
        width = p.kv_heads * D, last = job.len - 1, newest = max(job.cached, 1u) - 1;
        own = job.len > job.cached ? job.cached : ~0u;
        size_t at = size_t(job.b) * p.capacity * width + job.kv_head * D;
        k_cache = static_cast<const T *>(p.k_cache) + at, v_cache = static_cast<const T *>(p.v_cache) + at;
    }
    // Rows that are not there are the last that is.
    __device__ __forceinline__ const T *k(unsigned row) const { return k_cache + size_t(min(row, newest)) * width; }
    __device__ __forceinline__ const T *v(unsigned row) const { return v_cache + size_t(min(row, newest)) * width; }
    __device__ __forceinline__ void load(float (&key)[VEC<T>], float (&value)[VEC<T>], unsigned row, unsigned column,
                                         const Shared &shared, bool packed) const {
        bool new_one = min(row, last) >= own;
        ::load(key, (new_one ? shared.k : k(row)) + column, packed);
        ::load(value, (new_one ? shared.v : v(row)) + column, packed);
    }
    // Key and value of the new token into the cache.
    __device__ __forceinline__ void append(const DecodeAttentionParams &p, const Job &job, const Shared &shared) const {
        size_t at = ((size_t(job.b) * p.capacity + job.cached) * p.kv_heads + job.kv_head) * D;
        if (threadIdx.x >= D) return;
        static_cast<T *>(p.k_cache)[at + threadIdx.x] = shared.k[threadIdx.x];
        static_cast<T *>(p.v_cache)[at + threadIdx.x] = shared.v[threadIdx.x];
    }
};

// ------------------------------------------------------------------------------------- tiles by tensor cores

// Keys and values go from memory straight into operands: the order of k in a product is free as long as both operands
// agree, and so are the columns of the result. Lane (g, t) has 8 columns at a time, from 8 t on of keys g and g + 8, and
// from 8 g on of values 2t, 2t + 1, 2t + 8 and 2t + 9. Scores are q kᵀ with heads as rows, of which 8 are empty; the
// result is vᵀ pᵀ with heads as columns, so that a lane's scores are its part of p. What rounding p to T leaves is
// multiplied too, so that sums are as good as with p in f32.
template <class T, int D> struct Products {
    static constexpr int RUNS = D / 32, CHUNKS = D / 64;
    uint4 k[2][RUNS], v[2][2][CHUNKS];
    float o[4 * CHUNKS][4] = {}, top = -INFINITY, sum = 0;

    static constexpr unsigned TILE = Rows<T, D>::TILE;
    using Shared = typename Rows<T, D>::Shared;

    __device__ __forceinline__ explicit Products(bool) {}
    __device__ static float merge_scale(float scale) { return scale; }
    __device__ __forceinline__ void load_k(const Rows<T, D> &rows, unsigned tile) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const T *row = rows.k(tile * TILE + 8 * j + g) + 8 * t;
#pragma unroll
            for (int m = 0; m < RUNS; m++) k[j][m] = load_once(row + 32 * m);
        }
    }
    // Of v[j / 2][j % 2].
    __device__ __forceinline__ static unsigned value(unsigned j) { return j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2; }
    __device__ __forceinline__ void load_v(const Rows<T, D> &rows, unsigned tile) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const T *row = rows.v(tile * TILE + value(j)) + threadIdx.x % 32 / 4 * 8;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) v[j / 2][j % 2][c] = load_once(row + 64 * c);
        }
    }
    // The new key and value in the place of what was loaded for them, and for those after them.
    __device__ __forceinline__ void take_own(const Rows<T, D> &rows, unsigned tile, const Shared &shared) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int m = 0; m < RUNS; m++)
                if (tile * TILE + 8 * j + g >= rows.own)
                    k[j][m] = *reinterpret_cast<const uint4 *>(shared.k + 32 * m + 8 * t);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int c = 0; c < CHUNKS; c++)
                if (tile * TILE + value(j) >= rows.own)
                    v[j / 2][j % 2][c] = *reinterpret_cast<const uint4 *>(shared.v + 64 * c + 8 * g);
    }
    // s[j]: of head g with keys 8 j + 2t and 8 j + 2t + 1.
    __device__ __forceinline__ void scores(float (&s)[2][4], const Shared &shared) const {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < RUNS; m++) {
            uint4 qs = *reinterpret_cast<const uint4 *>(&shared.q[g][32 * m + 8 * t]);
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
                uint32_t a[4] = {word(qs, half), 0, word(qs, half + 1), 0};
#pragma unroll
                for (int j = 0; j < 2; j++)
                    mma_m16n8k16<T>(s[j], a, word(k[j][m], half), word(k[j][m], half + 1));
            }
        }
    }
    // Turns scores into weights, and makes sums and `o` relative to the new maximum.
    __device__ __forceinline__ void exponentials(float (&s)[2][4], unsigned keys, float scale) {
        unsigned t = threadIdx.x % 4;
        float old = top;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float &score = s[i / 2][i % 2];
            if (i / 2 * 8 + 2 * t + i % 2 >= keys) score = -INFINITY;
            top = fmaxf(top, score);
        }
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        float shrink = weight(old, top, scale);
        sum *= shrink;
#pragma unroll
        for (int i = 0; i < 4; i++) sum += s[i / 2][i % 2] = weight(s[i / 2][i % 2], top, scale);
        if (!__any_sync(~0u, old < top && old > -INFINITY)) return;
        float even = __shfl_sync(~0u, shrink, 8 * t), odd = __shfl_sync(~0u, shrink, 8 * t + 4); // of heads 2t, 2t + 1
#pragma unroll
        for (auto &part : o) part[0] *= even, part[1] *= odd, part[2] *= even, part[3] *= odd;
    }
    // Adds the values with weights s.
    __device__ __forceinline__ void add_values(const float (&s)[2][4]) {
        uint32_t p[2], rest[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float low = to_f32(from_f32<T>(s[j][0])), high = to_f32(from_f32<T>(s[j][1]));
            p[j] = pack2<T>(low, high), rest[j] = pack2<T>(s[j][0] - low, s[j][1] - high);
        }
#pragma unroll
        for (int i = 0; i < 4 * CHUNKS; i++) {
            unsigned w[4];
#pragma unroll
            for (int j = 0; j < 4; j++) w[j] = word(v[j / 2][j % 2][i / 4], i % 4);
            uint32_t a[4] = {__byte_perm(w[0], w[1], 0x5410), __byte_perm(w[0], w[1], 0x7632),
                             __byte_perm(w[2], w[3], 0x5410), __byte_perm(w[2], w[3], 0x7632)};
            mma_m16n8k16<T>(o[i], a, p[0], p[1]);
            mma_m16n8k16<T>(o[i], a, rest[0], rest[1]);
        }
    }
    __device__ __forceinline__ void start(const Rows<T, D> &rows, unsigned tile, unsigned end) {
        if (tile >= end) return;
        load_k(rows, tile);
        load_v(rows, tile);
    }
    // All tiles of the warp, the first of which was loaded. What a product no longer needs is loaded again at once.
    __device__ __forceinline__ void run(const Rows<T, D> &rows, const Shared &shared, unsigned tile, unsigned end,
                                        unsigned step, unsigned, float scale) {
#pragma unroll 1
        for (; tile < end; tile += step) {
            float s[2][4] = {};
            if ((tile + 1) * TILE > rows.own) take_own(rows, tile, shared);
            scores(s, shared);
            if (tile + step < end) load_k(rows, tile + step);
            exponentials(s, rows.last + 1 - tile * TILE, scale);
            add_values(s);
            if (tile + step < end) load_v(rows, tile + step);
        }
    }
    __device__ __forceinline__ void store(Shared &shared, unsigned heads, float) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32;
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (t == 0) pair_at(&shared.found[warp][g][D]) = make_float2(top, sum);
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            if (2 * t + odd >= heads) continue;
#pragma unroll
            for (int i = 0; i < 4 * CHUNKS; i += 2) {
                float *to = &shared.found[warp][2 * t + odd][i / 4 * 64 + 8 * g + i % 4 * 2];
                *reinterpret_cast<float4 *>(to) =
                    make_float4(o[i][odd], o[i][2 + odd], o[i + 1][odd], o[i + 1][2 + odd]);
            }
        }
    }
};

#define MMA(D, T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        decode_attention_mma_d##D##_##T(const __grid_constant__ DecodeAttentionParams p) {                             \
        decode_attention<Products<T, D>, Rows<T, D>, T, D>(p, true);                                                               \
    }
#define SIMT(D, T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        decode_attention_simt_d##D##_##T(const __grid_constant__ DecodeAttentionParams p) {                            \
        decode_attention<Sums<T, D>, Rows<T, D>, T, D>(p, p.packed);                                                               \
    }
#define SIMT_ALL(T) SIMT(32, T) SIMT(64, T) SIMT(128, T)
MMA(64, bf16)
MMA(64, f16)
MMA(128, bf16)
MMA(128, f16)
SIMT_ALL(bf16)
SIMT_ALL(f16)
SIMT_ALL(f32)
