// Cross entropy of rows of logits, and its gradient in place. One CTA for each row: the maximum and the sum of
// exponentials in one pass (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), then the
// gradient. The first `cached` packs of the row wait in shared memory between the passes.
//
// A thread has every 1024th pack, AHEAD of them under way: a row of 151,936 bf16 is 297 KiB, of which 226 KiB wait in
// shared memory, so a gradient reads a quarter of the row twice instead of all. That takes all shared memory of a
// multiprocessor, hence one CTA of the most threads. Only the thread that kept a pack reads it again: no barrier is
// needed for it. The bound is the memory: the row is read and written once.
#include "params.h"
#include "reduce.cuh"
#include "types.cuh"
#include <cfloat>

constexpr unsigned THREADS = CROSS_ENTROPY_THREADS;
// Packs that a thread has under way.
constexpr int AHEAD = 4;

template <class T> __device__ __forceinline__ float exponential(float v) {
    // f16 and bf16 hide the error of the fast one.
    return sizeof(T) == 4 ? expf(v) : __expf(v);
}

// The maximum so far, and the sum of exp(x - maximum). A pack raises the maximum once, so that the common case is one
// comparison, not a multiplication for each element. It begins at the least finite number: -inf minus -inf would be
// NaN.
template <class T> struct Softmax {
    float max = -FLT_MAX, sum = 0;

    __device__ __forceinline__ void raise(float to) {
        if (to > max) {
            sum *= exponential<T>(max - to);
            max = to;
        }
    }
    __device__ __forceinline__ void add(const Pack<T> &x) {
        float top = to_f32(x.v[0]);
#pragma unroll
        for (int j = 1; j < VEC<T>; j++) top = fmaxf(top, to_f32(x.v[j]));
        raise(top);
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) sum += exponential<T>(to_f32(x.v[j]) - max);
    }
    __device__ __forceinline__ void add(float x) {
        raise(x);
        sum += exponential<T>(x - max);
    }
};

// A row as packs and a tail (all tail when it is not aligned).
template <class T> struct Row {
    T *logits;
    unsigned vocab, packs, cached;
    Pack<T> *kept; // shared

    __device__ __forceinline__ Pack<T> load(unsigned i) const {
        return i < cached ? kept[i] : load_pack(logits + size_t(i) * VEC<T>);
    }
};

template <class T> __device__ float log_sum_exp(const Row<T> &row, float *shared) {
    Softmax<T> s;
    unsigned i = threadIdx.x;
    for (; i + (AHEAD - 1) * THREADS < row.packs; i += AHEAD * THREADS) {
        Pack<T> x[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) x[a] = load_pack(row.logits + size_t(i + a * THREADS) * VEC<T>);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            if (i + a * THREADS < row.cached) row.kept[i + a * THREADS] = x[a];
            s.add(x[a]);
        }
    }
    for (; i < row.packs; i += THREADS) {
        Pack<T> x = load_pack(row.logits + size_t(i) * VEC<T>);
        if (i < row.cached) row.kept[i] = x;
        s.add(x);
    }
    for (unsigned j = row.packs * VEC<T> + threadIdx.x; j < row.vocab; j += THREADS) s.add(to_f32(row.logits[j]));
    float max = block_max(s.max, shared);
    float sum = block_sum(s.sum * exponential<T>(s.max - max), shared);
    return max + logf(sum);
}

template <class T> __device__ void write_grad(const Row<T> &row, unsigned label, float lse, float scale) {
    auto grad = [&](float x, unsigned i) { return scale * (exponential<T>(x - lse) - (i == label ? 1.f : 0.f)); };
    auto store = [&](Pack<T> x, unsigned i) {
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) x.v[j] = from_f32<T>(grad(to_f32(x.v[j]), i * VEC<T> + j));
        store_pack(row.logits + size_t(i) * VEC<T>, x);
    };
    unsigned i = threadIdx.x;
    for (; i + (AHEAD - 1) * THREADS < row.packs; i += AHEAD * THREADS) {
        Pack<T> x[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) x[a] = row.load(i + a * THREADS);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) store(x[a], i + a * THREADS);
    }
    for (; i < row.packs; i += THREADS) store(row.load(i), i);
    for (unsigned j = row.packs * VEC<T> + threadIdx.x; j < row.vocab; j += THREADS)
        row.logits[j] = from_f32<T>(grad(to_f32(row.logits[j]), j));
}

template <class T> __device__ void write_zeros(const Row<T> &row) {
    for (unsigned i = threadIdx.x; i < row.packs; i += THREADS)
        store_pack(row.logits + size_t(i) * VEC<T>, Pack<T>{});
    for (unsigned j = row.packs * VEC<T> + threadIdx.x; j < row.vocab; j += THREADS) row.logits[j] = from_f32<T>(0.f);
}

template <class T> __device__ void cross_entropy(const CrossEntropyParams &p) {
    extern __shared__ uint4 kept[];
    __shared__ float shared[32];
    static_assert(sizeof(shared) <= CROSS_ENTROPY_STATIC_BYTES && sizeof(Pack<T>) == CROSS_ENTROPY_PACK_BYTES);
    T *logits = row_of<T>(p.logits, blockIdx.x);
    unsigned label = p.labels[blockIdx.x];
    Row<T> row{logits, p.vocab, aligned16(logits, 0) ? p.vocab / VEC<T> : 0, p.cached,
               reinterpret_cast<Pack<T> *>(kept)};
    if (label >= p.vocab) {
        if (threadIdx.x == 0) p.losses[blockIdx.x] = 0;
        if (p.with_grad) write_zeros(row);
        return;
    }
    float target = to_f32(logits[label]);
    float lse = log_sum_exp(row, shared);
    if (threadIdx.x == 0) p.losses[blockIdx.x] = lse - target;
    if (p.with_grad) write_grad(row, label, lse, p.grad_scale);
}
#define INSTANTIATE_CROSS_ENTROPY(T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        cross_entropy_##T(const __grid_constant__ CrossEntropyParams p) {                                              \
        begin_kernel();                                                                                                \
        cross_entropy<T>(p);                                                                                           \
    }
INSTANTIATE_CROSS_ENTROPY(bf16)
INSTANTIATE_CROSS_ENTROPY(f16)
INSTANTIATE_CROSS_ENTROPY(f32)
