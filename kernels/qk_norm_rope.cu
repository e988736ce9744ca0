// RMSNorm of every query and key head, then rotation by position, and the gradient of both. A group of D / 2 / VEC
// lanes takes HEADS heads of one token; a lane holds one pack of the first half of a head and the pack that it is
// rotated with. So a rotation needs no other lane, the sum of squares log2(LANES) shuffles, and cosine and sine are
// loaded once for HEADS heads. The forward pass loads all heads before the first is used. The bound is the memory. No
// shared memory, no barrier.
#include "params.h"
#include "types.cuh"

constexpr int THREADS = QK_NORM_ROPE_THREADS, HEADS = QK_NORM_ROPE_HEADS;

// N elements of S as f32.
template <class S, int N> __device__ __forceinline__ void load(float (&out)[N], const S *p, bool packed) {
    if (packed) {
#pragma unroll
        for (int i = 0; i < N; i += VEC<S>) {
            Pack<S> pack = load_pack(p + i);
#pragma unroll
            for (int j = 0; j < VEC<S>; j++) out[i + j] = to_f32(pack.v[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = to_f32(p[i]);
    }
}
template <class T> __device__ __forceinline__ void store(T *p, const float (&v)[VEC<T>], bool packed) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < VEC<T>; i++) pack.v[i] = from_f32<T>(v[i]);
    if (packed) return store_pack(p, pack);
#pragma unroll
    for (int i = 0; i < VEC<T>; i++) p[i] = pack.v[i];
}

// A lane's columns of a row of D elements: `low` and `low` + D / 2, VEC each. In f32.
template <class T, int D> struct Half {
    float low[VEC<T>], high[VEC<T>];

    template <class S> __device__ __forceinline__ void load_row(const S *row, unsigned at, bool packed) {
        load(low, row + at, packed);
        load(high, row + at + D / 2, packed);
    }
    __device__ __forceinline__ void store_row(T *row, unsigned at, bool packed) const {
        store(row + at, low, packed);
        store(row + at + D / 2, high, packed);
    }
    // Sum of the products with `other` over the whole head.
    __device__ __forceinline__ float dot(const Half &other) const {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < VEC<T>; i++) sum += low[i] * other.low[i] + high[i] * other.high[i];
#pragma unroll
        for (int o = D / 2 / VEC<T> / 2; o > 0; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        return sum;
    }
};

// Up to HEADS heads of one token: all queries, all keys, or, where `values` are wanted too, all values. A job past the
// last one is the last one again, so that whole warps stay together; it stores the same values.
template <class T, int D> struct Job {
    static constexpr unsigned LANES = D / 2 / VEC<T>;
    unsigned token, first, count, at;
    bool keys, values;

    __device__ __forceinline__ Job(unsigned n, unsigned q_heads, unsigned kv_heads, bool with_values) {
        unsigned q_jobs = (q_heads + HEADS - 1) / HEADS, kv_jobs = (kv_heads + HEADS - 1) / HEADS;
        unsigned jobs = q_jobs + (with_values ? 2 : 1) * kv_jobs;
        size_t index = (size_t(blockIdx.x) * THREADS + threadIdx.x) / LANES;
        index = min(index, size_t(n) * jobs - 1);
        token = index / jobs;
        unsigned job = index % jobs;
        values = job >= q_jobs + kv_jobs;
        keys = job >= q_jobs && !values;
        first = (values ? job - q_jobs - kv_jobs : keys ? job - q_jobs : job) * HEADS;
        count = min((keys || values ? kv_heads : q_heads) - first, HEADS + 0u);
        at = threadIdx.x % LANES * VEC<T>;
    }
};

// The weight of a job's heads, and the rotation of its token.
template <class T, int D> struct Factors {
    Half<T, D> weight;
    float cos[VEC<T>], sin[VEC<T>];

    template <class P> __device__ __forceinline__ Factors(const P &p, const Job<T, D> &job) {
        const float *w = job.keys ? p.k_weight : p.q_weight;
        size_t at = size_t(min(p.positions[job.token], p.max_positions - 1)) * (D / 2) + job.at;
        weight.load_row(w, job.at, aligned16(w, 0));
        load(cos, p.cos + at, aligned16(p.cos, 0));
        load(sin, p.sin + at, aligned16(p.sin, 0));
    }
};

// Where a job's heads go in a cache, or null.
template <class T, int D>
__device__ __forceinline__ T *cache_row(const QkNormRopeParams &p, const Job<T, D> &job) {
    if (!p.seqs || !(job.keys || job.values)) return nullptr;
    unsigned seq = p.seqs[job.token], position = p.positions[job.token];
    if (seq >= p.n_seqs || position >= p.capacity) return nullptr;
    size_t row = size_t(seq) * p.capacity + position;
    return static_cast<T *>(job.keys ? p.k_cache : p.v_cache) + (row * p.kv_heads + job.first) * D;
}

template <class T, int D> __device__ __forceinline__ void qk_norm_rope(const QkNormRopeParams &p) {
    Job<T, D> job(p.n, p.q_heads, p.kv_heads, p.seqs);
    unsigned before = job.values ? p.q_heads + p.kv_heads : job.keys ? p.q_heads : 0;
    const T *x = row_of<T>(p.qkv, job.token) + (before + job.first) * D;
    T *out = job.values ? nullptr : row_of<T>(job.keys ? p.k : p.q, job.token) + job.first * D;
    T *cached = cache_row<T, D>(p, job);
    bool packed = aligned16(x, 0) && aligned16(out, 0) && aligned16(cached, 0);
    Half<T, D> h[HEADS];
#pragma unroll
    for (int i = 0; i < HEADS; i++) h[i].load_row(x + min(i + 0u, job.count - 1) * D, job.at, packed);
    Factors<T, D> f(p, job);
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        float scale = 1.f / sqrtf(h[i].dot(h[i]) / D + p.eps); // by all lanes of a warp, whatever their jobs
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) {
            if (job.values) break;
            float low = h[i].low[j] * scale * f.weight.low[j], high = h[i].high[j] * scale * f.weight.high[j];
            h[i].low[j] = low * f.cos[j] - high * f.sin[j];
            h[i].high[j] = high * f.cos[j] + low * f.sin[j];
        }
        if (i >= job.count) continue;
        if (out) h[i].store_row(out + i * D, job.at, packed);
        if (cached) h[i].store_row(cached + i * D, job.at, packed);
    }
}

