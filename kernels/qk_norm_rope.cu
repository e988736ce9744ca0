// RMSNorm of every query and key head, then rotation by position, and the gradient of both. A group of lanes
// (qk_norm_rope.cuh) takes HEADS heads of one token, so that cosine and sine are loaded once for HEADS heads. The
// forward pass loads all heads before the first is used. The bound is the memory. No shared memory, no barrier.
#include "params.h"
#include "qk_norm_rope.cuh"

constexpr int THREADS = QK_NORM_ROPE_THREADS, HEADS = QK_NORM_ROPE_HEADS;

// Up to HEADS heads of one token: all queries, all keys, or, where `values` are wanted too, all values. A job past the
// last one is the last one again, so that whole warps stay together; it stores the same values.
template <class T, int D> struct Job {
    static constexpr unsigned LANES = Half<T, D>::LANES;
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
template <class T, int D, class P>
__device__ __forceinline__ Factors<T, D> factors(const P &p, const Job<T, D> &job, bool packed) {
    Factors<T, D> f;
    f.load_weight(job.keys ? p.k_weight : p.q_weight, job.at, packed);
    f.load_angles(p, p.positions[job.token], job.at, packed);
    return f;
}
// Can everything move 16 bytes at a time? Asked once, for all: a load that would ask for itself waits for the one before.
template <class P> __device__ __forceinline__ bool factors_packed(const P &p) {
    return aligned16(p.q_weight, 0) && aligned16(p.k_weight, 0) && aligned16(p.cos, 0) && aligned16(p.sin, 0);
}
template <class T> __device__ __forceinline__ bool packed(const Matrix &m) {
    return aligned16(static_cast<const T *>(m.ptr), m.stride);
}
template <class T> __device__ __forceinline__ bool packed(const MatrixMut &m) {
    return aligned16(static_cast<const T *>(m.ptr), m.stride);
}
template <class T> __device__ __forceinline__ bool all_packed(const QkNormRopeParams &p) {
    // Of codes a lane stores half as many bytes.
    uintptr_t cache = reinterpret_cast<uintptr_t>(p.k_cache) | reinterpret_cast<uintptr_t>(p.v_cache);
    bool rows = packed<T>(p.qkv) && packed<T>(p.q) && packed<T>(p.k);
    return factors_packed(p) && rows && cache % (p.k_scales ? VEC<T> : 16) == 0;
}
template <class T> __device__ __forceinline__ bool all_packed(const QkNormRopeGradParams &p) {
    return factors_packed(p) && packed<T>(p.qkv) && packed<T>(p.d_q) && packed<T>(p.d_k) && packed<T>(p.d_qk);
}

// Where a job's heads go in a cache, if they do: its elements of T, or codes and scales.
template <class T, int D> struct CacheRow {
    T *row = nullptr;
    int8_t *codes = nullptr;
    float *scales;
    unsigned capacity;

    __device__ __forceinline__ CacheRow(const QkNormRopeParams &p, const Job<T, D> &job) : capacity(p.capacity) {
        if (!p.seqs || !(job.keys || job.values)) return;
        unsigned seq = p.seqs[job.token], position = p.positions[job.token];
        if (seq >= p.n_seqs || position >= p.capacity) return;
        size_t at = ((size_t(seq) * p.capacity + position) * p.kv_heads + job.first) * D;
        void *cache = job.keys ? p.k_cache : p.v_cache;
        if (p.k_scales) {
            codes = static_cast<int8_t *>(cache) + at;
            scales = (job.keys ? p.k_scales : p.v_scales) + (size_t(seq) * p.kv_heads + job.first) * capacity + position;
        } else {
            row = static_cast<T *>(cache) + at;
        }
    }
    // Head i of the job, whose largest magnitude this is.
    __device__ __forceinline__ void store(unsigned i, const Half<T, D> &h, unsigned largest, unsigned at,
                                          bool packed) const {
        if (row) h.store_row(row + i * D, at, packed);
        if (!codes) return;
        Int8Scale by(largest);
        h.store_codes(codes + i * D, at, by, packed);
        if (at == 0) scales[size_t(i) * capacity] = by.scale;
    }
};

template <class T, int D, bool PACKED> __device__ __forceinline__ void qk_norm_rope(const QkNormRopeParams &p) {
    Job<T, D> job(p.n, p.q_heads, p.kv_heads, p.seqs);
    unsigned before = job.values ? p.q_heads + p.kv_heads : job.keys ? p.q_heads : 0;
    const T *x = row_of<T>(p.qkv, job.token) + (before + job.first) * D;
    T *out = job.values ? nullptr : row_of<T>(job.keys ? p.k : p.q, job.token) + job.first * D;
    CacheRow<T, D> cached(p, job);
    Half<T, D> h[HEADS];
#pragma unroll
    for (int i = 0; i < HEADS; i++) h[i].load_row(x + min(i + 0u, job.count - 1) * D, job.at, PACKED);
    Factors<T, D> f = factors(p, job, PACKED);
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        float scale = h[i].inverse_rms(p.eps); // by all lanes of a warp, whatever their jobs
        if (!job.values) f.rotate(h[i], scale);
        unsigned largest = 0;
        if (p.k_scales) h[i].round(), largest = h[i].largest(); // likewise
        if (i >= job.count) continue;
        if (out) h[i].store_row(out + i * D, job.at, PACKED);
        cached.store(i, h[i], largest, job.at, PACKED);
    }
}

