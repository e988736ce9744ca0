// The low-rank adapter in two kernels that each read every large matrix once: lora_down (n x cols to n x r) and lora_up
// (n x r to n x cols); lora_skinny is both in one, for decoding. The gradients are in lora_grad.cu. Each has a form for
// the tensor cores, named by the columns of r that a warp takes, and one for any type and any alignment. The tensor
// cores do not care in which order a contraction is done, as long as both operands agree: each thread loads 8 or 16
// neighbouring bytes, and what these are is the k-th element for both. So no operand passes through shared memory,
// which would cost a barrier and save nothing: x and out are read once, and the factors, which are small, come from the
// cache. The bound is the memory.
#include "lora_down.cuh"
#include "lora_up.cuh"
#include "reduce.cuh"

// ------------------------------------------------------------------------------------------------ down

// `lora_down<width>`: many tokens; the CTAs of the same tokens are neighbours, whatever their part, since x is more than
// the cache holds. `lora_down_skinny<width>`: few, so that more warps share a row, one part after the other;
// `lora_down_lone<width>`: so few that a CTA has a multiprocessor to itself; `lora_down_cluster<width>`: or eight of them.
// `_drop`: with dropout.
#define INSTANTIATE_DOWN_FEW(T, name, drop, width, kind, warps, ahead)                                                 \
    extern "C" __global__ void __launch_bounds__(32 * warps)                                                           \
        lora_down_##kind##name##_##T(const __grid_constant__ LoraDownsParams p) {                                      \
        begin_kernel();                                                                                                \
        down<T, drop, width / 8, LORA_DOWN_FEW_TOKENS / 16, warps, ahead>(p.parts[blockIdx.z], blockIdx.x);            \
    }
#define INSTANTIATE_DOWN(T, name, drop, width, ahead, ahead_skinny)                                                    \
    extern "C" __global__ void __launch_bounds__(32 * LORA_DOWN_WARPS, 2)                                              \
        lora_down##name##_##T(const __grid_constant__ LoraDownsParams p) {                                             \
        begin_kernel();                                                                                                \
        down<T, drop, width / 8, LORA_DOWN_TOKENS / 16, LORA_DOWN_WARPS, ahead>(p.parts[blockIdx.x % p.count],         \
                                                                                blockIdx.x / p.count);                 \
    }                                                                                                                  \
    INSTANTIATE_DOWN_FEW(T, name, drop, width, skinny, LORA_DOWN_SKINNY_WARPS, ahead_skinny)
#define INSTANTIATE_DOWNS(T)                                                                                           \
    INSTANTIATE_DOWN(T, 8, false, 8, 2, 4)                                                                             \
    INSTANTIATE_DOWN(T, 16, false, 16, 2, 4)                                                                           \
    INSTANTIATE_DOWN(T, 32, false, 32, 1, 2)                                                                           \
    INSTANTIATE_DOWN(T, 8_drop, true, 8, 2, 2)                                                                         \
    INSTANTIATE_DOWN(T, 16_drop, true, 16, 2, 4)                                                                       \
    INSTANTIATE_DOWN(T, 32_drop, true, 32, 1, 2)
INSTANTIATE_DOWNS(bf16)
INSTANTIATE_DOWNS(f16)

#define INSTANTIATE_DOWN_CLUSTER(T, name, drop, width)                                                                 \
    extern "C" __global__ void CLUSTER_OF(LORA_DOWN_CLUSTER) __launch_bounds__(32 * LORA_DOWN_CLUSTER_WARPS)           \
        lora_down_cluster##name##_##T(const __grid_constant__ LoraDownsParams p) {                                     \
        begin_kernel();                                                                                                \
        down_cluster<T, drop, width / 8, LORA_DOWN_CLUSTER_WARPS, 2>(p.parts[blockIdx.z],                              \
                                                                     blockIdx.x / LORA_DOWN_CLUSTER);                  \
    }
