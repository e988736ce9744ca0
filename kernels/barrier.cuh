#pragma once
// Barriers in shared memory that copies by the copy engine arrive at (compute capability 9.0 on).
#include "ptx.cuh"

struct Barrier {
    uint64_t word;

    __device__ __forceinline__ void init(unsigned arrivals) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&word)), "r"(arrivals) : "memory");
    }
    __device__ __forceinline__ void arrive(unsigned seen = 0) {
        // 0, since blocks have one dimension, which the compiler cannot know.
        unsigned nothing = seen & (blockDim.z - 1);
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&word) + nothing) : "memory");
    }
    // A warp does not need any longer what it has read. One lane says so, after all of them; racecheck does not see that
    // __syncwarp orders their reads before that, so for it every lane does: NVCC_APPEND_FLAGS=-DRACECHECK.
    //
    // That loads were issued is not enough: an arrival overtakes them while products read shared memory, and the copy engine
    // was seen to overwrite rows that a warp had asked for. So either what was loaded has been used, or `seen` is made of it.
#ifdef RACECHECK
    static constexpr unsigned WARP_ARRIVALS = 32;
#else
    static constexpr unsigned WARP_ARRIVALS = 1;
#endif
    __device__ __forceinline__ void warp_arrives(unsigned seen = 0) {
        __syncwarp();
        if (threadIdx.x % 32 < WARP_ARRIVALS) arrive(seen);
    }
    // One arrival, and so many bytes of copies that the phase waits for.
    __device__ __forceinline__ void expect(unsigned bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&word)), "r"(bytes)
                     : "memory");
    }
    // Until the phase of this parity has ended.
    __device__ __forceinline__ void wait(unsigned parity) {
        asm volatile("{ .reg .pred done;\n"
                     "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                     "@!done bra again; }" ::"r"(shared_address(&word)),
                     "r"(parity)
                     : "memory");
    }
    // Starts a copy that this barrier's phase waits for; addresses and bytes are multiples of 16.
    __device__ __forceinline__ void copy(void *shared, const void *global, unsigned bytes) {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         shared_address(shared)),
                     "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(&word))
                     : "memory");
    }
};

// After the thread that made barriers, before anyone uses them.
__device__ __forceinline__ void barriers_are_made() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
