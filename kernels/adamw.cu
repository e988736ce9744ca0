// One AdamW step over a flat vector, in the order in which torch.optim.AdamW computes, each operation rounded to f32:
// the intrinsics keep the compiler from contracting to FMA, so that a step has PyTorch's bits. A thread has eight
// neighbours of every vector, all loaded before the first is used. The bound is the memory: 28 bytes an element and the
// copy in the compute type.
#include "params.h"
#include "vec8.cuh"

constexpr unsigned THREADS = ELEMENTWISE_THREADS;

struct Element {
    float w, m, v;
};

__device__ __forceinline__ float grad_scale(const AdamWParams &p, float norm) {
    float clip = __fdiv_rn(p.max_norm, __fadd_rn(__fdiv_rn(norm, p.loss_scale), 1e-6f));
    return __fdiv_rn(p.max_norm > 0.f ? fminf(clip, 1.f) : 1.f, p.loss_scale);
}

__device__ __forceinline__ Element step(const AdamWParams &p, Element e, float grad, float grad_scale) {
    float g = __fmul_rn(grad, grad_scale);
    e.w = __fmul_rn(e.w, p.decay);
    e.m = __fadd_rn(e.m, __fmul_rn(p.one_minus_beta1, __fsub_rn(g, e.m)));
    e.v = __fadd_rn(__fmul_rn(p.beta2, e.v), __fmul_rn(__fmul_rn(p.one_minus_beta2, g), g));
    float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(e.v), p.bias2_sqrt), p.eps);
    e.w = __fsub_rn(e.w, __fdiv_rn(__fmul_rn(p.step_size, e.m), denominator));
    return e;
}

template <class T> __device__ void adamw(const AdamWParams &p) {
    size_t i = (size_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
    float norm = *p.norm;
    // Whoever writes `halted` has found what all the others find, too.
    if (*p.halted != 0 || !isfinite(norm) || !isfinite(*p.loss)) {
        if (i == 0) *p.halted = 1;
        return;
    }
    if (i >= p.len) return;
    float scale = grad_scale(p, norm);
    size_t left = p.len - i;
    T *compute = static_cast<T *>(p.compute) + i;
    bool packed = aligned16(p.weights, 0) && aligned16(p.grads, 0) && aligned16(p.m, 0) && aligned16(p.v, 0) &&
                  aligned16(compute, 0);
    Vec8 w = load8(p.weights + i, left, packed), g = load8(p.grads + i, left, packed);
    Vec8 m = load8(p.m + i, left, packed), v = load8(p.v + i, left, packed);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        Element e = step(p, {w.v[j], m.v[j], v.v[j]}, g.v[j], scale);
        w.v[j] = e.w;
        m.v[j] = e.m;
        v.v[j] = e.v;
    }
    store8(p.weights + i, w, left, packed);
    store8(p.m + i, m, left, packed);
    store8(p.v + i, v, left, packed);
    store8(compute, w, left, packed);
}
INSTANTIATE(adamw, AdamWParams)
