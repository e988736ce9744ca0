#pragma once
// Products of a warpgroup (4 warps, 64 rows) on Hopper: asynchronous, with the right factor, and the left one if
// wanted, read from shared memory. Shapes and layouts: "wgmma" in the PTX manual.
#include "ptx.cuh"

// Only sm_90a has them: a kernel made of them is absent from the modules of other architectures, and the launch asks
// whether it is there.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WGMMA 1
#else
#define WGMMA 0
#endif

// A tile in shared memory as the instructions take it: rows of 64 (128-byte swizzle) or of 32 elements (64-byte).
// `stride` is the distance of groups of 8 rows, `leading` that of panels of columns when they are the outputs.
template <int COLUMNS> __device__ __forceinline__ uint64_t wgmma_tile(uint32_t address, uint32_t leading) {
    static_assert(COLUMNS == 64 || COLUMNS == 32, "a swizzle of 128 or 64 bytes");
    constexpr uint64_t SWIZZLE = COLUMNS == 64 ? 1 : 2, STRIDE = 8 * COLUMNS * 2;
    return (address & 0x3FFFF) >> 4 | uint64_t(leading >> 4) << 16 | (STRIDE >> 4) << 32 | SWIZZLE << 62;
}

// Before the first product that reads registers which other instructions wrote.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Closes a group of products; groups end in the order they were closed.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most PENDING groups are under way; `c` belongs to those that have ended.
template <int PENDING, int N> __device__ __forceinline__ void wgmma_wait(float (&c)[N][4]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#pragma unroll
    for (int n = 0; n < N; n++) asm volatile("" : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])::"memory");
}
// The same while `c` belongs to those that are under way.
template <int PENDING> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Zeros to begin a sum with, before any product is under way.
template <int N> __device__ __forceinline__ void clear(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.f;
        asm volatile("" : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])::"memory");
    }
}
// Makes what this thread wrote to shared memory visible to the products; a barrier comes after it.
__device__ __forceinline__ void wgmma_publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Gives registers up to the other warpgroups of the CTA, or takes what they gave up, so that each thread of this one has
// so many. Called by all four warps.
template <int REGISTERS, bool MORE> __device__ __forceinline__ void set_registers() {
    if constexpr (MORE) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    else asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// c[64, N] (+)= a b for 16 of the contraction, c as mma_m16n8k16 has it, 16 rows in each warp.
// wgmma_tiles: a [64, 16], b [N, 16]^T, both tiles. wgmma_rows: a as mma_m16n8k16 has it, b [16, N] a tile.
// wgmma_rows_transposed: the same with b [N, 16]^T a tile. wgmma_columns: a [16, 64]^T, b [16, N], both tiles.
template <class T, int N>
__device__ __forceinline__ void wgmma_tiles(float (&c)[N / 8][4], uint64_t a, uint64_t b, bool add);
template <class T, int N>
__device__ __forceinline__ void wgmma_rows(float (&c)[N / 8][4], const uint32_t (&a)[4], uint64_t b);
template <class T, int N>
__device__ __forceinline__ void wgmma_rows_transposed(float (&c)[N / 8][4], const uint32_t *a, uint64_t b, bool add);
template <class T, int N>
__device__ __forceinline__ void wgmma_columns(float (&c)[N / 8][4], uint64_t a, uint64_t b, bool add);

// clang-format off
#define WGMMA_4(c, i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define WGMMA_16(c, i) WGMMA_4(c, i), WGMMA_4(c, i + 1), WGMMA_4(c, i + 2), WGMMA_4(c, i + 3)
#define WGMMA_OUT_16(c) WGMMA_4(c, 0), WGMMA_4(c, 1)
#define WGMMA_OUT_32(c) WGMMA_16(c, 0)
#define WGMMA_OUT_64(c) WGMMA_16(c, 0), WGMMA_16(c, 4)
#define WGMMA_OUT_96(c) WGMMA_OUT_64(c), WGMMA_16(c, 8)
#define WGMMA_OUT_128(c) WGMMA_OUT_96(c), WGMMA_16(c, 12)
#define WGMMA_OUT_192(c) WGMMA_OUT_128(c), WGMMA_16(c, 16), WGMMA_16(c, 20)
#define WGMMA_OUT_256(c) WGMMA_OUT_192(c), WGMMA_16(c, 24), WGMMA_16(c, 28)
#define WGMMA_OF(T, NAME, N, LIST, A, B, ADD, A0, A1, A2, A3, B0)                                                         \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma_tiles<T, N>(float (&c)[N / 8][4], uint64_t a, uint64_t b, bool add) {        \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, " ADD ", 0;"                                                      \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" LIST "}, " A ", " B          \
                     ", p, 1, 1, 0, 0; }"                                                                              \
                     : WGMMA_OUT_##N(c) : "l"(a), "l"(b), "r"(int(add)));                                              \
    }                                                                                                                  \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma_rows<T, N>(float (&c)[N / 8][4], const uint32_t (&a)[4], uint64_t b) {       \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" LIST "}, {" A0 "," A1 "," A2 \
                     "," A3 "}, " B0 ", 1, 1, 1, 1;"                                                                   \
                     : WGMMA_OUT_##N(c) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                         \
    }
