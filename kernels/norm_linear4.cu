// out = rms_norm(x) W^T, or the SwiGLU of that, with a 4-bit W and one or two tokens: gemv4.cuh with the norm before
// the product, and SwiGLU after it, where sums are in shared memory. Each CTA normalises all of x: that takes less than
// another launch and a trip of x through memory. Values are rounded where the three kernels rms_norm, linear4 and swiglu
// round them.
//
// Adapters are added where sums are (gemv4_adapters.cuh).
#include "gemv4.cuh"
#include "gemv8.cuh"

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
GEMVS(adapted_gemv1, true, 1, NORM_ADAPTERS)
GEMVS(adapted_gemv2, true, 2, NORM_ADAPTERS)
GEMVS(adapted_gemv1_plain, false, 1, NORM_ADAPTERS)
GEMVS(adapted_gemv2_plain, false, 2, NORM_ADAPTERS)
GEMVS(adapted_swiglu_gemv1, true, 1, NORM_SWIGLU_ADAPTERS)
GEMVS(adapted_swiglu_gemv2, true, 2, NORM_SWIGLU_ADAPTERS)
GEMVS(adapted_swiglu_gemv1_plain, false, 1, NORM_SWIGLU_ADAPTERS)
GEMVS(adapted_swiglu_gemv2_plain, false, 2, NORM_SWIGLU_ADAPTERS)
GEMVS(adapted_only_gemv1, true, 1, ADAPTERS)
GEMVS(adapted_only_gemv2, true, 2, ADAPTERS)
GEMVS(adapted_only_gemv1_plain, false, 1, ADAPTERS)
GEMVS(adapted_only_gemv2_plain, false, 2, ADAPTERS)

// SwiGLU of a product of three to eight tokens, without norm and adapters.
#define GEMV8(name, T, nested)                                                                                         \
    extern "C" __global__ void __launch_bounds__(LINEAR4_GEMV8_THREADS, 1)                                              \
        norm_linear4_##name##_##T(const __grid_constant__ NormLinear4Params p) {                                       \
        Gemv8<T, T, nested, true>(p.linear, p.gated).run();                                                            \
    }
GEMV8(swiglu_gemv8, bf16, true)
GEMV8(swiglu_gemv8, f16, true)
GEMV8(swiglu_gemv8_plain, bf16, false)
GEMV8(swiglu_gemv8_plain, f16, false)
#endif