#define INSTANTIATE_DOWN_HOPPER(T)                                                                                   \
    INSTANTIATE_DOWN_FEW(T, 8, false, 8, lone, LORA_DOWN_LONE_WARPS, 4)                                                \
    INSTANTIATE_DOWN_FEW(T, 16, false, 16, lone, LORA_DOWN_LONE_WARPS, 4)                                              \
    INSTANTIATE_DOWN_FEW(T, 8_drop, true, 8, lone, LORA_DOWN_LONE_WARPS, 2)                                            \
    INSTANTIATE_DOWN_FEW(T, 16_drop, true, 16, lone, LORA_DOWN_LONE_WARPS, 1)                                          \
    INSTANTIATE_DOWN_CLUSTER(T, 8, false, 8)                                                                           \
    INSTANTIATE_DOWN_CLUSTER(T, 16, false, 16)                                                                         \
    INSTANTIATE_DOWN_CLUSTER(T, 32, false, 32)                                                                         \
    INSTANTIATE_DOWN_CLUSTER(T, 8_drop, true, 8)                                                                       \
    INSTANTIATE_DOWN_CLUSTER(T, 16_drop, true, 16)                                                                     \
    INSTANTIATE_DOWN_CLUSTER(T, 32_drop, true, 32)
#if CLUSTERS // and for 32 warps, older ones have too few registers
INSTANTIATE_DOWN_HOPPER(bf16)
INSTANTIATE_DOWN_HOPPER(f16)
#endif

// SwiGLU on the way.
#define INSTANTIATE_SWIGLU_DOWN(T, name, drop, ahead)                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * LORA_SWIGLU_DOWN_WARPS)                                          \
        lora_swiglu_down##name##_##T(const __grid_constant__ LoraSwigluDownParams p) {                                 \
        begin_kernel();                                                                                                \
        swiglu_down<T, drop, 2, LORA_SWIGLU_DOWN_WARPS, ahead>(p.swiglu, p.down);                                      \
    }
INSTANTIATE_SWIGLU_DOWN(bf16, 16, false, 2)
INSTANTIATE_SWIGLU_DOWN(f16, 16, false, 2)
INSTANTIATE_SWIGLU_DOWN(bf16, 16_drop, true, 1)
INSTANTIATE_SWIGLU_DOWN(f16, 16_drop, true, 1)

// A warp for each token and eight columns of r.
template <class T> __device__ void lora_down_simt(const LoraDownsParams &ps) {
    const LoraDownParams &p = ps.parts[blockIdx.z];
    constexpr int WARPS = LORA_DOWN_SIMT_WARPS, WIDTH = LORA_DOWN_SIMT_COLS;
    unsigned row = blockIdx.x * WARPS + threadIdx.x / 32, r0 = blockIdx.y * WIDTH, lane = threadIdx.x % 32;
    if (row >= (p.out_t.ptr ? p.out_t.stride : p.n) || r0 >= p.r) return;
    Dropout dropout = dropout_of(p.dropout);
    const T *x = row_of<T>(p.x, row), *a = static_cast<const T *>(p.a);
    float sum[WIDTH] = {};
    for (unsigned k = row < p.n ? lane : p.cols; k < p.cols; k += 32) {
        float v = kept(dropout, row, k) ? to_f32(x[k]) : 0.f;
#pragma unroll
        for (unsigned j = 0; j < WIDTH; j++) sum[j] += v * to_f32(a[size_t(min(r0 + j, p.r - 1)) * p.cols + k]);
    }
#pragma unroll
    for (unsigned j = 0; j < WIDTH; j++) {
        float v = warp_sum(sum[j]);
        if (lane != 0 || r0 + j >= p.r) continue;
        store_down<T>(p, row, r0 + j, v);
        if (p.out_t.ptr) row_of<T>(p.out_t, r0 + j)[row] = from_f32<T>(p.scale * v);
    }
}
INSTANTIATE(lora_down_simt, LoraDownsParams)

// ------------------------------------------------------------------------------------------------ up

