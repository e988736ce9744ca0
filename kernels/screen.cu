// The largest outputs of a dense weight from half of its bytes: one, or k. `screen` rounds a weight to 8 bits, once. Then, for a token,
// `linear_max_bounds` reads only that, and says of each output what it cannot be above; and `linear_max` computes those that
// may be the largest from the weight itself, by the code of linear.cu. What bounds the error stands in src/ops/screen.rs.
#include "keys.cuh"
#include "params.h"
#include "reduce.cuh"
#include "screen_bounds.cuh"
#include "screen_mma.cuh"
#include "simt.cuh"
#include "skinny.cuh"

constexpr unsigned THREADS = SCREEN_THREADS, WARPS = THREADS / 32;
// ops::LinearMax: what is so much less than the k-th largest output counts as it.
constexpr float MARGIN = 1e-6f;

// v as a multiple of `unit`, so that squares neither overflow nor vanish; the whole number next to it, of NaN the least.
__device__ __forceinline__ float multiple(float v, float unit) { return unit > 0.f ? v / unit : 0.f; }
__device__ __forceinline__ float nearest(float v, float levels) { return fminf(fmaxf(rintf(v), -levels), levels); }

// A CTA for each row.
template <class T> __device__ void screen(const ScreenParams &p) {
    __shared__ float2 shared[32];
    unsigned row = blockIdx.x;
    const T *weight = row_of<T>(p.weight, row);
    signed char *codes = p.codes + size_t(row) * p.cols;
    float most = 0.f;
    for (unsigned i = threadIdx.x; i < p.cols; i += THREADS) most = fmaxf(most, fabsf(to_f32(weight[i])));
    float scale = block_max(most, &shared[0].x) / 127.f;
    float2 squares = {0.f, 0.f}; // of what the codes miss, and of what they are, in scales
    float whole = 0.f;           // of the weight
    for (unsigned i = threadIdx.x; i < p.cols; i += THREADS) {
        float w = multiple(to_f32(weight[i]), scale), code = nearest(w, 127.f);
        codes[i] = static_cast<signed char>(code);
        squares.x += (w - code) * (w - code), squares.y += code * code, whole += w * w;
    }
    squares = block_sum(squares, shared);
    whole = block_sum(whole, &shared[0].x);
    if (threadIdx.x) return;
    row_of<float>(p.bounds, 0)[row] = scale;
    row_of<float>(p.bounds, 1)[row] = scale * (sqrtf(squares.x) + p.cols * SUM_ERROR * sqrtf(whole));
    row_of<float>(p.bounds, 2)[row] = scale * sqrtf(squares.y);
}
INSTANTIATE(screen, ScreenParams)

// ---- bounds of one or two tokens (of more: screen_mma.cuh): a warp takes 8 KiB of the codes at a time, of a few rows, and walks
// over rows. x is in shared memory as integers of 16 bits, so that two codes and two of these are one instruction, and sums
// are exact.

// Where the 16 columns are that a lane takes of 512: in two halves, each of them 16 bytes for each lane one after the other.
__device__ __forceinline__ unsigned place(unsigned column) {
    return column / 512 * 512 + column % 16 / 8 * 256 + column % 512 / 16 * 8 + column % 8;
}

// x of one token, rounded, and what bounds need to know of it.
template <class T>
__device__ __forceinline__ Rounded round_x(const LinearMaxParams &p, unsigned token, short *rounded, float2 *shared) {
    unsigned cols = p.linear.cols, padded = (cols + LINEAR_MAX_STEP - 1) / LINEAR_MAX_STEP * LINEAR_MAX_STEP;
    const T *x = row_of<T>(p.linear.x, token);
    float most = 0.f;
    for (unsigned i = threadIdx.x; i < cols; i += THREADS) most = fmaxf(most, fabsf(to_f32(x[i])));
    float unit = block_max(most, &shared[0].x) / p.levels;
    float2 squares = {0.f, 0.f}; // of x, and of what rounding misses, in units
    for (unsigned i = threadIdx.x; i < padded; i += THREADS) {
        float v = i < cols ? multiple(to_f32(x[i]), unit) : 0.f, level = nearest(v, p.levels);
        rounded[place(i)] = static_cast<short>(level);
        squares.x += v * v, squares.y += (v - level) * (v - level);
    }
    squares = block_sum(squares, shared);
    return {unit, unit * sqrtf(squares.x), unit * sqrtf(squares.y)};
}