template <class T, int D, bool PACKED> __device__ __forceinline__ void qk_norm_rope_grad(const QkNormRopeGradParams &p) {
    Job<T, D> job(p.n, p.q_heads, p.kv_heads, false);
    size_t column = (job.keys ? p.q_heads * D : 0) + job.first * D;
    const T *x = row_of<T>(p.qkv, job.token) + column;
    const T *d_out = job.keys ? row_of<T>(p.d_k, job.token) + job.first * D
                              : row_of<T>(p.d_q, job.token) + job.first * D;
    T *d_x = row_of<T>(p.d_qk, job.token) + column;
    Factors<T, D> f = factors(p, job, PACKED);
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        Half<T, D> h, g;
        unsigned head = min(i + 0u, job.count - 1);
        h.load_row(x + head * D, job.at, PACKED);
        g.load_row(d_out + head * D, job.at, PACKED);
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) {
            float low = g.low[j] * f.cos[j] + g.high[j] * f.sin[j], high = g.high[j] * f.cos[j] - g.low[j] * f.sin[j];
            g.low[j] = low * f.weight.low[j];
            g.high[j] = high * f.weight.high[j];
        }
        float scale = h.inverse_rms(p.eps);
        float mean = h.dot(g) / D * scale * scale;
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) {
            g.low[j] = scale * (g.low[j] - h.low[j] * mean);
            g.high[j] = scale * (g.high[j] - h.high[j] * mean);
        }
        if (i < job.count) g.store_row(d_x + i * D, job.at, PACKED);
    }
}

#define BY_ALIGNMENT(name, T, D) all_packed<T>(p) ? name<T, D, true>(p) : name<T, D, false>(p)
#define ENTRY(name, Params, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) name##_##T(const __grid_constant__ Params p) {               \
        begin_kernel();                                                                                                \
        if (p.dim == 128)                                                                                              \
            BY_ALIGNMENT(name, T, 128);                                                                                \
        else if (p.dim == 64)                                                                                          \
            BY_ALIGNMENT(name, T, 64);                                                                                 \
        else                                                                                                           \
            BY_ALIGNMENT(name, T, 32);                                                                                 \
    }
ENTRY(qk_norm_rope, QkNormRopeParams, bf16)
ENTRY(qk_norm_rope, QkNormRopeParams, f16)
ENTRY(qk_norm_rope, QkNormRopeParams, f32)
ENTRY(qk_norm_rope_grad, QkNormRopeGradParams, bf16)
ENTRY(qk_norm_rope_grad, QkNormRopeGradParams, f16)
ENTRY(qk_norm_rope_grad, QkNormRopeGradParams, f32)
