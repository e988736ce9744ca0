// One AdamW step over a flat vector, each operation rounded to f32: the intrinsics keep the compiler from contracting to
// FMA. A thread has eight neighbours of every vector, all loaded before the first is used. The bound is the memory: 28
// bytes an element (with moments in 8 bits: 16) and the copy in the compute type.
#include "dynamic_map.cuh"
#include "vec8.cuh"

constexpr unsigned THREADS = ELEMENTWISE_THREADS;

struct Element {
    float w, m, v;
};

// Whoever writes `halted` has found what all the others find, too.
__device__ __forceinline__ bool halts(const AdamWStepParams &p) {
    if (*p.halted == 0 && isfinite(*p.norm) && isfinite(*p.loss)) return false;
    if (blockIdx.x == 0 && threadIdx.x == 0) *p.halted = 1;
    return true;
}

__device__ __forceinline__ float grad_scale(const AdamWStepParams &p) {
    float clip = __fdiv_rn(p.max_norm, __fadd_rn(__fdiv_rn(*p.norm, p.loss_scale), 1e-6f));
    return __fdiv_rn(p.max_norm > 0.f ? fminf(clip, 1.f) : 1.f, p.loss_scale);
}

__device__ __forceinline__ float moved(const AdamWStepParams &p, Element e) {
    float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(e.v), p.bias2_sqrt), p.eps);
    return __fsub_rn(__fmul_rn(e.w, p.decay), __fdiv_rn(__fmul_rn(p.step_size, e.m), denominator));
}

// In the order in which torch.optim.AdamW computes, so that a step has PyTorch's bits.
__device__ __forceinline__ Element step(const AdamWStepParams &p, Element e, float grad, float grad_scale) {
    float g = __fmul_rn(grad, grad_scale);
    e.m = __fadd_rn(e.m, __fmul_rn(p.one_minus_beta1, __fsub_rn(g, e.m)));
    e.v = __fadd_rn(__fmul_rn(p.beta2, e.v), __fmul_rn(__fmul_rn(p.one_minus_beta2, g), g));
    e.w = moved(p, e);
    return e;
}

// In the order of bitsandbytes on the CPU, for whose bits it takes the fused operations of PyTorch's kernels.
__device__ __forceinline__ Element step8(const AdamWStepParams &p, Element e, float grad, float grad_scale) {
    float g = __fmul_rn(grad, grad_scale);
    e.m = __fmaf_rn(p.one_minus_beta1, g, __fmul_rn(p.beta1, e.m));
    e.v = __fmaf_rn(__fmul_rn(p.one_minus_beta2, g), g, __fmul_rn(p.beta2, e.v));
    e.w = moved(p, e);
    return e;
}

template <class T> __device__ void adamw(const AdamWParams &params) {
    const AdamWStepParams &p = params.step;
    size_t i = (size_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
    if (halts(p) || i >= p.len) return;
    float scale = grad_scale(p);
    size_t left = p.len - i;
    T *compute = static_cast<T *>(p.compute) + i;
    bool packed = aligned16(p.weights, 0) && aligned16(p.grads, 0) && aligned16(params.m, 0) &&
                  aligned16(params.v, 0) && aligned16(compute, 0);
    Vec8 w = load8(p.weights + i, left, packed), g = load8(p.grads + i, left, packed);
    Vec8 m = load8(params.m + i, left, packed), v = load8(params.v + i, left, packed);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        Element e = step(p, {w.v[j], m.v[j], v.v[j]}, g.v[j], scale);
        w.v[j] = e.w;
        m.v[j] = e.m;
        v.v[j] = e.v;
    }
    store8(p.weights + i, w, left, packed);
    store8(params.m + i, m, left, packed);
    store8(params.v + i, v, left, packed);
    store8(compute, w, left, packed);
}
INSTANTIATE(adamw, AdamWParams)

static_assert(ADAMW8BIT_BLOCK == 32 * 8, "a warp has a block");

// Eight codes of a moment and what they stand for; `n` of them are there, the others are zeros.
struct Moment {
    unsigned char *codes;
    float *absmax;
    size_t n;

    __device__ __forceinline__ Moment(unsigned char *codes, float *absmax, size_t i, size_t n)
        : codes(codes + i), absmax(absmax + i / ADAMW8BIT_BLOCK), n(n) {}

    __device__ __forceinline__ bool packed() const { return n >= 8 && reinterpret_cast<uintptr_t>(codes) % 8 == 0; }

    __device__ __forceinline__ Vec8 decode(const DynamicMap &map) const {
        unsigned long long bytes = 0;
        if (packed()) {
            bytes = *reinterpret_cast<const unsigned long long *>(codes);
        } else {
            for (int j = 0; j < 8 && j < n; j++) bytes |= static_cast<unsigned long long>(codes[j]) << (8 * j);
        }
        float scale = n > 0 ? *absmax : 0.f;
        Vec8 out;
#pragma unroll
        for (int j = 0; j < 8; j++) out.v[j] = j < n ? __fmul_rn(map.value[bytes >> (8 * j) & 255], scale) : 0.f;
        return out;
    }

    // Call with all lanes of a warp, which have one block.
    __device__ __forceinline__ void encode(const DynamicMap &map, const Vec8 &x) const {
        // As integers, magnitudes order as they do, NaN above all.
        unsigned largest = 0;
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (j < n) largest = max(largest, __float_as_uint(fabsf(x.v[j])));
        largest = __reduce_max_sync(~0u, largest);
        if (n == 0) return;
        float scale = __uint_as_float(largest), inverse = __fdiv_rn(1.f, scale);
        if (threadIdx.x % 32 == 0) *absmax = scale;
        unsigned long long bytes = 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            unsigned code = largest == 0 ? 0 : map.nearest(__fmul_rn(x.v[j], inverse));
            bytes |= static_cast<unsigned long long>(code) << (8 * j);
        }
        if (packed()) {
            *reinterpret_cast<unsigned long long *>(codes) = bytes;
        } else {
            for (int j = 0; j < 8 && j < n; j++) codes[j] = bytes >> (8 * j);
        }
    }
};

template <class T> __device__ void adamw8bit(const AdamW8bitParams &params) {
    __shared__ DynamicMap map[2];
    const AdamWStepParams &p = params.step;
    if (halts(p)) return;
    map[0].fill(true);
    map[1].fill(false);
    __syncthreads();
    map[0].fill_first();
    map[1].fill_first();
    __syncthreads();
    size_t i = (size_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
    size_t left = i < p.len ? p.len - i : 0;
    float scale = grad_scale(p);
    T *compute = static_cast<T *>(p.compute) + i;
    bool packed = aligned16(p.weights, 0) && aligned16(p.grads, 0) && aligned16(compute, 0);
    Moment first(params.m_codes, params.m_absmax, i, left), second(params.v_codes, params.v_absmax, i, left);
    Vec8 w = load8(p.weights + i, left, packed), g = load8(p.grads + i, left, packed);
    Vec8 m = first.decode(map[0]), v = second.decode(map[1]);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        Element e = step8(p, {w.v[j], m.v[j], v.v[j]}, g.v[j], scale);
        w.v[j] = e.w;
        m.v[j] = e.m;
        v.v[j] = e.v;
    }
    first.encode(map[0], m);
    second.encode(map[1], v);
    store8(p.weights + i, w, left, packed);
    store8(compute, w, left, packed);
}
INSTANTIATE(adamw8bit, AdamW8bitParams)
