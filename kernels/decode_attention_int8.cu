// decode_attention over a cache of signed bytes with a scale for each key and each value: half of the bytes to read. What
// differs from decode_attention.cu: a warp takes 32 keys at a time, so that as many bytes are under way; the new token
// sees its own key and value as the cache will have them, from shared memory; operands are f16, of which bytes are whole
// numbers.
#include "decode_attention_sums.cuh"

// 2^-80: what smaller scales of values count as, so that all that is made of their logarithms fits f32.
constexpr float LEAST_SCALE = 0x1p-80f;
// Weights of values go up to 2^15, so that small ones lose nothing in f16.
constexpr float HEADROOM = 15;

// Where a job's keys and values lie. The new token's are not there yet; what is loaded in their place means nothing. Q:
// the type of queries.
template <class T, int D, class Q> struct Bytes {
    static constexpr unsigned TILE = DECODE_ATTENTION_INT8_TILE;
    // Lanes read 16 bytes each: those of two rows of q are in different banks.
    struct Shared : Findings<Q, D, D + 16 / sizeof(Q)> {
        alignas(16) int8_t k[D], v[D]; // of the new token
        float scales[2];

        __device__ __forceinline__ void take(NewToken<T, D> &token) {
            token.h.round();
            unsigned largest = token.h.largest(); // by all lanes of a warp
            if (token.head < HEADS) return token.h.store_row(this->q[token.head], token.at, true);
            Int8Scale by(largest);
            token.h.store_codes(token.is_value() ? v : k, token.at, by, true);
            scales[token.is_value()] = by.scale;
        }
    };
    const int8_t *k_cache, *v_cache;
    const float *k_scales, *v_scales;
    unsigned cached, last, newest, width;

    __device__ __forceinline__ Bytes(const DecodeAttentionParams &p, const Job &job) {
        width = p.kv_heads * D, cached = job.cached, last = job.len - 1, newest = max(cached, 1u) - 1;
        size_t head = size_t(job.b) * p.kv_heads + job.kv_head;
        size_t at = size_t(job.b) * p.capacity * width + job.kv_head * D;
        k_cache = static_cast<const int8_t *>(p.k_cache) + at, v_cache = static_cast<const int8_t *>(p.v_cache) + at;
        k_scales = p.k_scales + head * p.capacity, v_scales = p.v_scales + head * p.capacity;
    }
    // Rows that are not there are the last that is.
    __device__ __forceinline__ const int8_t *k(unsigned row) const { return k_cache + size_t(min(row, newest)) * width; }
    __device__ __forceinline__ const int8_t *v(unsigned row) const { return v_cache + size_t(min(row, newest)) * width; }

    __device__ __forceinline__ void load(float (&key)[VEC<T>], float (&value)[VEC<T>], unsigned row, unsigned column,
                                         const Shared &shared, bool packed) const {
        row = min(row, last);
        bool own = row >= cached;
        load_codes(key, (own ? shared.k : k(row)) + column, own ? shared.scales[0] : k_scales[row], packed);
        load_codes(value, (own ? shared.v : v(row)) + column, own ? shared.scales[1] : v_scales[row], packed);
    }
    // Key and value of the new token into the cache.
    __device__ __forceinline__ void append(const DecodeAttentionParams &p, const Job &job, const Shared &shared) const {
        size_t head = size_t(job.b) * p.kv_heads + job.kv_head;
        size_t row = (size_t(job.b) * p.capacity + job.cached) * p.kv_heads + job.kv_head;
        if (threadIdx.x < D) {
            static_cast<int8_t *>(p.k_cache)[row * D + threadIdx.x] = shared.k[threadIdx.x];
            static_cast<int8_t *>(p.v_cache)[row * D + threadIdx.x] = shared.v[threadIdx.x];
        }
        if (threadIdx.x == 0) {
            p.k_scales[head * p.capacity + job.cached] = shared.scales[0];
            p.v_scales[head * p.capacity + job.cached] = shared.scales[1];
        }
    }
};

// ------------------------------------------------------------------------------------- tiles by tensor cores

// Four signed bytes as f16: 1024 + (byte + 128) has the biased byte for its low bits.
__device__ __forceinline__ void to_f16(unsigned bytes, uint32_t &low, uint32_t &high) {
    const uint32_t bias = 0x64806480; // 1152, twice
    uint32_t biased = bytes ^ 0x80808080u;
    auto whole = [&](uint32_t pair) {
        __half2 v = __hsub2(reinterpret_cast<const __half2 &>(pair), reinterpret_cast<const __half2 &>(bias));
        return reinterpret_cast<uint32_t &>(v);
    };
    low = whole(__byte_perm(biased, 0x64646464, 0x4140));
    high = whole(__byte_perm(biased, 0x64646464, 0x4342));
}

