#pragma once
// What outputs of three to eight tokens cannot be above, by the integer products of the tensor cores. The codes are operand A,
// straight from memory as in skinny.cuh: 16 rows, of which lane (g, t) has 16 of each 64 columns of rows g and g + 8. A number
// of x is two digits of 8 bits, 256 high + low, each an operand B of its own, so that sums are exact.
//
// Warps of a CTA share the columns of a tile of rows, 512 for each at a time, where there are so many; else a CTA has several
// tiles. A warp asks for the next 1 KiB of codes as soon as it has multiplied one: 8 KiB are under way.
#include "ptx.cuh"
#include "reduce.cuh"
#include "screen_bounds.cuh"

// Added and taken away again, it leaves the whole number next to one of less than 2^22.
constexpr float NEAREST = 0x1.8p23f;
constexpr unsigned BOUNDS_TOKENS = LINEAR_MAX_TOKENS, BOUNDS_WARPS = SCREEN_THREADS / 32;
static_assert(BOUNDS_WARPS == BOUNDS_TOKENS); // a warp rounds a token

// d += a b with exact sums. a [16, 32]: a[0] is row g, columns 4t to 4t + 3, a[1] row g + 8, a[2] and a[3] the same with 16
// columns more; b [32, 8]: b0 is rows 4t to 4t + 3 of column g, b1 16 rows more; d as of mma_m16n8k16.
__device__ __forceinline__ void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// In dynamic shared memory, and behind it the digits of x.
struct BoundsShared {
    int sums[2][BOUNDS_WARPS][BOUNDS_TOKENS * 16]; // [token][row] of each warp
    Rounded x[BOUNDS_TOKENS];
    float highest[2][BOUNDS_TOKENS];
};
static_assert(sizeof(BoundsShared) == LINEAR_MAX_MMA_SHARED && sizeof(BoundsShared) % 16 == 0);
extern __shared__ __align__(16) char bounds_shared[];

