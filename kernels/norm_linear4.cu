// out = rms_norm(x) W^T, or the SwiGLU of that, with a 4-bit W and one or two tokens: gemv4.cuh with the norm before
// the product, and SwiGLU after it, where sums are in shared memory. Each CTA normalises all of x: that takes less than
// another launch and a trip of x through memory. Values are rounded where the three kernels rms_norm, linear4 and swiglu
// round them.
#include "gemv4.cuh"

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
#endif