__device__ __forceinline__ float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// An 8 x 8 matrix of 16-bit elements, of which a lane has row g, columns 2t and 2t + 1, with rows and columns exchanged.
__device__ __forceinline__ uint32_t transpose(uint32_t x) {
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// As Products of decode_attention.cu: bytes go from memory to operands, in whatever order of k and of columns that gives.
// Lane (g, t) has 16 columns at a time, from 16 t on of keys 8 j + g, and from 16 g on of values 2t and 2t + 1 of each 8.
// Scores are k qᵀ with keys as rows, so that no row is empty; of these a lane has heads 2t and 2t + 1, as it has of the
// result vᵀ pᵀ. p gets there transposed.
//
// A key's scale multiplies its scores. A value's is part of its weight: with l its logarithm to base 2, weights are
// 2^(score + l - top) for the values, and 2^(score - top) for their sum.
template <class T> struct ProductsInt8 {
    static constexpr int D = 128;
    using Cache = Bytes<T, D, f16>;
    using Shared = typename Cache::Shared;
    static constexpr unsigned TILE = Cache::TILE;
    static_assert(TILE == 32, "a lane for each key's scales");
    uint4 k[4][2], v[8];
    float k_scale, v_scale; // of key `lane`
    float o[8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};

    __device__ __forceinline__ explicit ProductsInt8(bool) {}
    // Scores are exponents of 2 already.
    __device__ static float merge_scale(float) { return 1; }

    // Of v[j].
    __device__ __forceinline__ static unsigned value(unsigned j) {
        return j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2;
    }
    __device__ __forceinline__ void load_k(const Cache &cache, unsigned tile) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int8_t *row = cache.k(tile * TILE + 8 * j + g) + 16 * t;
#pragma unroll
            for (int m = 0; m < 2; m++) k[j][m] = load_once(row + 64 * m);
        }
        k_scale = cache.k_scales[min(tile * TILE + threadIdx.x % 32, cache.newest)];
    }
    __device__ __forceinline__ void load_v(const Cache &cache, unsigned tile) {
        unsigned g = threadIdx.x % 32 / 4;
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = load_once(cache.v(tile * TILE + value(j)) + 16 * g);
        v_scale = cache.v_scales[min(tile * TILE + threadIdx.x % 32, cache.newest)];
    }
    // The new key and value in the place of what was loaded for them, and for those after them.
    __device__ __forceinline__ void take_own(const Cache &cache, unsigned tile, const Shared &shared) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, first = tile * TILE;
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int m = 0; m < 2; m++)
                if (first + 8 * j + g >= cache.cached)
                    k[j][m] = *reinterpret_cast<const uint4 *>(shared.k + 64 * m + 16 * t);
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (first + value(j) >= cache.cached) v[j] = *reinterpret_cast<const uint4 *>(shared.v + 16 * g);
        if (first + threadIdx.x % 32 >= cache.cached) k_scale = shared.scales[0], v_scale = shared.scales[1];
    }
    // s[i][c]: of key 16 i + 8 (c / 2) + g with head 2t + c % 2.
    __device__ __forceinline__ void scores(float (&s)[2][4], const Shared &shared, float scale) const {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint4 q = *reinterpret_cast<const uint4 *>(&shared.q[g][64 * m + 16 * t + 8 * half]);
#pragma unroll
                for (int w = 0; w < 2; w++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        uint32_t a[4];
                        to_f16(word(k[2 * i][m], 2 * half + w), a[0], a[2]);
                        to_f16(word(k[2 * i + 1][m], 2 * half + w), a[1], a[3]);
                        mma_m16n8k16<f16>(s[i], a, word(q, 2 * w), word(q, 2 * w + 1));
                    }
            }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float by = __shfl_sync(~0u, k_scale * scale, 8 * i + g);
            s[i / 2][i % 2 * 2] *= by, s[i / 2][i % 2 * 2 + 1] *= by;
        }
    }
    // Turns scores into weights of values, and makes sums and `o` relative to the new maximum. The first `keys` keys are
    // there.
    __device__ __forceinline__ void exponentials(float (&s)[2][4], unsigned keys) {
        unsigned g = threadIdx.x % 32 / 4;
        float own = log2_fast(v_scale < LEAST_SCALE ? LEAST_SCALE : v_scale), l[4], old[2] = {top[0], top[1]};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            l[i] = __shfl_sync(~0u, own, 8 * i + g);
            bool here = 8 * i + g < keys;
#pragma unroll
            for (int odd = 0; odd < 2; odd++) {
                float &score = s[i / 2][i % 2 * 2 + odd];
                if (!here) score = -INFINITY, l[i] = 0;
                top[odd] = fmaxf(top[odd], score + l[i] - HEADROOM);
            }
        }
        bool grew = false;
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
#pragma unroll
            for (unsigned distance = 4; distance < 32; distance *= 2)
                top[odd] = fmaxf(top[odd], __shfl_xor_sync(~0u, top[odd], distance));
            grew = grew || (old[odd] < top[odd] && old[odd] > -INFINITY);
            float shrink = weight(old[odd], top[odd], 1);
            sum[odd] *= shrink, old[odd] = shrink;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float &score = s[i / 2][i % 2 * 2 + odd];
                sum[odd] += weight(score, top[odd], 1);
                score = weight(score + l[i], top[odd], 1);
            }
        }
        if (!__any_sync(~0u, grew)) return;
