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
// Every CTA normalises and rotates the query heads for itself, and rounds them as QkNormRope does. Nobody reads the row
// of the new token from the cache: its value is taken from qkv, its key from shared memory. One CTA writes both.
#include "decode_attention.cuh"

// ------------------------------------------------------------------------------------- tiles by tensor cores

// 16 bytes of what is read once.
__device__ __forceinline__ uint4 load_once(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(p)));
    return v;
}
__device__ __forceinline__ unsigned word(const uint4 &v, int i) { return reinterpret_cast<const unsigned *>(&v)[i]; }

// Keys and values go from memory straight into operands: the order of k in a product is free as long as both operands
// agree, and so are the columns of the result. Lane (g, t) has 8 columns at a time, from 8 t on of keys g and g + 8, and
// from 8 g on of values 2t, 2t + 1, 2t + 8 and 2t + 9. Scores are q kᵀ with heads as rows, of which 8 are empty; the
// result is vᵀ pᵀ with heads as columns, so that a lane's scores are its part of p. What rounding p to T leaves is
// multiplied too, so that sums are as good as with p in f32.
template <class T, int D> struct Products {
    static constexpr int RUNS = D / 32, CHUNKS = D / 64;
    uint4 k[2][RUNS], v[2][2][CHUNKS];
    float o[4 * CHUNKS][4] = {}, top = -INFINITY, sum = 0;

    __device__ __forceinline__ explicit Products(bool) {}
    __device__ __forceinline__ void load_k(const Rows<T, D> &rows, unsigned tile) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const T *row = rows.k(tile * TILE + 8 * j + g) + 8 * t;
#pragma unroll
            for (int m = 0; m < RUNS; m++) k[j][m] = load_once(row + 32 * m);
        }
    }
    __device__ __forceinline__ void load_v(const Rows<T, D> &rows, unsigned tile) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const T *row = rows.v(tile * TILE + j / 2 * 8 + 2 * t + j % 2) + 8 * g;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) v[j / 2][j % 2][c] = load_once(row + 64 * c);
        }
    }
    // The new key in the place of what was loaded for it, and for keys after it.
    __device__ __forceinline__ void take_own_key(const Rows<T, D> &rows, unsigned tile, const T *own) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int m = 0; m < RUNS; m++)
                if (tile * TILE + 8 * j + g >= rows.cached)
                    k[j][m] = *reinterpret_cast<const uint4 *>(own + 32 * m + 8 * t);
    }
    // s[j]: of head g with keys 8 j + 2t and 8 j + 2t + 1.
    __device__ __forceinline__ void scores(float (&s)[2][4], const T (&q)[HEADS][Shared<T, D>::PITCH]) const {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < RUNS; m++) {
            uint4 qs = *reinterpret_cast<const uint4 *>(&q[g][32 * m + 8 * t]);
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
    __device__ __forceinline__ void run(const Rows<T, D> &rows, const Shared<T, D> &shared, unsigned tile, unsigned end,
                                        unsigned step, unsigned, float scale) {
#pragma unroll 1
        for (; tile < end; tile += step) {
            float s[2][4] = {};
            if ((tile + 1) * TILE > rows.cached) take_own_key(rows, tile, shared.k);
            scores(s, shared.q);
            if (tile + step < end) load_k(rows, tile + step);
            exponentials(s, rows.last + 1 - tile * TILE, scale);
            add_values(s);
            if (tile + step < end) load_v(rows, tile + step);
        }
    }
    __device__ __forceinline__ void store(Shared<T, D> &shared, unsigned heads, float) {
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

// ------------------------------------------------------------------------------------- tiles by FMA

// D / VEC lanes share a row; these lane groups take the rows of a tile in turn, U at a time.
template <class T, int D> struct Sums {
    static constexpr unsigned LANES = D / VEC<T>, GROUPS = 32 / LANES, U = 2;
    float o[HEADS][VEC<T>] = {}, top[HEADS], sum[HEADS] = {};
    bool packed;

    __device__ __forceinline__ explicit Sums(bool packed) : packed(packed) {
#pragma unroll
        for (float &t : top) t = -INFINITY;
    }
    __device__ __forceinline__ void start(const Rows<T, D> &, unsigned, unsigned) {}
    __device__ __forceinline__ void run(const Rows<T, D> &rows, const Shared<T, D> &shared, unsigned tile, unsigned end,
                                        unsigned step, unsigned heads, float scale) {
        unsigned column = threadIdx.x % LANES * VEC<T>, lane_group = threadIdx.x % 32 / LANES;
        float qs[HEADS][VEC<T>];
#pragma unroll
        for (unsigned g = 0; g < HEADS; g++) load(qs[g], &shared.q[g][column], true);
#pragma unroll 1
        for (; tile < end; tile += step)
#pragma unroll 1
            for (unsigned row = lane_group; row < TILE; row += GROUPS * U) {
                float k[U][VEC<T>], v[U][VEC<T>];
                bool here[U];
#pragma unroll
                for (unsigned u = 0; u < U; u++) {
                    unsigned key = tile * TILE + row + u * GROUPS;
                    here[u] = key <= rows.last;
                    load(k[u], (min(key, rows.last) < rows.cached ? rows.k(key) : shared.k) + column, packed);
                    load(v[u], rows.v(key) + column, packed);
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
    __device__ __forceinline__ void store(Shared<T, D> &shared, unsigned heads, float scale) {
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

// `packed`: everything that is read moves 16 bytes at a time.
template <class Warp, class T, int D>
__device__ __forceinline__ void decode_attention(const DecodeAttentionParams &p, bool packed) {
    __shared__ Shared<T, D> shared;
    float scale = p.scale * LOG2_E;
    Job job(p);
    NewToken<T, D> token(p, packed);
    begin_kernel();
    unsigned position = p.positions[job.b];
    token.load(p, job);
    job.place(p, position);
    if (job.split >= job.active) return;
    Rows<T, D> rows(p, job);
    Warp warp(packed);
    // All splits walk over the keys together, so that what is read at a time lies together.
    unsigned tile = job.split * WARPS + threadIdx.x / 32, step = job.active * WARPS;
    warp.start(rows, tile, job.tiles);
    token.store(p, position, shared);
    __syncthreads(); // queries and key are there
    if (job.stores) append<T, D>(p, job, rows, shared.k);
    warp.run(rows, shared, tile, job.tiles, step, job.heads, scale);
    warp.store(shared, job.heads, scale);
    __syncthreads(); // all warps' findings are there
    finish(p, job, shared, scale);
}

#define MMA(D, T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        decode_attention_mma_d##D##_##T(const __grid_constant__ DecodeAttentionParams p) {                             \
        decode_attention<Products<T, D>, T, D>(p, true);                                                               \
    }
#define SIMT(D, T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        decode_attention_simt_d##D##_##T(const __grid_constant__ DecodeAttentionParams p) {                            \
        decode_attention<Sums<T, D>, T, D>(p, p.packed);                                                               \
    }
#define SIMT_ALL(T) SIMT(32, T) SIMT(64, T) SIMT(128, T)
MMA(64, bf16)
MMA(64, f16)
MMA(128, bf16)
MMA(128, f16)
SIMT_ALL(bf16)
SIMT_ALL(f16)
SIMT_ALL(f32)
