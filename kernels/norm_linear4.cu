// out = rms_norm(x) W^T, or the SwiGLU of that, with a 4-bit W and one or two tokens: gemv4.cuh with the norm before
// the product, and SwiGLU after it, where sums are in shared memory. Each CTA normalises all of x: that takes less than
// another launch and a trip of x through memory. Values are rounded where the three kernels rms_norm, linear4 and swiglu
// round them.
//
// Adapters are added where sums are: their xa comes from a kernel of its own before, which takes the time in which the
// product fills its ring, and their rows of B are fetched into L2 meanwhile.
#include "gemv4.cuh"
#include "reduce.cuh"

#define GEMV(name, T, nested, tokens, fused)                                                                           \
    extern "C" __global__ void __launch_bounds__(LINEAR4_GEMV_THREADS, 1)                                              \
        norm_linear4_##name##_##T(const __grid_constant__ NormLinear4Params p) {                                       \
        Gemv4<T, T, nested, tokens, Fused::fused>(p.linear, &p).run();                                                 \
    }
#define GEMVS(name, nested, tokens, fused)                                                                             \
    GEMV(name, bf16, nested, tokens, fused)                                                                            \
    GEMV(name, f16, nested, tokens, fused)
#if GEMV4
GEMVS(gemv1, true, 1, NORM)
GEMVS(gemv2, true, 2, NORM)
GEMVS(gemv1_plain, false, 1, NORM)
GEMVS(gemv2_plain, false, 2, NORM)
GEMVS(swiglu_gemv1, true, 1, NORM_SWIGLU)
GEMVS(swiglu_gemv2, true, 2, NORM_SWIGLU)
GEMVS(swiglu_gemv1_plain, false, 1, NORM_SWIGLU)
GEMVS(swiglu_gemv2_plain, false, 2, NORM_SWIGLU)
GEMVS(adapted_gemv1, true, 1, ADAPTERS)
GEMVS(adapted_gemv2, true, 2, ADAPTERS)
GEMVS(adapted_gemv1_plain, false, 1, ADAPTERS)
GEMVS(adapted_gemv2_plain, false, 2, ADAPTERS)

// xa = x A^T, or rms_norm(x) A^T: a CTA for each of its columns and each token. The bound is latency: x and A are asked
// for together.
template <class T> __device__ void norm_linear4_adapters(const NormLinear4Params &p) {
    constexpr unsigned STEP = NORM_LINEAR4_ADAPTERS_THREADS * 8, STEPS = NORM_LINEAR4_ADAPTERS_MAX_COLS / STEP;
    __shared__ float shared[32];
    unsigned i = 0, r = blockIdx.x, token = blockIdx.y, cols = p.linear.weight.cols;
    while (r >= p.b[i].r) r -= p.b[i++].r;
    const T *x = row_of<T>(p.linear.x, token), *a = static_cast<const T *>(p.a[i]) + size_t(r) * cols;
    Pack<T> xs[STEPS], as[STEPS];
    float squares = 0.f, dot = 0.f, scale = 1.f;
#pragma unroll
    for (unsigned s = 0; s < STEPS; s++) {
        unsigned at = s * STEP + threadIdx.x * 8;
        xs[s] = {}, as[s] = {};
        if (at < cols) xs[s] = load_pack(x + at), as[s] = load_pack(a + at);
    }
    if (p.norm) {
#pragma unroll
        for (unsigned s = 0; s < STEPS; s++)
#pragma unroll
            for (int j = 0; j < 8; j++) squares += to_f32(xs[s].v[j]) * to_f32(xs[s].v[j]);
        scale = 1.f / sqrtf(block_sum(squares, shared) / cols + p.eps);
    }
#pragma unroll
    for (unsigned s = 0; s < STEPS; s++) {
        unsigned at = s * STEP + threadIdx.x * 8;
        if (at >= cols) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float v = to_f32(xs[s].v[j]);
            if (p.norm) v = to_f32(from_f32<T>(v * scale * p.norm[at + j]));
            dot += v * to_f32(as[s].v[j]);
        }
    }
    dot = block_sum(dot, shared);
    if (threadIdx.x == 0) row_of<T>(p.xa, token)[p.b[i].col + r] = from_f32<T>(dot);
}
INSTANTIATE_FOR(norm_linear4_adapters, NormLinear4Params, bf16)
INSTANTIATE_FOR(norm_linear4_adapters, NormLinear4Params, f16)
#endif