template <class T> struct Bounds {
    static constexpr unsigned BLOCKS = LINEAR_MAX_STEP / 64; // of 64 columns, that a lane has a part of at a time
    const LinearMaxParams &p;
    unsigned shift; // so many twos are the warps that share a tile
    uint4 low[BLOCKS], high[BLOCKS];

    __device__ __forceinline__ explicit Bounds(const LinearMaxParams &p) : p(p) {
        unsigned units = (p.linear.cols + LINEAR_MAX_STEP - 1) / LINEAR_MAX_STEP;
        shift = units > 4 ? 3 : units > 2 ? 2 : units > 1;
    }
    // Computed anew where they are needed: registers are full.
    __device__ __forceinline__ static unsigned warp() { return threadIdx.x / 32; }
    __device__ __forceinline__ static unsigned lane() { return threadIdx.x % 32; }
    __device__ __forceinline__ static unsigned g() { return lane() / 4; }
    __device__ __forceinline__ static unsigned t() { return threadIdx.x % 4; }
    __device__ __forceinline__ unsigned parts() const { return 1u << shift; }
    __device__ __forceinline__ unsigned part() const { return warp() & parts() - 1; } // which of them this one is
    __device__ __forceinline__ unsigned tiles() const { return BOUNDS_WARPS >> shift; } // of a CTA at a time
    __device__ __forceinline__ unsigned tile(unsigned group) const { return group * tiles() + (warp() >> shift); }
    // This lane's codes of a tile from a column on: where, of row g and of row g + 8, and how many columns there are to come. Rows behind the last one are that: nobody looks at what becomes of them.
    struct From {
        size_t low, high;
        unsigned left;

        // Columns behind the last one are not loaded: x is zero there. Volatile, so that each is asked for when its place is
        // free: the compiler puts them all at the end.
        __device__ __forceinline__ void load(unsigned block, uint4 &a, uint4 &b) const {
            asm volatile("{ .reg .pred inside;\n"
                         "setp.lt.u32 inside, %10, %11;\n"
                         "@inside ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%8];\n"
                         "@inside ld.global.cs.v4.u32 {%4, %5, %6, %7}, [%9]; }"
                         : "+r"(a.x), "+r"(a.y), "+r"(a.z), "+r"(a.w), "+r"(b.x), "+r"(b.y), "+r"(b.z), "+r"(b.w)
                         : "l"(low + block * 64), "l"(high + block * 64), "r"(block * 64), "r"(left));
        }
    };
    __device__ __forceinline__ From from(unsigned tile, unsigned col) const {
        unsigned last = p.linear.rows - 1, cols = p.linear.cols, at = col + t() * 16;
        unsigned row = min(tile * 16 + g(), last), high = min(tile * 16 + g() + 8, last) - row;
        size_t low = __cvta_generic_to_global(p.codes) + size_t(row) * cols + at;
        return {low, low + high * cols, at < cols && tile * 16 <= last ? cols - at : 0};
    }
    __device__ __forceinline__ void ask(unsigned group) {
        From own = from(tile(group), part() * LINEAR_MAX_STEP);
#pragma unroll
        for (unsigned i = 0; i < BLOCKS; i++) low[i] = high[i] = uint4{}, own.load(i, low[i], high[i]);
    }

    // Where the digits of 16 columns of a token lie: of a block of 64 first the high ones of all tokens, then the low.
    __device__ __forceinline__ uint4 *place(unsigned block, unsigned digit, unsigned token, unsigned t) const {
        return reinterpret_cast<uint4 *>(bounds_shared + sizeof(BoundsShared)) + ((block * 2 + digit) * p.linear.n + token) * 4 + t;
    }
    // 16 columns of x, of which there are multiples of 16; zeros behind them.
    __device__ __forceinline__ void load_x(const T *x, unsigned col, float (&v)[16]) const {
#pragma unroll
        for (int i = 0; i < 16; i += VEC<T>) {
            Pack<T> pack{};
            if constexpr (sizeof(T) == 2) {
                if (col < p.linear.cols) pack = load_pack(x + col + i);
            } else {
#pragma unroll
                for (int j = 0; j < VEC<T>; j++) pack.v[j] = col < p.linear.cols ? x[col + i + j] : 0.f;
            }
#pragma unroll
            for (int j = 0; j < VEC<T>; j++) v[i + j] = to_f32(pack.v[j]);
        }
    }
    // A warp: x of one token, rounded.
    __device__ __forceinline__ Rounded round(unsigned token) const {
        const T *x = row_of<T>(p.linear.x, token);
        unsigned cols = p.linear.cols, padded = (cols + LINEAR_MAX_STEP - 1) / LINEAR_MAX_STEP * LINEAR_MAX_STEP;
        float v[16], most = 0.f, squares = 0.f, missed = 0.f; // the latter two in units
#pragma unroll 4
        for (unsigned i = lane() * 16; i < padded; i += 32 * 16) {
            load_x(x, i, v);
#pragma unroll
            for (int j = 0; j < 16; j++) most = fmaxf(most, fabsf(v[j]));
        }
        float unit = warp_max(most) / p.levels, inverse = unit > 0.f ? 1.f / unit : 0.f;
#pragma unroll 1
        for (unsigned i = lane() * 16; i < padded; i += 32 * 16) {
            uint4 high, low;
            load_x(x, i, v);
#pragma unroll
            for (int w = 0; w < 4; w++) {
                unsigned whole[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float own = v[w * 4 + j] * inverse, level = own + NEAREST - NEAREST;
                    float miss = fmaf(-level, unit, v[w * 4 + j]) * inverse;
                    squares = fmaf(own, own, squares), missed = fmaf(miss, miss, missed);
                    whole[j] = static_cast<int>(level);
                }
                auto bytes = [&](unsigned add, unsigned from) {
                    unsigned a = __byte_perm(whole[0] + add, whole[1] + add, from | from + 4 << 4);
                    unsigned b = __byte_perm(whole[2] + add, whole[3] + add, from | from + 4 << 4);
                    return __byte_perm(a, b, 0x5410);
                };
                (&low.x)[w] = bytes(0, 0), (&high.x)[w] = bytes(128, 1);
            }
            *place(i / 64, 0, token, i / 16 % 4) = high, *place(i / 64, 1, token, i / 16 % 4) = low;
        }
        return {unit, unit * sqrtf(warp_sum(squares)), unit * sqrtf(warp_sum(missed))};
    }

    // sums[0] of the high digits, sums[1] of the low ones, over this warp's columns; asks for those of the next group.
    __device__ __forceinline__ void multiply(unsigned group, int (&sums)[2][4]) {
        unsigned step = parts() * LINEAR_MAX_STEP, token = min(g(), p.linear.n - 1);
#pragma unroll 1
        for (unsigned col = part() * LINEAR_MAX_STEP; col < p.linear.cols; col += step) {
            bool last = col + step >= p.linear.cols;
            From next = from(tile(last ? group + gridDim.x : group), last ? part() * LINEAR_MAX_STEP : col + step);
            const uint4 *x_at = place(col / 64, 0, token, t());
#pragma unroll
            for (unsigned i = 0; i < BLOCKS; i++) {
                uint32_t first[4] = {low[i].x, high[i].x, low[i].y, high[i].y};
                uint32_t second[4] = {low[i].z, high[i].z, low[i].w, high[i].w};
#pragma unroll
                for (int d = 0; d < 2; d++) {
                    uint4 x = x_at[(i * 2 + d) * p.linear.n * 4];
                    mma_m16n8k32_s8(sums[d], first, x.x, x.y);
                    mma_m16n8k32_s8(sums[d], second, x.z, x.w);
                }
                next.load(i, low[i], high[i]);
            }
        }
    }
    __device__ __forceinline__ void run() {
        BoundsShared &shared = reinterpret_cast<BoundsShared &>(bounds_shared);
        unsigned groups = (p.linear.rows + tiles() * 16 - 1) / (tiles() * 16);
        ask(blockIdx.x); // under way while x is rounded
        if (warp() < p.linear.n) {
            Rounded rounded = round(warp());
            if (lane() == 0) shared.x[warp()] = rounded;
        }
        __syncthreads();
        unsigned token = threadIdx.x / 16 % BOUNDS_TOKENS, odd = 0;
        float most = -INFINITY;
        for (unsigned group = blockIdx.x; group < groups; group += gridDim.x, odd ^= 1) {
            unsigned first = group * tiles() * 16;
            if (threadIdx.x < 3 * tiles() && first + threadIdx.x / 3 * 16 < p.linear.rows) // into L1
                touch(row_of<float>(p.bounds, threadIdx.x % 3) + first + threadIdx.x / 3 * 16);
            int own[2][4] = {};
            multiply(group, own);
#pragma unroll
            for (int i = 0; i < 4; i++)
                shared.sums[odd][warp()][(t() * 2 + i % 2) * 16 + g() + i / 2 * 8] = 256u * own[0][i] + own[1][i];
            __syncthreads(); // one is enough: the next group writes the other half of `sums`
            for (unsigned i = threadIdx.x; i < tiles() * BOUNDS_TOKENS * 16; i += SCREEN_THREADS) {
                unsigned of = i / (BOUNDS_TOKENS * 16), at = i % (BOUNDS_TOKENS * 16), row = first + of * 16 + i % 16;
                if (token >= p.linear.n || row >= p.linear.rows) continue;
                int sum = 0;
#pragma unroll
                for (unsigned w = 0; w < BOUNDS_WARPS; w++)
                    if (w < parts()) sum += shared.sums[odd][(of << shift) + w][at];
                float2 bounds = output_bounds(p, shared.x[token], row, sum);
                row_of<float>(p.linear.out, token)[row] = bounds.y;
                most = fmaxf(most, bounds.x);
            }
        }
#pragma unroll
        for (int o = 8; o > 0; o >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
        if (threadIdx.x % 16 == 0) shared.highest[threadIdx.x / 128][token] = most;
        __syncthreads();
        if (unsigned n = threadIdx.x; n < p.linear.n)
            p.highest[n * gridDim.x + blockIdx.x] = fmaxf(shared.highest[0][n], shared.highest[1][n]);
    }
};
template <class T> __device__ void bounds_mma(const LinearMaxParams &p) { Bounds<T>(p).run(); }
