// 4-bit weights to the compute type. Each thread decodes eight weights at a time: 4 bytes in, 16 bytes out in bf16, so
// a warp reads 128 neighbouring bytes and writes 512. AHEAD groups are loaded, scales included, before the first is
// decoded. CTAs walk over the weight, as many as fit at once: each fills its two tables once. Eight weights never
// straddle blocks, which have 32 and more. The bound is the memory, 2.5 bytes a weight; the tables keep look-ups out of
// its way.
#include "quant.cuh"

constexpr unsigned THREADS = DEQUANTIZE_THREADS;
// Groups of eight that a thread has under way.
constexpr unsigned AHEAD = DEQUANTIZE_PER_THREAD / 8;

template <class T> __device__ __forceinline__ void store(T *out, const T (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += VEC<T>) {
        Pack<T> pack;
#pragma unroll
        for (int j = 0; j < VEC<T>; j++) pack.v[j] = v[i + j];
        store_pack(out + i, pack);
    }
}

template <bool NESTED> __device__ __forceinline__ float scale(const Weight4Params &w, size_t block, const float *map) {
    if (NESTED) return nested_absmax(map[w.absmax_codes[block]], group_of(w, block));
    return w.absmax[block];
}

// Groups of eight weights, `groups` of them.
// PITCHED: with gaps between the rows of `out`.
template <class T, bool NESTED, bool PITCHED>
__device__ __forceinline__ void decode(const Weight4Params &w, const MatrixMut &to, size_t groups,
                                       const CodeTable &table, const float *map) {
    T *out = static_cast<T *>(to.ptr);
    unsigned per_row = w.cols / 8;
    const uint32_t *packed = reinterpret_cast<const uint32_t *>(w.codes);
    size_t step = size_t(gridDim.x) * THREADS * AHEAD;
    for (size_t g = size_t(blockIdx.x) * THREADS * AHEAD + threadIdx.x; g < groups; g += step) {
        uint32_t codes[AHEAD];
        float absmax[AHEAD];
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++) {
            // What lies beyond the end is read again and not stored.
            size_t i = min(g + a * THREADS, groups - 1);
            codes[a] = packed[i];
            absmax[a] = scale<NESTED>(w, i * 8 >> w.block_shift, map);
        }
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++) {
            size_t i = g + a * THREADS;
            T v[8];
            table.dequantize8(codes[a], absmax[a], v);
            if (i >= groups) continue;
            if (PITCHED) store(out + i / per_row * to.stride + i % per_row * 8, v);
            else store(out + i * 8, v);
        }
    }
}

template <class T>
__device__ __forceinline__ void pitched(const DequantizeParams &p, size_t groups, const CodeTable &table,
                                        const float *map) {
    if (p.weight.absmax) decode<T, false, true>(p.weight, p.out, groups, table, map);
    else decode<T, true, true>(p.weight, p.out, groups, table, map);
}

template <class T> __device__ void dequantize(const DequantizeParams &p) {
    __shared__ float map[256];
    __shared__ CodeTable table;
    const Weight4Params &w = p.weight;
    table.fill(w.fp4);
    if (!w.absmax) fill_dynamic_map(map);
    __syncthreads();
    T *out = static_cast<T *>(p.out.ptr);
    size_t len = size_t(w.rows) * w.cols;
    bool packed = reinterpret_cast<uintptr_t>(w.codes) % 4 == 0 && aligned16(out, 0);
    size_t groups = packed ? len / 8 : 0;
    if (p.out.stride != w.cols) return pitched<T>(p, len / 8, table, map);
    if (w.absmax) decode<T, false, false>(w, p.out, groups, table, map);
    else decode<T, true, false>(w, p.out, groups, table, map);
    for (size_t i = groups * 8 + size_t(blockIdx.x) * THREADS + threadIdx.x; i < len; i += size_t(gridDim.x) * THREADS)
        out[i] = from_f32<T>(weight4_at(w, i, map));
}
INSTANTIATE(dequantize, DequantizeParams)
