// Rounding to 4 bits, and double quantisation, bit for bit as bitsandbytes does them: the intrinsics keep the compiler
// from contracting to FMA. A thread has eight neighbours, so a block of 64 is eight lanes and its maximum three
// shuffles; blocks of more than 256 elements span warps and meet in shared memory. A CTA has 4096 elements, the largest
// block, so that none spans CTAs.
#include "dynamic_map.cuh"
#include "vec8.cuh"

constexpr unsigned THREADS = QUANTIZE_THREADS;
// Elements of a CTA: whole blocks of any size.
constexpr unsigned CHUNK = THREADS * QUANTIZE_PER_THREAD;

__device__ __forceinline__ unsigned nf4_code(float x) {
    // A value above i of these has code i.
    constexpr float THRESHOLDS[15] = {
        -0.8480964004993439f,  -0.6106329262256622f, -0.4599952697753906f,  -0.33967943489551544f,
        -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
        0.1202552504837513f,   0.2035212516784668f,  0.2920137718319893f,   0.3893125355243683f,
        0.5016634166240692f,   0.6427869200706482f,  0.8614784181118011f,
    };
    unsigned code = 0;
#pragma unroll
    for (int i = 0; i < 15; i++) code += x > THRESHOLDS[i];
    return code;
}

__device__ __forceinline__ unsigned fp4_code(float x) {
    // A magnitude above i of these has code number i of 0 1 6 7 4 5 2 3.
    constexpr float THRESHOLDS[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f, 0.4166667f, 0.583333f, 0.8333333f};
    unsigned above = 0;
#pragma unroll
    for (int i = 0; i < 7; i++) above += fabsf(x) > THRESHOLDS[i];
    return (0x32547610u >> (4 * above) & 15) | (x < 0 ? 8 : 0);
}

// The largest magnitude of this thread's block, as bits: as integers they order like the magnitudes, NaN above all.
__device__ unsigned block_largest(const Vec8 &x, unsigned block_shift) {
    __shared__ unsigned warps[THREADS / 32];
    unsigned largest = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) largest = max(largest, __float_as_uint(fabsf(x.v[j])));
    unsigned threads = 1u << (block_shift - 3);
    for (unsigned o = 1; o < min(threads, 32u); o <<= 1) largest = max(largest, __shfl_xor_sync(~0u, largest, o));
    if (threads <= 32) return largest;
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = largest;
    __syncthreads(); // `block_shift` is the same for all, so all come here
    unsigned first = threadIdx.x / threads * (threads / 32);
    for (unsigned i = 0; i < threads / 32; i++) largest = max(largest, warps[first + i]);
    return largest;
}

template <class T> __device__ void quantize(const QuantizeParams &p) {
    size_t start = size_t(blockIdx.x) * CHUNK + threadIdx.x * 8;
    size_t left = start < p.len ? p.len - start : 0;
    const T *x = static_cast<const T *>(p.x);
    // Zeros from the end on: they leave the maximum alone, and their code is the padding of an odd tail.
    Vec8 v = load8(x + start, left, aligned16(x, 0));
    float absmax = __uint_as_float(block_largest(v, p.block_shift));
    if (left == 0) return;
    if (start % (size_t(1) << p.block_shift) == 0) p.absmax[start >> p.block_shift] = absmax;
    float inverse = absmax == 0 ? 0.f : __fdiv_rn(1.f, absmax);
    uint32_t codes = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float share = __fmul_rn(v.v[j], inverse);
        unsigned code = p.fp4 ? fp4_code(share) : nf4_code(share);
        codes |= code << (j / 2 * 8 + (j % 2 ? 0 : 4));
    }
    unsigned char *out = p.codes + start / 2;
    if (left >= 8 && reinterpret_cast<uintptr_t>(p.codes) % 4 == 0) {
        *reinterpret_cast<uint32_t *>(out) = codes;
    } else {
        for (unsigned j = 0; j < 4 && 2 * j < left; j++) out[j] = codes >> (8 * j);
    }
}

#define INSTANTIATE_QUANTIZE(T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) quantize_##T(const __grid_constant__ QuantizeParams p) {     \
        begin_kernel();                                                                                                \
        quantize<T>(p);                                                                                                \
    }
INSTANTIATE_QUANTIZE(bf16)
INSTANTIATE_QUANTIZE(f16)
INSTANTIATE_QUANTIZE(f32)

// The mean in the order of PyTorch's CPU kernel on one thread (aten/src/ATen/native/cpu/SumKernel.cpp): the values
// are rows of 32 (four accumulators of eight lanes), and each of the 32 columns is summed in runs of 2^run_shift rows,
// runs of that many runs, and runs of those; what is left over at each level is added at the end.
// Here a lane is a column. Runs do not depend on each other, so that warps share them out.

constexpr unsigned COLUMNS = NEST_ABSMAX_COLUMNS;
static_assert(COLUMNS == 32, "one for each lane");