// The codes of a warp's rows in a run of columns: 8 KiB.
struct Codes {
    static constexpr unsigned ROWS = 8, STEPS = 16 / ROWS;
    uint4 words[STEPS][ROWS];

    __device__ __forceinline__ void load(const LinearMaxParams &p, unsigned row0, unsigned col0) {
#pragma unroll
        for (unsigned s = 0; s < STEPS; s++) {
            unsigned col = col0 + s * LINEAR_MAX_STEP + threadIdx.x % 32 * 16;
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++) {
                unsigned row = row0 + r;
                bool inside = col < p.linear.cols && row < p.linear.rows;
                const signed char *from = p.codes + size_t(row) * p.linear.cols + col;
                words[s][r] = inside ? __ldcs(reinterpret_cast<const uint4 *>(from)) : uint4{};
            }
        }
    }
    // sums[n][r] += codes of row r times x of token n.
    template <int N>
    __device__ __forceinline__ void multiply(const short *x, unsigned padded, unsigned col0, int (&sums)[N][ROWS]) const {
#pragma unroll
        for (unsigned s = 0; s < STEPS; s++) {
            if (col0 + s * LINEAR_MAX_STEP >= padded) break;
#pragma unroll
            for (int n = 0; n < N; n++) {
                auto from = reinterpret_cast<const int4 *>(x + n * padded + col0 + s * LINEAR_MAX_STEP) + threadIdx.x % 32;
                int4 a = from[0], b = from[32];
#pragma unroll
                for (unsigned r = 0; r < ROWS; r++) {
                    const uint4 &w = words[s][r];
                    int sum = sums[n][r];
                    sum = __dp2a_hi(a.y, int(w.x), __dp2a_lo(a.x, int(w.x), sum));
                    sum = __dp2a_hi(a.w, int(w.y), __dp2a_lo(a.z, int(w.y), sum));
                    sum = __dp2a_hi(b.y, int(w.z), __dp2a_lo(b.x, int(w.z), sum));
                    sums[n][r] = __dp2a_hi(b.w, int(w.w), __dp2a_lo(b.z, int(w.w), sum));
                }
            }
        }
    }
};

