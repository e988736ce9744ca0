#pragma once
// What the kernels of lora_down and lora_skinny are made of.
#include "cluster.cuh"
#include "lora.cuh"
#include "sigmoid.cuh"

template <class T>
__device__ __forceinline__ void store_down(const LoraDownParams &p, unsigned row, unsigned col, float v) {
    if (row < p.n && col < p.r) row_of<T>(p.out, row)[col] = from_f32<T>(p.scale * v);
}

// Zeros where x has no row. Where there is no such copy its stride is 0.
template <class T>
__device__ __forceinline__ void store_down_transposed(const LoraDownParams &p, unsigned row, unsigned col, float v) {
    if (row < p.out_t.stride && col < p.r)
        row_of<T>(p.out_t, col)[row] = from_f32<T>(row < p.n ? p.scale * v : 0.f);
}

// A warp's part of the products of 16 TILES tokens with 8 COLS columns of r: it walks over `cols` in runs of 32, AHEAD
// at a time, whose loads are all under way before the first product. A thread's 16 bytes of x are columns 8t .. 8t + 7
// of a run: four lanes read 64 neighbouring bytes of a row. AHEAD is what the registers leave room for, in
// INSTANTIATE_DOWN.
template <class T, int COLS, int TILES> struct Down {
    float acc[TILES][COLS][4] = {};

    // Runs `run`, `run + step` and so on.
    template <bool DROP, int AHEAD>
    __device__ __forceinline__ void add(const LoraDownParams &p, unsigned row0, unsigned r0, unsigned run,
                                        unsigned step) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        Dropout dropout = dropout_of(p.dropout);
        // Rows that do not exist repeat the last one; their sums are not stored.
        const T *x[2 * TILES], *a = static_cast<const T *>(p.a);
        unsigned a_row[COLS];
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++)
            x[i] = row_of<T>(p.x, min(row0 + 8 * i + g, p.n - 1));
