#pragma once
// 4-bit weights to the compute type, by CTAs that have so many neighbouring weights each. A thread decodes eight at a time:
// 4 bytes in, 16 bytes out in bf16, so a warp reads 128 neighbouring bytes and writes 512. AHEAD groups are loaded, scales
// included, before the first is decoded. Eight weights never straddle blocks, which have 32 and more. The bound is the
// memory, 2.5 bytes a weight; the table keeps look-ups out of its way. CTAs that walk over more than one such piece, and so
// fill their tables less often, are slower.
#include "quant.cuh"

struct Decoder {
    static constexpr unsigned THREADS = DEQUANTIZE_THREADS, AHEAD = DEQUANTIZE_PER_THREAD / 8;
    static constexpr unsigned GROUPS = THREADS * AHEAD; // of a piece, which is whole blocks: of up to 4096

    CodeTable table;
    float map[256]; // of nested scales

    // Call with all threads, then __syncthreads().
    __device__ __forceinline__ void fill(const Weight4Params &w) {
        table.fill(w.fp4);
        if (!w.absmax) fill_dynamic_map(map);
    }

    template <bool NESTED> __device__ __forceinline__ float scale(const Weight4Params &w, size_t block) const {
        if (NESTED) return nested_absmax(map[w.absmax_codes[block]], group_of(w, block));
        return w.absmax[block];
    }

    template <class T> static __device__ __forceinline__ void store(T *out, const T (&v)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i += VEC<T>) {
            Pack<T> pack;
#pragma unroll
            for (int j = 0; j < VEC<T>; j++) pack.v[j] = v[i + j];
            store_pack(out + i, pack);
        }
    }

    // Piece `piece` of the weight; a group is eight weights. PITCHED: with gaps between the rows of `out`.
    template <class T, bool NESTED, bool PITCHED>
    __device__ __forceinline__ void decode(const DequantizeParams &p, unsigned piece) const {
        const Weight4Params &w = p.weight;
        size_t first = size_t(piece) * GROUPS, first_block = first >> (w.block_shift - 3);
        unsigned groups = min(size_t(w.rows) * w.cols / 8 - first, size_t(GROUPS)), per_row = w.cols / 8;
        const uint32_t *packed = reinterpret_cast<const uint32_t *>(w.codes) + first;
        T *out = static_cast<T *>(p.out.ptr);
        uint32_t codes[AHEAD];
        float absmax[AHEAD];
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++) {
            // What lies beyond the end is read again and not stored.
            unsigned i = min(threadIdx.x + a * THREADS, groups - 1);
            codes[a] = packed[i];
            absmax[a] = scale<NESTED>(w, first_block + (i >> (w.block_shift - 3)));
        }
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++) {
            unsigned i = threadIdx.x + a * THREADS, at = unsigned(first) + i, row = PITCHED ? at / per_row : 0;
            T v[8];
            table.dequantize8(codes[a], absmax[a], v);
            if (i >= groups) continue;
            if (PITCHED) store(out + size_t(row) * p.out.stride + (at - row * per_row) * 8, v);
            else store(out + (first + i) * 8, v);
        }
    }

    // Codes and rows of `out` begin at 4 and 16 bytes; where these have gaps, groups are counted in 32 bits.
    template <class T> __device__ __forceinline__ void decode(const DequantizeParams &p, unsigned piece) const {
        bool pitched = p.out.stride != p.weight.cols;
        if (p.weight.absmax) {
            if (pitched) decode<T, false, true>(p, piece);
            else decode<T, false, false>(p, piece);
        } else {
            if (pitched) decode<T, true, true>(p, piece);
            else decode<T, true, false>(p, piece);
        }
    }
};
