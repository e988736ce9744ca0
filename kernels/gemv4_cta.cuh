#pragma once
// The CTA of gemv4.cuh: its sizes, and how its warps wait for each other.
#include "barrier.cuh"
#include "skinny4.cuh"

constexpr unsigned GEMV4_TILE = GEMM_SKINNY_ROWS, GEMV4_THREADS = LINEAR4_GEMV_THREADS;
constexpr unsigned GEMV4_WARPS = LINEAR4_GEMV_WARPS; // that multiply
static_assert(GEMV4_THREADS == (GEMV4_WARPS + 1) * 32);
constexpr unsigned GEMV4_ROW = UNIT_K / 2;               // bytes of a row that a warp has
constexpr unsigned GEMV4_STAGES = 4, GEMV4_STAGE_BYTES = GEMV4_WARPS * UNIT_BYTES;
// Of a warp, and two more, so that four warps' sums lie in different banks.
constexpr unsigned GEMV4_SUMS = LINEAR4_GEMV_SUM_TILES * GEMV4_TILE, GEMV4_SUMS_PITCH = GEMV4_SUMS + 2;
constexpr unsigned GEMV4_SUMS_BYTES = GEMV4_WARPS * GEMV4_SUMS_PITCH * 4;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define GEMV4 1
#else
#define GEMV4 0
#endif

#if GEMV4
// All warps: until the barriers and the table are made. The copying warp only says so.
template <unsigned THREADS = GEMV4_THREADS> __device__ __forceinline__ void all_made(bool copies) {
    if (copies)
        asm volatile("bar.arrive 2, %0;" ::"n"(THREADS) : "memory");
    else
        asm volatile("bar.sync 2, %0;" ::"n"(THREADS) : "memory");
}

// Warps that copy: until the others have asked for the little that they need of memory, which would otherwise wait behind
// the weight.
template <unsigned THREADS = GEMV4_THREADS> __device__ __forceinline__ void all_asked(bool copies) {
    if (copies)
        asm volatile("bar.sync 3, %0;" ::"n"(THREADS) : "memory");
    else
        asm volatile("bar.arrive 3, %0;" ::"n"(THREADS) : "memory");
}

// The multiplying warps: until what adapters make of x is in shared memory, where the copying warp puts it.
__device__ __forceinline__ void adapters_are_there(bool copies) {
    if (copies)
        asm volatile("bar.arrive 4, %0;" ::"n"(GEMV4_THREADS) : "memory");
    else
        asm volatile("bar.sync 4, %0;" ::"n"(GEMV4_THREADS) : "memory");
}

// The multiplying warps wait for each other.
__device__ __forceinline__ void sync_multipliers() {
    asm volatile("bar.sync 1, %0;" ::"n"(GEMV4_WARPS * 32) : "memory");
}
// A word of frozen memory, asked for here and now.
__device__ __forceinline__ float load_now(const float *p) {
    float v;
    asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(v) : "l"(__cvta_generic_to_global(p)));
    return v;
}

// Entry threadIdx.x / 2 of a table of bytes: a pair of codes, and a number of the dynamic map. Warp w has the bytes whose
// first code is w; a pair of lanes those with one second code. What it needs of memory is asked for at once.
template <class T> struct TableEntry {
    float code, map; // the second code's value; the number without its sign

    __device__ __forceinline__ explicit TableEntry(unsigned fp4) {
        unsigned byte = threadIdx.x / 2;
        code = load_now((fp4 ? FP4 : NF4) + byte % 16);
        map = load_now(DYNAMIC_MAP + (byte > 127 ? byte - 128 : 126 - min(byte, 126u)));
    }
    __device__ __forceinline__ uint32_t pair(unsigned fp4) const {
        T own = from_f32<T>(table_gain<T>(fp4) * code);
        uint32_t second = reinterpret_cast<const uint16_t &>(own);
        return __shfl_sync(~0u, second, threadIdx.x / 32 * 2) | second << 16;
    }
    __device__ __forceinline__ float scale() const {
        unsigned byte = threadIdx.x / 2;
        return byte == 127 ? 0.f : byte > 127 ? map : -map;
    }
};

// A word of what does not change while it is read.
template <int OFFSET> __device__ __forceinline__ uint32_t load_shared(uint32_t address) {
    uint32_t word;
    asm("ld.shared.b32 %0, [%1 + %2];" : "=r"(word) : "r"(address), "n"(OFFSET));
    return word;
}

__device__ __forceinline__ uint4 load16(const char *p) { return *reinterpret_cast<const uint4 *>(p); }

// Where a lane finds its first 16 bytes in a stage; its block's scale in the first of two rows, and which block of its
// group of tiles that is; and where it leaves its sum.
struct Cursor {
    unsigned codes;
    const char *scale;
    unsigned block;
    float *sum;
};

// What is done around the product: norm_linear4.cu.
enum class Fused { NOTHING, ADAPTERS, NORM, NORM_SWIGLU, NORM_ADAPTERS, NORM_SWIGLU_ADAPTERS };
#endif
