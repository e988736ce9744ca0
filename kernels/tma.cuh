#pragma once
// Tiles of a matrix copied to shared memory by the copy engine (compute capability 9.0 on), and the barriers on which
// such copies complete. "mbarrier" and "cp.async.bulk.tensor" in the PTX manual.
#include "ptx.cuh"

// A barrier in shared memory: a phase ends when `arrivals` threads have arrived and all announced bytes have come.
__device__ __forceinline__ void barrier_init(uint32_t barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After the barriers of a CTA were made, by the thread that made them: the copy engine sees them too.
__device__ __forceinline__ void barriers_publish() {
    asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and announces `bytes` that a copy will bring.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits for the end of the phase with this parity; phases alternate between 0 and 1, and "before the first" is 1.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, unsigned parity) {
    asm volatile("{ .reg .pred done;\n"
                 "again%=: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
                 "@!done bra again%=; }" ::"r"(barrier), "r"(parity)
        : "memory");
}

// Where a thread stands in a ring of stages, which it goes through again and again.
template <int STAGES> struct Turn {
    unsigned stage = 0, parity = 0;

    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// Starts copying the tile whose first element is in this column and row; what lies outside the matrix becomes zero.
// `once`: the matrix is read once, and is the first to leave L2.
__device__ __forceinline__ void copy_tile(uint32_t shared, const TensorMap &map, unsigned column, unsigned row,
                                          uint32_t barrier, bool once = false) {
#define COPY_TILE "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
    if (once) {
        asm volatile("{ .reg .b64 policy; createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n" COPY_TILE
                     ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], policy; }" ::"r"(shared), "l"(&map), "r"(column),
                     "r"(row), "r"(barrier)
            : "memory");
    } else {
        asm volatile(COPY_TILE " [%0], [%1, {%2, %3}], [%4];" ::"r"(shared), "l"(&map), "r"(column), "r"(row),
                     "r"(barrier)
            : "memory");
    }
#undef COPY_TILE
}