template <class T, int N> __device__ void bounds(const LinearMaxParams &p) {
    constexpr unsigned ROWS = Codes::ROWS, RUN = Codes::STEPS * LINEAR_MAX_STEP;
    extern __shared__ __align__(16) short rounded[]; // [N, padded]
    __shared__ float2 shared[32];
    unsigned cols = p.linear.cols, padded = (cols + LINEAR_MAX_STEP - 1) / LINEAR_MAX_STEP * LINEAR_MAX_STEP;
    unsigned groups = (p.linear.rows + ROWS - 1) / ROWS, lane = threadIdx.x % 32;
    unsigned group = blockIdx.x * WARPS + threadIdx.x / 32;
    Codes codes;
    codes.load(p, group * ROWS, 0); // under way while x is rounded
    Rounded of_x[N];
#pragma unroll
    for (int n = 0; n < N; n++) of_x[n] = round_x<T>(p, min(n, p.linear.n - 1), rounded + n * padded, shared);
    float highest[N];
#pragma unroll
    for (int n = 0; n < N; n++) highest[n] = -INFINITY;
    __syncthreads();
    for (; group < groups; group += gridDim.x * WARPS) {
        int sums[N][ROWS] = {};
        for (unsigned col = 0; col < cols; col += RUN) {
            codes.multiply<N>(rounded, padded, col, sums);
            bool last = col + RUN >= cols;
            codes.load(p, last ? (group + gridDim.x * WARPS) * ROWS : group * ROWS, last ? 0 : col + RUN);
        }
        unsigned row = group * ROWS + lane;
#pragma unroll
        for (int n = 0; n < N; n++) {
            int sum = 0;
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++) {
                int all = __reduce_add_sync(~0u, sums[n][r]);
                if (lane == r) sum = all;
            }
            if (lane >= ROWS || row >= p.linear.rows || n >= p.linear.n) continue;
            float2 bounds = output_bounds(p, of_x[n], row, sum);
            row_of<float>(p.linear.out, n)[row] = bounds.y;
            highest[n] = fmaxf(highest[n], bounds.x);
        }
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
        float all = block_max(highest[n], &shared[0].x);
        if (threadIdx.x == 0 && n < p.linear.n) p.highest[n * gridDim.x + blockIdx.x] = all;
    }
}
#define BOUNDS(N)                                                                                                      \
    ENTRY(linear_max_bounds##N, bf16, LinearMaxParams, THREADS, LINEAR_MAX_CTAS, bounds<bf16, N>)                      \
    ENTRY(linear_max_bounds##N, f16, LinearMaxParams, THREADS, LINEAR_MAX_CTAS, bounds<f16, N>)                        \
    ENTRY(linear_max_bounds##N, f32, LinearMaxParams, THREADS, LINEAR_MAX_CTAS, bounds<f32, N>)
BOUNDS(1)
BOUNDS(2)
#define BOUNDS_MMA(T) ENTRY(linear_max_bounds8, T, LinearMaxParams, THREADS, LINEAR_MAX_CTAS, bounds_mma<T>)
BOUNDS_MMA(bf16)
BOUNDS_MMA(f16)
BOUNDS_MMA(f32)

// ---- the outputs that may be the largest. A CTA looks at 512 rows at once, a thread at two of them, makes a list of those of
// which an output may be the largest, and computes them, 16 at a time.

constexpr unsigned LISTED = 2 * THREADS;

// A warp: what the k largest outputs of a token are not below, a little less. CTAs have each found what one output of theirs is
// not below; they are taken in 256 groups, and the k-th largest of the groups' largest is it. It is found a bit at a time, the
// highest first.
__device__ __forceinline__ float least_of(const LinearMaxParams &p, unsigned token) {
    constexpr unsigned GROUPS = 8; // of a lane
    float highest[GROUPS], value = -INFINITY;
#pragma unroll
    for (unsigned g = 0; g < GROUPS; g++) {
        highest[g] = -INFINITY;
        for (unsigned i = g * 32 + threadIdx.x % 32; i < p.ctas; i += GROUPS * 32)
            highest[g] = fmaxf(highest[g], p.highest[token * p.ctas + i]);
        value = fmaxf(value, highest[g]);
    }
    value = warp_max(value);
    if (p.k > 1) {
        unsigned least = 0;
        for (unsigned bit = 1u << 31; bit; bit >>= 1) {
            unsigned count = 0;
#pragma unroll
            for (unsigned g = 0; g < GROUPS; g++) count += key_of(highest[g]) >= (least | bit);
            if (__reduce_add_sync(~0u, count) >= p.k) least |= bit;
        }
        value = least < key_of(-INFINITY) ? -INFINITY : from_key(least);
    }
    return value * (value > 0.f ? 1.f - MARGIN : 1.f + MARGIN);
}

// Rows of the weight by number in a list.
struct ListedRows {
    const unsigned *rows;
    unsigned n;

    __device__ __forceinline__ unsigned operator()(unsigned i) const { return i < n ? rows[i] : ~0u; }
};

template <class T> struct Outputs; // of 16 rows

template <class T> struct Outputs16 {
    Skinny<T, f32, 1> product;

    __device__ __forceinline__ explicit Outputs16(const LinearParams &p) : product(p) {}
    __device__ __forceinline__ void tile(ListedRows rows) { product.ask(rows), product.tile(rows, ListedRows{nullptr, 0}); }
};
template <> struct Outputs<bf16> : Outputs16<bf16> { using Outputs16::Outputs16; };
template <> struct Outputs<f16> : Outputs16<f16> { using Outputs16::Outputs16; };
template <> struct Outputs<f32> {
    const LinearParams &p;

    __device__ __forceinline__ void tile(ListedRows rows) {
        for (unsigned i = threadIdx.x / 32; i < min(rows.n, 16u); i += WARPS)
            simt_row(gemm_of<f32, f32>(p, false), dense_of<f32>(p), rows(i));
    }
};

// Leaves minus infinity for all outputs of a row; whether one of them may be the largest of its token.
__device__ __forceinline__ bool pass_over(const LinearMaxParams &p, unsigned row, const float *least) {
    float above[LINEAR_MAX_TOKENS];
    auto there = [&](unsigned n) { return n < p.linear.n && row < p.linear.rows; };
#pragma unroll
    for (unsigned n = 0; n < LINEAR_MAX_TOKENS; n++) above[n] = there(n) ? row_of<float>(p.linear.out, n)[row] : -INFINITY;
    bool may = false;
#pragma unroll
    for (unsigned n = 0; n < LINEAR_MAX_TOKENS; n++) {
        if (!there(n)) continue;
        may |= !(above[n] < least[n]); // NaN may be anything
        row_of<float>(p.linear.out, n)[row] = -INFINITY;
    }
    return may;
}

template <class T> __device__ void outputs(const LinearMaxParams &p) {
    __shared__ float least[LINEAR_MAX_TOKENS];
    __shared__ unsigned found[LISTED / 32], list[LISTED];
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (unsigned token = warp; token < p.linear.n; token += WARPS) {
        float own = least_of(p, token);
        if (lane == 0) least[token] = own;
    }
    Outputs<T> product{p.linear};
    // Runs of 32 rows are dealt out to CTAs in turn.
    for (unsigned first = blockIdx.x * 32; first < p.linear.rows; first += gridDim.x * LISTED) {
        auto row_of_slot = [&](unsigned i) { return first + (i * WARPS + warp) * gridDim.x * 32 + lane; };
        __syncthreads(); // `least` is there, and what was listed has been computed
        unsigned which[2];
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            which[i] = __ballot_sync(~0u, pass_over(p, row_of_slot(i), least));
            if (lane == 0) found[i * WARPS + warp] = which[i];
        }
        __syncthreads(); // and what is minus infinity is stored before what is computed
        unsigned n = 0, places[2];
        for (unsigned i = 0; i < 2 * WARPS; i++) {
            if (i % WARPS == warp) places[i / WARPS] = n;
            n += __popc(found[i]);
        }
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            if (which[i] >> lane & 1) list[places[i] + __popc(which[i] & (1u << lane) - 1)] = row_of_slot(i);
        }
        __syncthreads();
        unsigned lines = (p.linear.cols * sizeof(T) + 127) / 128;
        for (unsigned i = threadIdx.x; i < min(n, 32u) * lines; i += THREADS) {
            unsigned at = i / lines;
            prefetch_l2(reinterpret_cast<const char *>(row_of<T>(p.linear.weight, list[at])) + (i - at * lines) * 128);
        }
        for (unsigned i = 0; i < n; i += 16) product.tile({list + i, n - i});
    }
}
ENTRY(linear_max, bf16, LinearMaxParams, THREADS, LINEAR_SKINNY8_CTAS, outputs<bf16>)
ENTRY(linear_max, f16, LinearMaxParams, THREADS, LINEAR_SKINNY8_CTAS, outputs<f16>)
ENTRY(linear_max, f32, LinearMaxParams, THREADS, LINEAR_SKINNY8_CTAS, outputs<f32>)