// A CTA walks over its tokens 16 or 32 at a time.
template <class T, bool DROP, int DEPTH, int TILES> __device__ void up(const LoraUpParams &p) {
    unsigned across = (p.cols + UP_COLS - 1) / UP_COLS;
    unsigned col0 = blockIdx.x % across * UP_COLS + threadIdx.x / 32 * 32, row0 = blockIdx.x / across * UP_TOKENS;
    if (col0 >= p.cols || row0 >= p.n) return;
    Up<T, DEPTH, TILES> tile(p, col0);
    tile.load_b(p, 0);
#pragma unroll 1
    for (unsigned row = row0; row < min(row0 + UP_TOKENS, p.n); row += 16 * TILES) {
        tile.load_out(p, row);
#pragma unroll 1
        for (unsigned k0 = 0; k0 < p.r; k0 += 16 * DEPTH) {
            if (p.r > 16 * DEPTH) tile.load_b(p, k0);
            tile.multiply(p, static_cast<const T *>(p.xa.ptr), p.xa.stride, row, p.n, k0);
        }
        tile.template store<DROP>(p, row);
    }
}

// Parts with outputs of their own, or those of the same output in turn: a thread has the same elements of each, so that
// they stay in the cache.
template <class Part> __device__ __forceinline__ void each_up(const LoraUpsParams &p, Part part) {
    if (p.in_turn == 0) return part(p.parts[blockIdx.z]);
#pragma unroll 1
    for (unsigned i = 0; i < p.in_turn; i++) part(p.parts[i]);
}

#define INSTANTIATE_UP(T, depth)                                                                                       \
    extern "C" __global__ void __launch_bounds__(LORA_UP_THREADS, 2)                                                   \
        lora_up##depth##_##T(const __grid_constant__ LoraUpsParams p) {                                                \
        begin_kernel();                                                                                                \
        each_up(p, [](const LoraUpParams &part) { up<T, false, depth / 16, depth == 64 ? 1 : 2>(part); });             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(LORA_UP_THREADS, 2)                                                   \
        lora_up##depth##_drop_##T(const __grid_constant__ LoraUpsParams p) {                                           \
        begin_kernel();                                                                                                \
        each_up(p, [](const LoraUpParams &part) { up<T, true, depth / 16, depth == 16 ? 2 : 1>(part); });              \
    }
#define INSTANTIATE_UPS(T)                                                                                             \
    INSTANTIATE_UP(T, 16)                                                                                              \
    INSTANTIATE_UP(T, 32)                                                                                              \
    INSTANTIATE_UP(T, 64)
INSTANTIATE_UPS(bf16)
INSTANTIATE_UPS(f16)

// All that add to one output at once, by their number.
#define INSTANTIATE_UP_TOGETHER(T, parts)                                                                              \
    extern "C" __global__ void __launch_bounds__(LORA_UP_THREADS, parts == 3 ? WIDEST_CTAS : 2)                        \
        lora_up_together##parts##_##T(const __grid_constant__ LoraUpsParams p) {                                       \
        begin_kernel();                                                                                                \
        up_together<T, parts>(p);                                                                                      \
    }
INSTANTIATE_UP_TOGETHER(bf16, 1)
INSTANTIATE_UP_TOGETHER(f16, 1)
INSTANTIATE_UP_TOGETHER(bf16, 2)
INSTANTIATE_UP_TOGETHER(f16, 2)
INSTANTIATE_UP_TOGETHER(bf16, 3)
INSTANTIATE_UP_TOGETHER(f16, 3)

// A thread for each element.
template <class T> __device__ __forceinline__ void up_simt(const LoraUpParams &p) {
    unsigned across = (p.cols + UP_COLS - 1) / UP_COLS;
    unsigned row = blockIdx.x / across, col = blockIdx.x % across * UP_COLS + threadIdx.x;
    if (col >= p.cols || row >= p.n || !kept(dropout_of(p.dropout), row, col)) return;
    const T *xa = row_of<T>(p.xa, row);
    const T *b = static_cast<const T *>(p.b) + size_t(col) * p.r;
    T *out = row_of<T>(p.out, row) + col;
    float sum = 0;
    for (unsigned k = 0; k < p.r; k++) sum += to_f32(xa[k]) * to_f32(b[k]);
    *out = from_f32<T>(to_f32(*out) + p.scale * sum);
}
template <class T> __device__ void lora_up_simt(const LoraUpsParams &p) {
    each_up(p, [](const LoraUpParams &part) { up_simt<T>(part); });
}
INSTANTIATE(lora_up_simt, LoraUpsParams)

// ------------------------------------------------------------------------------------------------ both

