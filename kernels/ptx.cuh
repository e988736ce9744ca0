#pragma once
// Instructions without a C++ name: matrix multiply, matrix loads, asynchronous copies to shared memory.
// Layouts: "mma.m16n8k16" in the PTX manual. Lane = 4 g + t, with g in 0..8 and t in 0..4.
#include "types.cuh"

// An address in shared memory, as the instructions below take it.
__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// d += a b with f32 sums. a [16, 16]: a[0] is row g, columns 2t and 2t + 1; a[1] row g + 8; a[2] and a[3] the same
// with 8 columns more. b [16, 8]: b[0] is rows 2t and 2t + 1 of column g, b[1] 8 rows more.
// d [16, 8]: d[0], d[1] are row g, columns 2t and 2t + 1; d[2], d[3] row g + 8.
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma_m16n8k16<bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma_m16n8k16<f16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8x8 matrices of 16-bit elements; lanes 8 i .. 8 i + 7 give the rows' addresses of matrix i. r[i] of a lane is
// row g, columns 2t and 2t + 1 of matrix i; with `trans`, rows 2t and 2t + 1 of column g.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(address)
        : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(address)
        : "memory");
}

// Stores them, with addresses and registers as `ldmatrix_x4` has them.
__device__ __forceinline__ void stmatrix_x4(uint32_t address, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
}

// store_pack to global memory in one instruction: of a pack that was filled element by element the compiler makes four
// stores or more.
template <class T> __device__ __forceinline__ void store16(T *p, const Pack<T> &v) {
    const uint4 &words = reinterpret_cast<const uint4 &>(v);
    asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(p)), "r"(words.x), "r"(words.y),
                 "r"(words.z), "r"(words.w)
        : "memory");
}

// A number that another CTA leaves in memory, and with it what that CTA wrote before.
__device__ __forceinline__ unsigned load_acquire(const unsigned *p) {
    unsigned v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(__cvta_generic_to_global(p)) : "memory");
    return v;
}

// Asks for a line of L2, where no stale copy can stay.
__device__ __forceinline__ void prefetch_l2(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
}

// Into L1, by a load of which nothing is used.
__device__ __forceinline__ void touch(const void *p) {
    asm volatile("{ .reg .b16 byte; ld.global.ca.b8 byte, [%0]; }" ::"l"(__cvta_generic_to_global(p)));
}

// Starts copying 16 bytes past L1. Of the source only the first `bytes` are read; the rest becomes zero.
__device__ __forceinline__ void cp_async16(uint32_t shared, const void *global, uint32_t bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(__cvta_generic_to_global(global)),
                 "r"(bytes)
        : "memory");
}
// Starts copying 8 bytes.
__device__ __forceinline__ void cp_async8(uint32_t shared, const void *global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(__cvta_generic_to_global(global))
        : "memory");
}
// Starts copying 4 bytes.
__device__ __forceinline__ void cp_async4(uint32_t shared, const void *global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(__cvta_generic_to_global(global))
        : "memory");
}
// Closes a group of copies of this thread; groups end in the order they were closed.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N groups of this thread are still under way.
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
