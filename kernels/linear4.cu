// out (+)= x W^T and d_x (+)= d_out W with a 4-bit W. Which kernel takes which shape: src/cuda/launch/gemm/linear4.rs.
// A weight is dequantized to what dequantize.cu makes of it, rounded to the compute type, by all kernels here but the
// skinny ones, which round less (skinny4.cuh).
#include "gemv4.cuh"
#include "gemv8.cuh"
#include "skinny4.cuh"
#include "simt.cuh"
#include "mma.cuh"

template <class T, class O> __device__ Gemm<T, O> gemm_of(const Linear4Params &p, bool grad) {
    unsigned m = grad ? p.weight.cols : p.weight.rows, k = grad ? p.weight.rows : p.weight.cols;
    return {p.x, p.out, p.partial, p.n, m, k, p.accumulate, p.splits};
}

// ------------------------------------------------------------------------------------------------- any shape: FMA

// The weight for simt.cuh.
template <class T> struct Quantized {
    const Weight4Params &p;
    const CodeTable &codes;
    const float *map;
    unsigned rows, cols;

    __device__ __forceinline__ size_t index(unsigned row, unsigned col) const { return size_t(row) * cols + col; }
    __device__ __forceinline__ static float round(float v) { return to_f32(from_f32<T>(v)); }
    __device__ __forceinline__ float at(size_t i) const { return round(weight4_at(p, i, map)); }
    __device__ __forceinline__ float4 at4(size_t i) const {
        uint32_t two = p.codes[i / 2] | p.codes[i / 2 + 1] << 8;
        float absmax = block_absmax(p, i >> p.block_shift, map);
        auto value = [&](int e) { return round(__fmul_rn(codes.at(two, e), absmax)); };
        return make_float4(value(0), value(1), value(2), value(3));
    }
};

template <class T, class O, bool GRAD, bool ROWS> __device__ void simt(const Linear4Params &p) {
    __shared__ CodeTable codes;
    __shared__ float map[256];
    codes.fill(p.weight.fp4);
    fill_dynamic_map(map);
    __syncthreads();
    Quantized<T> weight{p.weight, codes, map, p.weight.rows, p.weight.cols};
    if constexpr (ROWS) {
        simt_rows(gemm_of<T, O>(p, false), weight);
    } else {
        simt_gemm<GRAD>(gemm_of<T, O>(p, GRAD), weight);
    }
}

ENTRIES(linear4_simt, Linear4Params, SIMT_THREADS, 2, simt, false, false)
ENTRIES_F32_OUT(linear4_simt, Linear4Params, SIMT_THREADS, 2, simt, false, false)
ENTRY_F32(linear4_simt, Linear4Params, SIMT_THREADS, 2, simt, false, false)
ENTRIES(linear4_simt_rows, Linear4Params, SIMT_THREADS, 2, simt, false, true)
ENTRIES_F32_OUT(linear4_simt_rows, Linear4Params, SIMT_THREADS, 2, simt, false, true)
ENTRY_F32(linear4_simt_rows, Linear4Params, SIMT_THREADS, 2, simt, false, true)
ENTRIES(linear4_grad_simt, Linear4Params, SIMT_THREADS, 2, simt, true, false)
ENTRY_F32(linear4_grad_simt, Linear4Params, SIMT_THREADS, 2, simt, true, false)

// ------------------------------------------------------------------------------- 9 tokens and more: tensor cores

// Dequantizes a tile: each thread 32 weights of one row, so of one block, as 16 bytes of codes and one scale. What was
// fetched waits in registers while the tile before is multiplied; look-ups and stores then overlap with the other
// warps' products. 32 lanes store to 16 (GRAD: 8) rows, eight lanes to different banks at a time (mma.cuh). Wants the
// codes aligned to 16 bytes and cols a multiple of 32.
template <class T, bool GRAD> struct QuantizedStager {
    static constexpr int STAGES = GEMM_MMA_QUANTIZED_STAGES;
    static constexpr bool DEQUANTIZES = true;
    static constexpr int THREADS_A_ROW = (GRAD ? TILE_OUT : TILE_K) / 32;
    const Weight4Params &p;
    const CodeTable &table;
    const float *map;
    uint4 codes;
    uint32_t scale; // bits of absmax; when nested, its code
    float2 group;

    __device__ __forceinline__ void queue(uint32_t, unsigned, unsigned) {}
    __device__ __forceinline__ void fetch(unsigned j0, unsigned k0) {
        unsigned row = (GRAD ? k0 : j0) + threadIdx.x / THREADS_A_ROW;
        unsigned col = (GRAD ? j0 : k0) + threadIdx.x % THREADS_A_ROW * 32;
        codes = {};
        scale = 0;
        group = {};
        if (row >= p.rows || col >= p.cols) return; // scale 0: zeros
        size_t i = size_t(row) * p.cols + col, block = i >> p.block_shift;
        codes = __ldg(reinterpret_cast<const uint4 *>(p.codes + i / 2));
        if (p.absmax) {
            scale = __float_as_uint(p.absmax[block]);
        } else {
            scale = p.absmax_codes[block];
            group = group_of(p, block);
        }
    }
    __device__ __forceinline__ void dequantize(char *tile) {
        float absmax = p.absmax ? __uint_as_float(scale) : nested_absmax(map[scale], group);
        uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
        unsigned row = threadIdx.x / THREADS_A_ROW, piece = threadIdx.x % THREADS_A_ROW * 4;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            Pack<T> pack;
            table.dequantize8<T>(words[i], absmax, pack.v);
            *reinterpret_cast<Pack<T> *>(tile + weight_tile<GRAD>(row, piece + i)) = pack;
        }
    }
};

