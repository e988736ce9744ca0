#pragma once
// Tiles of a matrix copied to shared memory by the copy engine (compute capability 9.0 on): "cp.async.bulk.tensor" in
// the PTX manual.
#include "barrier.cuh"

// Where a thread stands in a ring of stages, which it goes through again and again.
template <int STAGES> struct Turn {
    unsigned stage = 0, parity = 0;

    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// Starts copying the tile whose first element is in this column and row; what lies outside the matrix becomes zero.
// The barrier's phase waits for it. `once`: the matrix is read once, and is the first to leave L2.
__device__ __forceinline__ void copy_tile(void *tile, const TensorMap &map, unsigned column, unsigned row,
                                          Barrier &barrier, bool once = false) {
    uint32_t to = shared_address(tile), done = shared_address(&barrier.word);
#define COPY_TILE "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
    if (once) {
        asm volatile("{ .reg .b64 policy; createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n" COPY_TILE
                     ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], policy; }" ::"r"(to), "l"(&map), "r"(column),
                     "r"(row), "r"(done)
            : "memory");
    } else {
        asm volatile(COPY_TILE " [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(&map), "r"(column), "r"(row),
                     "r"(done)
            : "memory");
    }
#undef COPY_TILE
}
