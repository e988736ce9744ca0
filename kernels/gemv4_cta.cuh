#pragma once
// The CTA of gemv4.cuh: its sizes, and how its warps wait for each other.
#include "barrier.cuh"
#include "skinny4.cuh"

constexpr unsigned GEMV4_TILE = GEMM_SKINNY_ROWS, GEMV4_THREADS = LINEAR4_GEMV_THREADS;
constexpr unsigned GEMV4_WARPS = GEMV4_THREADS / 32 - 1; // that multiply
constexpr unsigned GEMV4_ROW = UNIT_K / 2;               // bytes of a row that a warp has
constexpr unsigned GEMV4_STAGES = 4, GEMV4_STAGE_BYTES = GEMV4_WARPS * UNIT_BYTES;
constexpr unsigned GEMV4_STAGE_TILES = 4; // at most
constexpr unsigned GEMV4_GROUPS = 64;     // quantisation groups of a group of tiles, at most
constexpr unsigned GEMV4_SCALE_PAD = 16;  // bytes between the scales of two rows
// Of a warp: 12 tiles of one token, 6 of two. Then two more, so that four warps' sums lie in different banks.
constexpr unsigned GEMV4_SUMS = 12 * GEMV4_TILE, GEMV4_SUMS_PITCH = GEMV4_SUMS + 2;
constexpr unsigned GEMV4_SUMS_BYTES = GEMV4_WARPS * GEMV4_SUMS_PITCH * 4;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define GEMV4 1
#else
#define GEMV4 0
#endif

#if GEMV4
// All warps: until the barriers and the table are made. The copying warp only says so.
__device__ __forceinline__ void all_made(bool copies) {
    if (copies)
        asm volatile("bar.arrive 2, %0;" ::"n"(GEMV4_THREADS) : "memory");
    else
        asm volatile("bar.sync 2, %0;" ::"n"(GEMV4_THREADS) : "memory");
}

// The multiplying warps wait for each other.
__device__ __forceinline__ void sync_multipliers() {
    asm volatile("bar.sync 1, %0;" ::"n"(GEMV4_WARPS * 32) : "memory");
}
#endif