template <class T, class O, bool GRAD, int TOKENS> __device__ void mma(const Linear4Params &p) {
    __shared__ CodeTable table;
    __shared__ float map[256];
    table.fill(p.weight.fp4);
    fill_dynamic_map(map);
    __syncthreads();
    QuantizedStager<T, GRAD> stager{p.weight, table, map};
    mma_gemm<GRAD, TOKENS>(gemm_of<T, O>(p, GRAD), stager);
}
ENTRIES(linear4_mma32, Linear4Params, MMA_THREADS, 2, mma, false, 32)
ENTRIES(linear4_mma64, Linear4Params, MMA_THREADS, 2, mma, false, 64)
ENTRIES(linear4_mma128, Linear4Params, MMA_THREADS, 2, mma, false, 128)
ENTRIES_F32_OUT(linear4_mma32, Linear4Params, MMA_THREADS, 2, mma, false, 32)
ENTRIES_F32_OUT(linear4_mma64, Linear4Params, MMA_THREADS, 2, mma, false, 64)
ENTRIES_F32_OUT(linear4_mma128, Linear4Params, MMA_THREADS, 2, mma, false, 128)
ENTRIES(linear4_grad_mma32, Linear4Params, MMA_THREADS, 2, mma, true, 32)
ENTRIES(linear4_grad_mma64, Linear4Params, MMA_THREADS, 2, mma, true, 64)
ENTRIES(linear4_grad_mma128, Linear4Params, MMA_THREADS, 2, mma, true, 128)

// ------------------------------------------------------------------------------------------------- up to 16 tokens

template <class T, class O, int TOKENS8, int STAGES> __device__ void skinny(const Linear4Params &p) {
    __shared__ float map[256];
    static_assert(sizeof(map) <= LINEAR4_SKINNY_STATIC_BYTES);
    fill_dynamic_map(map);
    Skinny<T, O, TOKENS8, STAGES>(p, map).run();
}
ENTRIES(linear4_skinny8, Linear4Params, LINEAR4_SKINNY_THREADS, 1, skinny, 1, LINEAR4_SKINNY_STAGES)
ENTRIES(linear4_skinny16, Linear4Params, LINEAR4_SKINNY_THREADS, 1, skinny, 2, LINEAR4_SKINNY_STAGES)
ENTRIES_F32_OUT(linear4_skinny8, Linear4Params, LINEAR4_SKINNY_THREADS, 1, skinny, 1, LINEAR4_SKINNY_STAGES)
ENTRIES_F32_OUT(linear4_skinny16, Linear4Params, LINEAR4_SKINNY_THREADS, 1, skinny, 2, LINEAR4_SKINNY_STAGES)
// For GPUs with 99 KiB of shared memory: 8 warps.
constexpr int SMALL_THREADS = LINEAR4_SKINNY_SMALL_THREADS, SMALL_STAGES = LINEAR4_SKINNY_SMALL_STAGES;
ENTRIES(linear4_skinny8_small, Linear4Params, SMALL_THREADS, 1, skinny, 1, SMALL_STAGES)
ENTRIES(linear4_skinny16_small, Linear4Params, SMALL_THREADS, 1, skinny, 2, SMALL_STAGES)
ENTRIES_F32_OUT(linear4_skinny8_small, Linear4Params, SMALL_THREADS, 1, skinny, 1, SMALL_STAGES)
ENTRIES_F32_OUT(linear4_skinny16_small, Linear4Params, SMALL_THREADS, 1, skinny, 2, SMALL_STAGES)

// ---------------------------------------------------------------------------------------------- one to eight tokens

// `run` begins the kernel.
#define GEMV(name, suffix, T, O, nested, tokens)                                                                       \
    extern "C" __global__ void __launch_bounds__(LINEAR4_GEMV_THREADS, 1)                                              \
        linear4_##name##_##suffix(const __grid_constant__ Linear4Params p) {                                           \
        Gemv4<T, O, nested, tokens>(p).run();                                                                          \
    }
#define GEMVS(name, nested, tokens)                                                                                    \
    GEMV(name, bf16, bf16, bf16, nested, tokens)                                                                       \
    GEMV(name, f16, f16, f16, nested, tokens)                                                                          \
    GEMV(name, bf16_f32, bf16, f32, nested, tokens)                                                                    \
    GEMV(name, f16_f32, f16, f32, nested, tokens)
#if GEMV4
GEMVS(gemv1, true, 1)
GEMVS(gemv2, true, 2)
GEMVS(gemv1_plain, false, 1)
GEMVS(gemv2_plain, false, 2)

#define GEMV8(name, suffix, T, O, nested)                                                                              \
    extern "C" __global__ void __launch_bounds__(LINEAR4_GEMV8_THREADS, 1)                                              \
        linear4_##name##_##suffix(const __grid_constant__ Linear4Params p) {                                           \
        Gemv8<T, O, nested>(p).run();                                                                                  \
    }
#define GEMV8S(name, nested)                                                                                           \
    GEMV8(name, bf16, bf16, bf16, nested)                                                                              \
    GEMV8(name, f16, f16, f16, nested)                                                                                 \
    GEMV8(name, bf16_f32, bf16, f32, nested)                                                                           \
    GEMV8(name, f16_f32, f16, f32, nested)
GEMV8S(gemv8, true)
GEMV8S(gemv8_plain, false)
#endif