#pragma unroll
        for (int j = 0; j < COLS; j++) a_row[j] = min(r0 + 8 * j + g, p.r - 1) * p.cols;
        for (; run * 32 < p.cols; run += step * AHEAD) {
            uint4 xs[AHEAD][2 * TILES], as[AHEAD][COLS];
#pragma unroll
            for (int s = 0; s < AHEAD; s++) {
                unsigned k = min((run + s * step) * 32 + t * 8, p.cols - 8);
#pragma unroll
                for (int i = 0; i < 2 * TILES; i++) xs[s][i] = load16(x[i] + k);
#pragma unroll
                for (int j = 0; j < COLS; j++) as[s][j] = load16(a + (a_row[j] + k));
            }
#pragma unroll
            for (int s = 0; s < AHEAD; s++) {
                unsigned k = (run + s * step) * 32 + t * 8;
#pragma unroll
                for (int i = 0; i < 2 * TILES; i++) {
                    if (DROP) drop8(xs[s][i], dropout, row0 + 8 * i + g, k / 8);
                    // What was loaded beyond the end is the end again.
                    if (k >= p.cols) xs[s][i] = make_uint4(0, 0, 0, 0);
                }
                multiply(xs[s], as[s]);
            }
        }
    }

    // The same of what SwiGLU makes of gate and up, which is stored on the way. AHEAD runs of a warp are neighbours: two of
    // them are whole lines of 128 bytes of each row.
    template <bool DROP, int AHEAD, unsigned WARPS>
    __device__ __forceinline__ void add_swiglu(const SwigluParams &w, const LoraDownParams &p, unsigned row0) {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        Dropout dropout = dropout_of(p.dropout);
        const T *a = static_cast<const T *>(p.a);
        for (unsigned run = threadIdx.x / 32 * AHEAD; run * 32 < p.cols; run += WARPS * AHEAD) {
            uint4 xs[AHEAD][2 * TILES], ups[AHEAD][2 * TILES], as[AHEAD][COLS];
#pragma unroll
            for (int s = 0; s < AHEAD; s++) {
                unsigned k = min((run + s) * 32 + t * 8, p.cols - 8);
#pragma unroll
                for (int i = 0; i < 2 * TILES; i++) {
                    const T *gate = row_of<T>(w.gate_up, min(row0 + 8 * i + g, p.n - 1)) + k;
                    xs[s][i] = load16(gate), ups[s][i] = load16(gate + p.cols);
                }
#pragma unroll
                for (int j = 0; j < COLS; j++) as[s][j] = load16(a + (min(8 * j + g, p.r - 1) * p.cols + k));
            }
#pragma unroll
            for (int s = 0; s < AHEAD; s++) {
                unsigned k = (run + s) * 32 + t * 8;
#pragma unroll
                for (int i = 0; i < 2 * TILES; i++) {
                    unsigned row = row0 + 8 * i + g;
                    Pack<T> &x = reinterpret_cast<Pack<T> &>(xs[s][i]), &up = reinterpret_cast<Pack<T> &>(ups[s][i]);
#pragma unroll
                    for (int e = 0; e < 8; e++) x.v[e] = from_f32<T>(swiglu<T>(to_f32(x.v[e]), to_f32(up.v[e])));
                    if (row < p.n && k < p.cols) store16(row_of<T>(w.out, row) + k, xs[s][i]);
                    if (DROP) drop8(xs[s][i], dropout, row, k / 8);
                    if (k >= p.cols) xs[s][i] = make_uint4(0, 0, 0, 0); // the end again
                }
                multiply(xs[s], as[s]);
            }
        }
    }

    __device__ __forceinline__ void multiply(const uint4 (&x)[2 * TILES], const uint4 (&a)[COLS]) {
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            const uint4 &lo = x[2 * m], &hi = x[2 * m + 1];
            uint32_t first[4] = {lo.x, hi.x, lo.y, hi.y}, second[4] = {lo.z, hi.z, lo.w, hi.w};
#pragma unroll
            for (int j = 0; j < COLS; j++) {
                mma_m16n8k16<T>(acc[m][j], first, a[j].x, a[j].y);
                mma_m16n8k16<T>(acc[m][j], second, a[j].z, a[j].w);
            }
        }
    }

    // Row-major, 16 TILES rows of 8 COLS.
    __device__ __forceinline__ void store(float *sums) const {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < TILES; m++)
#pragma unroll
            for (int j = 0; j < COLS; j++)
#pragma unroll
                for (int q = 0; q < 4; q++)
                    sums[(16 * m + g + q / 2 * 8) * 8 * COLS + 8 * j + 2 * t + q % 2] = acc[m][j][q];
    }
};

// The warps of a CTA share out `cols`, because r gives one CTA too little to do; their sums are added in order.
template <class T, bool DROP, int COLS, int TILES, int WARPS, int AHEAD>
__device__ void down(const LoraDownParams &p, unsigned block) {
    constexpr int ROWS = 16 * TILES, WIDTH = 8 * COLS;
    extern __shared__ float sums[]; // [WARPS][ROWS][WIDTH]
    unsigned warp = threadIdx.x / 32;
    // The CTAs of one set of rows are neighbours, so that x comes from the cache for all but the first.
    unsigned chunks = (p.r + WIDTH - 1) / WIDTH;
    unsigned row0 = block / chunks * ROWS, r0 = block % chunks * WIDTH;
    if (row0 >= max(p.n, p.out_t.stride)) return; // another part has more
    Down<T, COLS, TILES> products;
    products.template add<DROP, AHEAD>(p, row0, r0, warp, WARPS);
    products.store(sums + warp * ROWS * WIDTH);
    __syncthreads(); // all warps' sums are there
    for (unsigned i = threadIdx.x; i < ROWS * WIDTH; i += 32 * WARPS) {
        float sum = 0;
        for (int w = 0; w < WARPS; w++) sum += sums[w * ROWS * WIDTH + i];
        store_down<T>(p, row0 + i / WIDTH, r0 + i % WIDTH, sum);
        sums[i] = sum; // for the transposed copy: no other thread reads this element above
    }
    if (!p.out_t.ptr) return;
    __syncthreads(); // the totals are there, which other threads read across
    for (unsigned i = threadIdx.x; i < ROWS * WIDTH; i += 32 * WARPS) {
        store_down_transposed<T>(p, row0 + i % ROWS, r0 + i / ROWS, sums[i % ROWS * WIDTH + i / ROWS]);
    }
}

