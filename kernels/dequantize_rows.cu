// Rows of heads in 8 bits, back to T. Eight columns for each thread. The bound is the memory.
#include "int8.cuh"
#include "vec8.cuh"

constexpr unsigned THREADS = ELEMENTWISE_THREADS;

template <class T> __device__ void dequantize_rows(const DequantizeRowsParams &p) {
    size_t i = (size_t(blockIdx.x) * THREADS + threadIdx.x) * 8, width = size_t(p.heads) * p.dim;
    if (i >= p.n * width) return;
    size_t row = i / width, column = i % width;
    const int8_t *codes = row_of<int8_t>(p.codes, row) + column;
    T *out = row_of<T>(p.out, row) + column;
    Vec8 v;
    load_codes(v.v, codes, row_of<float>(p.scales, column / p.dim)[row], reinterpret_cast<uintptr_t>(codes) % 8 == 0);
    store8(out, v, 8, aligned16(out, 0));
}
INSTANTIATE(dequantize_rows, DequantizeRowsParams)