#pragma unroll
        for (auto &part : o) part[0] *= old[0], part[1] *= old[1], part[2] *= old[0], part[3] *= old[1];
    }
    // Adds the values with weights s.
    __device__ __forceinline__ void add_values(const float (&s)[2][4]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t p[2];
#pragma unroll
            for (int j = 0; j < 2; j++) p[j] = transpose(pack2<f16>(s[i][2 * j], s[i][2 * j + 1]));
#pragma unroll
            for (int n = 0; n < 8; n++) {
                unsigned pick = n % 2 ? 0x7362 : 0x5140; // two columns of two values
                uint32_t a[4];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const uint4 &even = v[4 * i + 2 * j], &odd = v[4 * i + 2 * j + 1];
                    to_f16(__byte_perm(word(even, n / 2), word(odd, n / 2), pick), a[2 * j], a[2 * j + 1]);
                }
                mma_m16n8k16<f16>(o[n], a, p[0], p[1]);
            }
        }
    }
    __device__ __forceinline__ void start(const Cache &cache, unsigned tile, unsigned end) {
        if (tile >= end) return;
        load_k(cache, tile);
        load_v(cache, tile);
    }
    // All tiles of the warp, the first of which was loaded. What a product no longer needs is loaded again at once.
    __device__ __forceinline__ void run(const Cache &cache, const Shared &shared, unsigned tile, unsigned end,
                                        unsigned step, unsigned, float scale) {
#pragma unroll 1
        for (; tile < end; tile += step) {
            float s[2][4] = {};
            if ((tile + 1) * TILE > cache.cached) take_own(cache, tile, shared);
            scores(s, shared, scale);
            if (tile + step < end) load_k(cache, tile + step);
            exponentials(s, cache.last + 1 - tile * TILE);
            add_values(s);
            if (tile + step < end) load_v(cache, tile + step);
        }
    }
    __device__ __forceinline__ void store(Shared &shared, unsigned heads, float) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32;
#pragma unroll
        for (unsigned odd = 0; odd < 2; odd++) {
#pragma unroll
            for (unsigned distance = 4; distance < 32; distance *= 2)
                sum[odd] += __shfl_xor_sync(~0u, sum[odd], distance);
            if (g == 0) pair_at(&shared.found[warp][2 * t + odd][D]) = make_float2(top[odd], sum[odd]);
            if (2 * t + odd >= heads) continue;
#pragma unroll
            for (int n = 0; n < 8; n += 2) {
                float *to = &shared.found[warp][2 * t + odd][16 * g + 2 * n];
                *reinterpret_cast<float4 *>(to) =
                    make_float4(o[n][odd], o[n][2 + odd], o[n + 1][odd], o[n + 1][2 + odd]);
            }
        }
    }
};

#define MMA(T)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        decode_attention_int8_mma_d128_##T(const __grid_constant__ DecodeAttentionParams p) {                          \
        decode_attention<ProductsInt8<T>, Bytes<T, 128, f16>, T, 128>(p, true);                                        \
    }
#define SIMT(D, T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        decode_attention_int8_simt_d##D##_##T(const __grid_constant__ DecodeAttentionParams p) {                       \
        decode_attention<Sums<T, D>, Bytes<T, D, T>, T, D>(p, p.packed);                                               \
    }
#define SIMT_ALL(T) SIMT(32, T) SIMT(64, T) SIMT(128, T)
MMA(bf16)
MMA(f16)
SIMT_ALL(bf16)
SIMT_ALL(f16)
SIMT_ALL(f32)