// Skinny tokens, 16 for each cluster of CTAs: down and up in one launch, for decoding, where an adapter is a matter of
// latency. All warps of the cluster share out the columns of x; each CTA adds up what the others have in shared memory.
// 8 CTAs are the largest cluster that every GPU with clusters takes. Each CTA has all of xa in the end, and a part of
// `out`.
constexpr unsigned SKINNY_WARPS = LORA_SKINNY_WARPS, CLUSTER = LORA_SKINNY_CLUSTER;

template <class T, int WIDTH> struct SkinnyShared {
    float warps[SKINNY_WARPS][16 * WIDTH];
    float sums[16 * WIDTH];
    T xa[16 * WIDTH];
};
// The launch computes the same.
template <class T, int WIDTH> constexpr unsigned SKINNY_BYTES =
    WIDTH * LORA_SKINNY_TOKENS * ((LORA_SKINNY_WARPS + 1) * sizeof(float) + sizeof(T));

template <class T, int WIDTH, int AHEAD> __device__ void lora_skinny(const LoraDownParams &p, const LoraUpParams &q) {
    extern __shared__ uint4 memory[];
    static_assert(sizeof(SkinnyShared<T, WIDTH>) == SKINNY_BYTES<T, WIDTH>);
    auto &s = *reinterpret_cast<SkinnyShared<T, WIDTH> *>(memory);
    unsigned rank = cluster_rank(), warp = threadIdx.x / 32, row0 = blockIdx.x / CLUSTER * 16;
    unsigned first = rank * SKINNY_WARPS + warp;
    Down<T, WIDTH / 8, 1> products;
    products.template add<false, AHEAD>(p, row0, 0, first, SKINNY_WARPS * CLUSTER);
    products.store(s.warps[warp]);
    // Asked for now, needed after the barriers.
    Up<T, WIDTH / 16, 1> tile(q, first * 32);
    tile.load_b(q, 0);
    tile.load_out(q, row0);
    __syncthreads(); // all warps of this CTA have stored their sums
    for (unsigned i = threadIdx.x; i < 16 * WIDTH; i += 32 * SKINNY_WARPS) {
        float sum = 0;
        for (unsigned w = 0; w < SKINNY_WARPS; w++) sum += s.warps[w][i];
        s.sums[i] = sum;
    }
    cluster_sync(); // every CTA has its sums
    for (unsigned i = threadIdx.x; i < 16 * WIDTH; i += 32 * SKINNY_WARPS) {
        float sum = 0;
        for (unsigned c = 0; c < CLUSTER; c++) sum += *cluster_shared(s.sums + i, c);
        unsigned col = i % WIDTH;
        s.xa[i] = from_f32<T>(col < p.r ? p.scale * sum : 0.f);
        if (rank == 0) store_down<T>(p, row0 + i / WIDTH, col, sum);
    }
    // Nobody leaves while another CTA may read its shared memory; and all of xa is there for this CTA's warps.
    cluster_sync();
    for (unsigned block = first; block * 32 < q.cols; block += SKINNY_WARPS * CLUSTER) {
        if (block != first) {
            tile = Up<T, WIDTH / 16, 1>(q, block * 32);
            tile.load_b(q, 0);
            tile.load_out(q, row0);
        }
        tile.multiply(q, s.xa, WIDTH, 0, 16, 0);
        tile.template store<false>(q, row0);
    }
}

#define INSTANTIATE_SKINNY(T, width, ahead)                                                                            \
    extern "C" __global__ void CLUSTER_OF(LORA_SKINNY_CLUSTER) __launch_bounds__(32 * LORA_SKINNY_WARPS)               \
        lora_skinny##width##_##T(const __grid_constant__ LoraSkinnyParams p) {                                         \
        begin_kernel();                                                                                                \
        lora_skinny<T, width, ahead>(p.down, p.up);                                                                    \
    }
#if CLUSTERS
INSTANTIATE_SKINNY(bf16, 16, 2)
INSTANTIATE_SKINNY(f16, 16, 2)
INSTANTIATE_SKINNY(bf16, 32, 2)
INSTANTIATE_SKINNY(f16, 32, 2)
INSTANTIATE_SKINNY(bf16, 64, 1)
INSTANTIATE_SKINNY(f16, 64, 1)
#endif
