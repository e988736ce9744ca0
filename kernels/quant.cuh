#pragma once
// Decoding 4-bit weights; the format stands in src/quant/mod.rs.
// A weight is code * absmax, multiplied in f32 and rounded once to the compute type, wherever it is decoded.
#include "params.h"
#include "types.cuh"

__device__ const float NF4[16] = {
    -1.f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.f,
};

__device__ const float FP4[16] = {
    0.f,  0.0625f / 12.f,  8.f / 12.f,  1.f,  4.f / 12.f,  6.f / 12.f,  2.f / 12.f,  3.f / 12.f,
    -0.f, -0.0625f / 12.f, -8.f / 12.f, -1.f, -4.f / 12.f, -6.f / 12.f, -2.f / 12.f, -3.f / 12.f,
};

// The upper half of the signed dynamic map of bitsandbytes (`create_dynamic_map`), codes 128 to 255, bit for bit.
// Code 127 is 0 and code 126 - i is minus code 128 + i.
__device__ const float DYNAMIC_MAP[128] = {
    5.50000038e-07f, 3.25000019e-06f, 7.7499999e-06f, 2.12499981e-05f, 4.37499984e-05f, 6.62500024e-05f, 8.87499991e-05f, 0.000156250011f,
    0.000268750038f, 0.000381250022f, 0.000493750034f, 0.000606250076f, 0.00071875006f, 0.000831249985f, 0.000943750085f, 0.00128124992f,
    0.00184375001f, 0.00240624999f, 0.00296874996f, 0.00353124971f, 0.00409374991f, 0.00465624966f, 0.00521875033f, 0.00578125007f,
    0.00634374982f, 0.00690625003f, 0.00746874977f, 0.00803124998f, 0.00859375019f, 0.00915624946f, 0.00971874967f, 0.0114062503f,
    0.0142187504f, 0.0170312505f, 0.0198437516f, 0.0226562507f, 0.0254687499f, 0.028281251f, 0.0310937501f, 0.0339062512f,
    0.0367187522f, 0.0395312496f, 0.0423437469f, 0.0451562516f, 0.047968749f, 0.05078125f, 0.053593751f, 0.0564062484f,
    0.0592187531f, 0.0620312504f, 0.0648437515f, 0.0676562563f, 0.0704687461f, 0.0732812509f, 0.0760937482f, 0.078906253f,
    0.0817187577f, 0.0845312476f, 0.0873437524f, 0.0901562497f, 0.0929687545f, 0.0957812592f, 0.0985937491f, 0.107031256f,
    0.12109375f, 0.135156244f, 0.149218753f, 0.163281247f, 0.177343756f, 0.19140625f, 0.205468744f, 0.219531253f,
    0.233593747f, 0.247656241f, 0.26171875f, 0.275781274f, 0.289843738f, 0.303906262f, 0.317968726f, 0.33203125f,
    0.346093744f, 0.360156238f, 0.374218762f, 0.388281226f, 0.40234375f, 0.416406244f, 0.430468738f, 0.444531262f,
    0.458593726f, 0.47265625f, 0.486718714f, 0.500781238f, 0.514843702f, 0.528906226f, 0.54296875f, 0.557031274f,
    0.571093798f, 0.585156262f, 0.599218726f, 0.61328125f, 0.627343774f, 0.641406298f, 0.655468762f, 0.669531226f,
    0.68359375f, 0.697656274f, 0.711718798f, 0.725781262f, 0.739843726f, 0.75390625f, 0.767968774f, 0.782031238f,
    0.796093762f, 0.810156226f, 0.82421875f, 0.838281274f, 0.852343738f, 0.866406262f, 0.880468726f, 0.89453125f,
    0.908593774f, 0.922656238f, 0.936718762f, 0.950781226f, 0.96484375f, 0.978906274f, 0.992968738f, 1.f,
};

__device__ __forceinline__ float code_value(unsigned fp4, unsigned code) { return fp4 ? FP4[code] : NF4[code]; }

// Entry `code` of the whole dynamic map.
__device__ __forceinline__ float dynamic_map(unsigned code) {
    if (code == 127) return 0.f;
    return code > 127 ? DYNAMIC_MAP[code - 128] : -DYNAMIC_MAP[126 - code];
}

// quant::Group: the nested absmax and the offset of QUANT_GROUP blocks. Two roundings, as bitsandbytes does it: no FMA.
__device__ __forceinline__ float nested_absmax(float map_value, float2 group) {
    return __fadd_rn(__fmul_rn(map_value, group.x), group.y);
}

__device__ __forceinline__ float2 group_of(const Weight4Params &w, size_t block) {
    return make_float2(w.groups[block / QUANT_GROUP * 2], w.groups[block / QUANT_GROUP * 2 + 1]);
}

// The scale of `block`. `map`: the dynamic map in shared memory (`fill_dynamic_map`), or null to read it from global.
__device__ __forceinline__ float block_absmax(const Weight4Params &w, size_t block, const float *map = nullptr) {
    if (w.absmax) return w.absmax[block];
    unsigned code = w.absmax_codes[block];
    return nested_absmax(map ? map[code] : dynamic_map(code), group_of(w, block));
}

// Element `i` of the flattened weight as f32, before rounding to the compute type: right for any shape, slow.
__device__ __forceinline__ float weight4_at(const Weight4Params &w, size_t i, const float *map = nullptr) {
    unsigned byte = w.codes[i / 2];
    return __fmul_rn(code_value(w.fp4, i % 2 ? byte & 15 : byte >> 4), block_absmax(w, i >> w.block_shift, map));
}

// Call with all threads of a one-dimensional block, then __syncthreads().
__device__ __forceinline__ void fill_dynamic_map(float (&map)[256]) {
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) map[i] = dynamic_map(i);
}

// The 16 codes, one copy for each lane of a warp: any look-up of 32 lanes is free of bank conflicts. Lives in
// shared memory.
struct CodeTable {
    float value[16][32];

    // Call with all threads of a one-dimensional block, then __syncthreads().
    __device__ __forceinline__ void fill(unsigned fp4) {
        for (unsigned i = threadIdx.x; i < 16 * 32; i += blockDim.x) value[i / 32][i % 32] = code_value(fp4, i / 32);
    }

    // Code number `e` (0 to 7) of four bytes, in the order of the elements: high half of byte 0 first.
    __device__ __forceinline__ float at(uint32_t codes, int e) const {
        int shift = e / 2 * 8 + (e % 2 ? 0 : 4); // of the code
        uint32_t row = shift >= 7 ? codes >> (shift - 7) : codes << (7 - shift);
        uint32_t offset = (row & (15 * 128)) | (threadIdx.x % 32 * 4);
        return *reinterpret_cast<const float *>(reinterpret_cast<const char *>(value) + offset);
    }

    // Eight weights of one block.
    template <class T> __device__ __forceinline__ void dequantize8(uint32_t codes, float absmax, T *out) const {
#pragma unroll
        for (int e = 0; e < 8; e++) out[e] = from_f32<T>(__fmul_rn(at(codes, e), absmax));
    }
};