template <class T, int D> __device__ __forceinline__ void qk_norm_rope_grad(const QkNormRopeGradParams &p) {
    Job<T, D> job(p.n, p.q_heads, p.kv_heads, false);
    size_t column = (job.keys ? p.q_heads * D : 0) + job.first * D;
    const T *x = row_of<T>(p.qkv, job.token) + column;
    const T *d_out = job.keys ? row_of<T>(p.d_k, job.token) + job.first * D
                              : row_of<T>(p.d_q, job.token) + job.first * D;
    T *d_x = row_of<T>(p.d_qk, job.token) + column;
    bool packed = aligned16(x, 0) && aligned16(d_out, 0) && aligned16(d_x, 0);
    Factors<T, D> f(p, job);
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        Half<T, D> h, g;
        unsigned head = min(i + 0u, job.count - 1);
        h.load_row(x + head * D, job.at, packed);
        g.load_row(d_out + head * D, job.at, packed);
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) {
            float low = g.low[j] * f.cos[j] + g.high[j] * f.sin[j], high = g.high[j] * f.cos[j] - g.low[j] * f.sin[j];
            g.low[j] = low * f.weight.low[j];
            g.high[j] = high * f.weight.high[j];
        }
        float scale = 1.f / sqrtf(h.dot(h) / D + p.eps);
        float mean = h.dot(g) / D * scale * scale;
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) {
            g.low[j] = scale * (g.low[j] - h.low[j] * mean);
            g.high[j] = scale * (g.high[j] - h.high[j] * mean);
        }
        if (i < job.count) g.store_row(d_x + i * D, job.at, packed);
    }
}

#define ENTRY(name, Params, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) name##_##T(const __grid_constant__ Params p) {               \
        begin_kernel();                                                                                                \
        if (p.dim == 128)                                                                                              \
            name<T, 128>(p);                                                                                           \
        else if (p.dim == 64)                                                                                          \
            name<T, 64>(p);                                                                                            \
        else                                                                                                           \
            name<T, 32>(p);                                                                                            \
    }
ENTRY(qk_norm_rope, QkNormRopeParams, bf16)
ENTRY(qk_norm_rope, QkNormRopeParams, f16)
ENTRY(qk_norm_rope, QkNormRopeParams, f32)
ENTRY(qk_norm_rope_grad, QkNormRopeGradParams, bf16)
ENTRY(qk_norm_rope_grad, QkNormRopeGradParams, f16)
ENTRY(qk_norm_rope_grad, QkNormRopeGradParams, f32)