#define WGMMA_ROWS_TRANSPOSED_OF(T, NAME, N, LIST, A0, A1, A2, A3, B, ADD)                                                \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma_rows_transposed<T, N>(float (&c)[N / 8][4], const uint32_t *a, uint64_t b,   \
                                                                bool add) {                                            \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, " ADD ", 0;"                                                      \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" LIST "}, {" A0 "," A1 "," A2 \
                     "," A3 "}, " B ", p, 1, 1, 0; }"                                                                  \
                     : WGMMA_OUT_##N(c) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)));          \
    }
#define WGMMA_COLUMNS_OF(T, NAME, N, LIST, A, B, ADD)                                                                     \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma_columns<T, N>(float (&c)[N / 8][4], uint64_t a, uint64_t b, bool add) {      \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, " ADD ", 0;"                                                      \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" LIST "}, " A ", " B          \
                     ", p, 1, 1, 1, 1; }"                                                                              \
                     : WGMMA_OUT_##N(c) : "l"(a), "l"(b), "r"(int(add)));                                              \
    }
#define WGMMA_BOTH(N, LIST, ...)                                                                                       \
    WGMMA_ROWS_TRANSPOSED_OF(bf16, "bf16", N, LIST, __VA_ARGS__)                                                       \
    WGMMA_ROWS_TRANSPOSED_OF(f16, "f16", N, LIST, __VA_ARGS__)
// The ten registers from "%d0" on, and lists of so many registers.
#define WGMMA_TEN(d) "%" d "0,%" d "1,%" d "2,%" d "3,%" d "4,%" d "5,%" d "6,%" d "7,%" d "8,%" d "9,"
#define WGMMA_FIFTY WGMMA_TEN("") WGMMA_TEN("1") WGMMA_TEN("2") WGMMA_TEN("3") WGMMA_TEN("4")
#define WGMMA_NINETY WGMMA_FIFTY WGMMA_TEN("5") WGMMA_TEN("6") WGMMA_TEN("7") WGMMA_TEN("8")
#define WGMMA_LIST_16 "%0,%1,%2,%3,%4,%5,%6,%7"
#define WGMMA_LIST_32 WGMMA_TEN("") "%10,%11,%12,%13,%14,%15"
#define WGMMA_LIST_64 WGMMA_TEN("") WGMMA_TEN("1") WGMMA_TEN("2") "%30,%31"
#define WGMMA_LIST_96 WGMMA_TEN("") WGMMA_TEN("1") WGMMA_TEN("2") WGMMA_TEN("3") \
    "%40,%41,%42,%43,%44,%45,%46,%47"
#define WGMMA_LIST_128 WGMMA_FIFTY WGMMA_TEN("5") "%60,%61,%62,%63"
#define WGMMA_LIST_192 WGMMA_NINETY "%90,%91,%92,%93,%94,%95"
#define WGMMA_LIST_256 WGMMA_NINETY WGMMA_TEN("9") WGMMA_TEN("10") WGMMA_TEN("11") \
    "%120,%121,%122,%123,%124,%125,%126,%127"
WGMMA_OF(bf16, "bf16", 32, WGMMA_LIST_32, "%16", "%17", "%18", "%16", "%17", "%18", "%19", "%20")
WGMMA_OF(f16, "f16", 32, WGMMA_LIST_32, "%16", "%17", "%18", "%16", "%17", "%18", "%19", "%20")
WGMMA_OF(bf16, "bf16", 64, WGMMA_LIST_64, "%32", "%33", "%34", "%32", "%33", "%34", "%35", "%36")
WGMMA_OF(f16, "f16", 64, WGMMA_LIST_64, "%32", "%33", "%34", "%32", "%33", "%34", "%35", "%36")
WGMMA_OF(bf16, "bf16", 128, WGMMA_LIST_128, "%64", "%65", "%66", "%64", "%65", "%66", "%67", "%68")
WGMMA_OF(f16, "f16", 128, WGMMA_LIST_128, "%64", "%65", "%66", "%64", "%65", "%66", "%67", "%68")
WGMMA_COLUMNS_OF(bf16, "bf16", 32, WGMMA_LIST_32, "%16", "%17", "%18")
WGMMA_COLUMNS_OF(f16, "f16", 32, WGMMA_LIST_32, "%16", "%17", "%18")
WGMMA_COLUMNS_OF(bf16, "bf16", 64, WGMMA_LIST_64, "%32", "%33", "%34")
WGMMA_COLUMNS_OF(f16, "f16", 64, WGMMA_LIST_64, "%32", "%33", "%34")
WGMMA_BOTH(16, WGMMA_LIST_16, "%8", "%9", "%10", "%11", "%12", "%13")
WGMMA_BOTH(32, WGMMA_LIST_32, "%16", "%17", "%18", "%19", "%20", "%21")
WGMMA_BOTH(64, WGMMA_LIST_64, "%32", "%33", "%34", "%35", "%36", "%37")
WGMMA_BOTH(96, WGMMA_LIST_96, "%48", "%49", "%50", "%51", "%52", "%53")
WGMMA_BOTH(128, WGMMA_LIST_128, "%64", "%65", "%66", "%67", "%68", "%69")
WGMMA_BOTH(192, WGMMA_LIST_192, "%96", "%97", "%98", "%99", "%100", "%101")
WGMMA_BOTH(256, WGMMA_LIST_256, "%128", "%129", "%130", "%131", "%132", "%133")
// clang-format on