// `count` numbers, a row apart, from the first to the last. The additions depend on each other and cannot be reordered,
// so that loading AHEAD of them is all there is to hide.
__device__ __forceinline__ float sum_column(const float *x, unsigned count) {
    constexpr unsigned AHEAD = 16;
    float sum = 0, next[AHEAD];
    unsigned i = 0;
    for (; i + AHEAD <= count; i += AHEAD) {
#pragma unroll
        for (unsigned j = 0; j < AHEAD; j++) next[j] = x[size_t(i + j) * COLUMNS];
#pragma unroll
        for (unsigned j = 0; j < AHEAD; j++) sum = __fadd_rn(sum, next[j]);
    }
    for (; i < count; i++) sum = __fadd_rn(sum, x[size_t(i) * COLUMNS]);
    return sum;
}

// Runs of the first level, one for each warp.
extern "C" __global__ void nest_absmax_runs(const __grid_constant__ NestAbsmaxParams p) {
    begin_kernel();
    unsigned run = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (run >= p.n_runs) return;
    const float *x = p.absmax + (size_t(run) << p.run_shift) * COLUMNS + lane;
    p.sums[size_t(run) * COLUMNS + lane] = sum_column(x, 1u << p.run_shift);
}

// Sums runs of `x`'s rows into `out`, and returns how many there are.
__device__ unsigned sum_runs(const float *x, unsigned rows, unsigned shift, float *out) {
    unsigned runs = rows >> shift;
    unsigned lane = threadIdx.x % 32;
    for (unsigned i = threadIdx.x / 32; i < runs; i += blockDim.x / 32)
        out[size_t(i) * COLUMNS + lane] = sum_column(x + (size_t(i) << shift) * COLUMNS + lane, 1u << shift);
    __syncthreads(); // the next level reads what other warps have written
    return runs;
}

// The levels above, the rest, and the mean. One CTA.
extern "C" __global__ void nest_absmax_mean(const __grid_constant__ NestAbsmaxParams p) {
    begin_kernel();
    unsigned lane = threadIdx.x % 32, shift = p.run_shift;
    const float *first = p.sums;
    float *second = p.sums + size_t(p.n_runs) * COLUMNS;
    unsigned n_second = sum_runs(first, p.n_runs, shift, second);
    float *third = second + size_t(n_second) * COLUMNS;
    unsigned n_third = sum_runs(second, n_second, shift, third);
    if (threadIdx.x >= 32) return;
    auto rest = [&](const float *x, unsigned runs_above, unsigned rows) {
        unsigned from = runs_above << shift;
        return sum_column(x + size_t(from) * COLUMNS + lane, rows - from);
    };
    unsigned vectors = p.n / 8, rows = vectors / 4;
    float sum = rest(p.absmax, p.n_runs, rows);
    sum = __fadd_rn(sum, rest(first, n_second, p.n_runs));
    sum = __fadd_rn(sum, rest(second, n_third, n_second));
    sum = __fadd_rn(sum, sum_column(third + lane, n_third));
    // Vectors that fill no row go to the first accumulator; then the four are added up, then the tail and the lanes.
    for (unsigned i = rows * 4; i < vectors; i++)
        if (lane < 8) sum = __fadd_rn(sum, p.absmax[i * 8 + lane]);
    float own = sum;
    for (int k = 1; k < 4; k++) sum = __fadd_rn(sum, __shfl_sync(~0u, own, lane % 8 + 8 * k));
    float total = 0;
    for (unsigned i = vectors * 8; i < p.n; i++) total = __fadd_rn(total, p.absmax[i]);
    for (int v = 0; v < 8; v++) total = __fadd_rn(total, __shfl_sync(~0u, sum, v));
    if (lane == 0) *p.offset = __fdiv_rn(total, float(p.n));
}

// Codes and group: one CTA for each group, one thread for each block of it.
extern "C" __global__ void nest_absmax_codes(const __grid_constant__ NestAbsmaxParams p) {
    begin_kernel();
    __shared__ DynamicMap map;
    __shared__ unsigned warps[QUANT_GROUP / 32];
    unsigned t = threadIdx.x, i = blockIdx.x * QUANT_GROUP + t;
    map.fill(true);
    __syncthreads();
    map.fill_first();
    float offset = *p.offset;
    float x = i < p.n ? __fsub_rn(p.absmax[i], offset) : 0.f;
    unsigned largest = __reduce_max_sync(~0u, __float_as_uint(fabsf(x)));
    if (t % 32 == 0) warps[t / 32] = largest;
    __syncthreads();
    for (int w = 0; w < QUANT_GROUP / 32; w++) largest = max(largest, warps[w]);
    float absmax = __uint_as_float(largest);
    if (t == 0) reinterpret_cast<float2 *>(p.groups)[blockIdx.x] = make_float2(absmax, offset);
    if (i < p.n) p.codes[i] = map.nearest(__fmul_rn(x, __fdiv_rn(1.f, absmax)));
}