// SwiGLU and `down` of its output, for r up to 8 COLS: a CTA has 16 tokens.
template <class T, bool DROP, int COLS, int WARPS, int AHEAD>
__device__ void swiglu_down(const SwigluParams &w, const LoraDownParams &p) {
    constexpr int ROWS = 16, WIDTH = 8 * COLS;
    extern __shared__ float sums[]; // [WARPS][ROWS][WIDTH]
    unsigned row0 = blockIdx.x * ROWS;
    Down<T, COLS, 1> products;
    products.template add_swiglu<DROP, AHEAD, WARPS>(w, p, row0);
    products.store(sums + threadIdx.x / 32 * ROWS * WIDTH);
    __syncthreads(); // all warps' sums are there
    for (unsigned i = threadIdx.x; i < ROWS * WIDTH; i += 32 * WARPS) {
        float sum = 0;
        for (int v = 0; v < WARPS; v++) sum += sums[v * ROWS * WIDTH + i];
        store_down<T>(p, row0 + i / WIDTH, i % WIDTH, sum);
    }
}

#if CLUSTERS
// `down` where CTAs are few: those of a cluster share out `cols`, and then the sums, which they read across.
template <class T, bool DROP, int COLS, int WARPS, int AHEAD>
__device__ void down_cluster(const LoraDownParams &p, unsigned block) {
    constexpr unsigned ROWS = 16, WIDTH = 8 * COLS, CTAS = LORA_DOWN_CLUSTER, SHARE = ROWS * WIDTH / CTAS;
    extern __shared__ float sums[]; // [WARPS][ROWS][WIDTH]
    unsigned warp = threadIdx.x / 32, rank = cluster_rank(), chunks = (p.r + WIDTH - 1) / WIDTH;
    unsigned row0 = block / chunks * ROWS, r0 = block % chunks * WIDTH;
    if (row0 >= max(p.n, p.out_t.stride)) return; // another part has more
    Down<T, COLS, 1> products;
    products.template add<DROP, AHEAD>(p, row0, r0, rank * WARPS + warp, WARPS * CTAS);
    products.store(sums + warp * ROWS * WIDTH);
    __syncthreads(); // all warps' sums are there
    for (unsigned i = threadIdx.x; i < ROWS * WIDTH; i += 32 * WARPS) {
        float sum = 0;
        for (unsigned w = 0; w < WARPS; w++) sum += sums[w * ROWS * WIDTH + i];
        sums[i] = sum; // no other thread reads this element above
    }
    cluster_sync(); // all CTAs' sums are there
    for (unsigned i = threadIdx.x; i < SHARE; i += 32 * WARPS) {
        // The rows of a column are neighbours in the transposed copy.
        unsigned row = (rank * SHARE + i) % ROWS, col = (rank * SHARE + i) / ROWS;
        float sum = 0;
#pragma unroll
        for (unsigned c = 0; c < CTAS; c++) sum += *cluster_shared(sums + row * WIDTH + col, c);
        store_down<T>(p, row0 + row, r0 + col, sum);
        store_down_transposed<T>(p, row0 + row, r0 + col, sum);
    }
    cluster_sync(); // nobody leaves while another CTA may read its shared memory
}
#endif
