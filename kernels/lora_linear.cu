// What a product of many tokens needs to take an adapter along (src/cuda/launch/gemm/lora_linear/operands.rs): columns of xa
// beside x, B beside the weight, or A below it, and the weight itself, decoded. One launch does all, since most take less
// than a launch; so do the sums that d_xa is made of, behind which its place waits for nothing else. All are moved 8
// elements at a time. No CTA reads what another one writes.
#include "dequantize.cuh"
#include "lora_sums.cuh"

// CTAs on a multiprocessor, at least: what hides the memory from those that decode.
constexpr unsigned THREADS = LORA_LINEAR_THREADS, LORA_LINEAR_CTAS = 8, LORA_LINEAR_SUMS_CTAS = 5;
static_assert(THREADS == DEQUANTIZE_THREADS && THREADS == LORA_WEIGHT_GRAD_THREADS, "CTAs of all kinds are in one grid");

template <class T> __device__ __forceinline__ void zero8(T *to) {
#pragma unroll
    for (int i = 0; i < 8; i += VEC<T>) store_pack(to + i, Pack<T>{});
}

// out [rows, cols]: the columns that x has, then zeros.
template <class T> __device__ __forceinline__ void copy_xa(const LoraLinearCopyParams &p, unsigned block) {
    unsigned per_row = p.cols / 8;
    size_t i = size_t(block) * THREADS + threadIdx.x, row = i / per_row;
    if (row >= p.rows) return;
    unsigned col = i % per_row * 8;
    T *to = row_of<T>(p.out, row) + col;
    if (col >= p.used) return zero8(to);
    const T *from = row_of<T>(p.x, row) + col;
#pragma unroll
    for (int j = 0; j < 8; j += VEC<T>) store_pack(to + j, load_pack(from + j));
}

// out [rows, cols]: rows of scale * B where a factor has this row and these columns; else zeros.
template <class T> __device__ __forceinline__ void beside(const LoraLinearFactorsParams &p, unsigned block) {
    unsigned per_row = p.cols / 8, i = block * THREADS + threadIdx.x, row = i / per_row;
    if (row >= p.rows) return;
    T *to = row_of<T>(p.out, row) + i % per_row * 8;
    zero8(to);
    for (unsigned f = 0; f < p.count; f++) {
        const LoraLinearFactor &factor = p.factors[f];
        unsigned own = row + p.first_row - factor.row;
        if (own >= factor.rows) continue;
        const T *from = static_cast<const T *>(factor.ptr) + size_t(own) * factor.r;
        for (unsigned j = 0; j < 8; j++) {
            unsigned col = i % per_row * 8 + j - factor.col;
            if (col < factor.r) to[j] = from_f32<T>(factor.scale * to_f32(from[col]));
        }
    }
}

// out [rows, cols]: row i is row i - col of the A that has it, else zeros.
template <class T> __device__ __forceinline__ void below(const LoraLinearFactorsParams &p, unsigned block) {
    unsigned per_row = p.cols / 8, i = block * THREADS + threadIdx.x, row = i / per_row, col = i % per_row * 8;
    if (row >= p.rows) return;
    T *to = row_of<T>(p.out, row) + col;
    zero8(to);
    for (unsigned f = 0; f < p.count; f++) {
        const LoraLinearFactor &factor = p.factors[f];
        unsigned own = row - factor.col;
        if (own >= factor.r) continue;
        const T *from = static_cast<const T *>(factor.ptr) + size_t(own) * p.cols + col;
#pragma unroll
        for (int j = 0; j < 8; j += VEC<T>) store_pack(to + j, load_pack(from + j));
    }
}

template <class T> __device__ __forceinline__ void decode(const DequantizeParams &p, unsigned piece) {
    __shared__ Decoder decoder;
    decoder.fill(p.weight);
    __syncthreads();
    decoder.decode<T>(p, piece);
}

#define OPERANDS(name, T)                                                                                              \
    __device__ __forceinline__ void name##_operands_##T(const LoraLinearParams &p, unsigned block) {                   \
        if (block < p.xa_end) return copy_xa<T>(p.xa, block);                                                          \
        if (block < p.factors_end) return name<T>(p.factors, block - p.xa_end);                                        \
        decode<T>(p.decode, block - p.factors_end);                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, LORA_LINEAR_CTAS)                                            \
        lora_linear_##name##_##T(const __grid_constant__ LoraLinearParams p) {                                         \
        begin_kernel();                                                                                                \
        name##_operands_##T(p, blockIdx.x);                                                                            \
    }
#define SUMS_BELOW(T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, LORA_LINEAR_SUMS_CTAS)                                       \
        lora_linear_sums_below_##T(const __grid_constant__ LoraLinearSumsParams p) {                                   \
        begin_kernel();                                                                                                \
        if (blockIdx.x < p.sums_end) out_grad_sum<T>(p.sums, blockIdx.x);                                              \
        else below_operands_##T(p.operands, blockIdx.x - p.sums_end);                                                  \
    }
OPERANDS(beside, bf16)
OPERANDS(beside, f16)
OPERANDS(below, bf16)
OPERANDS(below, f16)
SUMS_BELOW(bf16)
SUMS_BELOW(f16)
